"""xent's errors as PyTorch's: the exception that torch raises for the same mistake, with torch's names of arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping

#: Torch's names of xent's arguments.
NAMES = {
    "logits": "input",
    "probs": "input",
    "log_probs": "input",
    "student_logits": "input",
    "teacher_logits": "target",
    "targets": "target",
    "class_weight": "weight",
    "sample_weight": "weight",
    r"\.astype\(np\.int64\)": ".long()",
}
#: Of a linear layer, which has a weight of its own.
LAYER = NAMES | {"hidden": "input", "weight": "linear_weight", "bias": "linear_bias"}
#: Torchvision's.
VISION = NAMES | {"logits": "inputs", "targets": "targets"}

#: Arguments of which torch says ValueError if their shapes or values do not fit; of others it is a RuntimeError.
OF_VALUES = {"target", "targets", "reduction"}


def renamed(message: str, names: Mapping[str, str]) -> str:
    """Replace every name at once: one name of torch's is another of xent's."""
    found = "|".join(rf"(?<!\w){name}(?!\w)" for name in names)
    literal = {re.sub(r"\\", "", name): new for name, new in names.items()}
    return re.sub(found, lambda match: literal[match[0]], message)


def as_torch(error: Exception, names: Mapping[str, str]) -> Exception:
    """Return the exception to be raised instead of an IndexError, TypeError or ValueError of xent's."""
    message = renamed(str(error), names)
    if isinstance(error, IndexError):
        return IndexError(message)
    argument = message.partition(":")[0]
    is_value = isinstance(error, ValueError) and argument in OF_VALUES
    return ValueError(message) if is_value else RuntimeError(message)

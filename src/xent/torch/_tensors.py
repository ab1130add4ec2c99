"""Tensors as arrays over the same memory, and back.

NumPy has no bfloat16, so that logits of that dtype are handed over as their bits, which xent reads with
``dtype="bfloat16"``. Of targets and weights it takes real dtypes alone, and those in bfloat16 are converted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]


def array(tensor: Tensor) -> Array:
    """Return a view of a CPU tensor; of bfloat16 as uint16."""
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.detach().view(torch.uint16)
    return tensor.numpy(force=True)


def numbers(tensor: Tensor | None) -> Array | None:
    """Return targets, weights or an upstream gradient, in a dtype that NumPy has."""
    if tensor is None:
        return None
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy(force=True)


def tensor(result: Any, dtype: torch.dtype) -> Tensor:
    """Return an array or a scalar of NumPy as a tensor of this dtype, over the same memory if it has the dtype."""
    found = torch.from_numpy(np.asarray(result))
    if found.dtype is torch.uint16:
        found = found.view(torch.bfloat16)
    return found if found.dtype is dtype else found.to(dtype)


def upstream(grad: Tensor) -> Any:
    """Return an upstream gradient as xent takes it: a number for a loss that is one, else an array."""
    return numbers(grad) if grad.ndim else grad.item()

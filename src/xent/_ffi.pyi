"""Types of the compiled module."""

from typing import Any

handler: Any  # a capsule

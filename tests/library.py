"""The folder of the static library that tests link: where it is installed, or XENT_LIBRARY, the folder of a build."""

from __future__ import annotations

import os
from pathlib import Path

import xent

LIBRARY = Path(os.environ.get("XENT_LIBRARY") or xent.get_library())

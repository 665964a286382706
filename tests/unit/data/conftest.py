"""The tests of this folder import the module of miniature data sets, which lies above it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

"""Ratios to a reference, and the studies behind the figures of the docs; their archives come from the generators of the tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # for `worlds`

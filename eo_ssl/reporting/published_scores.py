"""Scores that others published for a row of ours: what a user's own copy of a data set should reproduce."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SOURCE = (
    "Corley et al. 2024 (arXiv 2305.13456), kNN-5 on EuroSAT's 60/20/20 split, "
    "mean over seeds of the authors' result files"
)
_COLUMNS = [
    (variant, size, normalisation)
    for variant in ("rgb", "ms")
    for size in (64, 224)
    for normalisation in ("divide", "zscore")
]
_RAW_AND_STANDARDISED = """
    imagestats      70.1 76.9  69.7 76.9  70.6 77.2  71.3 77.2  84.7 89.6  86.1 89.6  84.6 89.4  85.8 89.4
    rcf             68.1 68.6  73.8 78.9  67.9 68.3  70.4 76.9  82.7 86.9  86.6 87.6  82.7 86.9  86.5 87.4
    rcf_zca         64.1 68.0  81.5 80.5  46.4 54.9  75.6 77.9  90.3 90.9  90.6 91.1  89.0 89.7  89.6 90.1
    random_resnet50 54.8 55.0  59.9 56.3  71.4 73.8  72.5 72.9  67.8 68.7  75.1 72.9  83.3 84.5  85.9 87.2
"""
"""Per encoder and column the share of right answers in per cent on raw and on standardised features."""
_SCORES = {name: numbers for name, *numbers in map(str.split, _RAW_AND_STANDARDISED.strip().splitlines())}
_TEST_ITEMS = 5400  # of the whole data set; a part of it, or a generated one, is not what was published
_PROTOCOLS = ("knn5", "knn5-standardised")


def find_published_score(row: Mapping[str, Any]) -> float | None:
    """Return the published share of right answers for a row of the EuroSAT grid, None where nobody published one.

    Weight-free encoders only: those numbers depend on no file. Image sizes are those the images were brought to by
    kornia's resizing.
    """
    name, _, variant = str(row["task"]).partition("-")
    encoder = str(row.get("reference") or row["encoder"])
    departure = row.get("departure") or {}
    if (
        (name, row["n_test"]) != ("eurosat", _TEST_ITEMS)
        or encoder not in _SCORES
        or row["protocol"] not in _PROTOCOLS
        or row["amount"] != "all"
    ):
        return None
    normalisation = departure.get("normalisation", "contract")
    size = departure.get("size_px") or 64
    # The contract of an encoder without weights is the z-score of the training images at their own size.
    column = (variant, size, "zscore" if normalisation == "contract" else normalisation)
    if column not in _COLUMNS or (size != 64 and departure.get("resizer") != "kornia"):
        return None
    score = _SCORES[encoder][2 * _COLUMNS.index(column) + _PROTOCOLS.index(row["protocol"])]
    return round(float(score) / 100, 3)

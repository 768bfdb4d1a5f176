"""The preprocessing contract of an encoder, the one way from named physical bands to its input tensor."""

from __future__ import annotations

from eo_ssl.preprocessing.contract import Preprocessing
from eo_ssl.preprocessing.interpolation import MIN_VALID_WEIGHT, resample_masked
from eo_ssl.preprocessing.tags import StatsLike, StreamLike, Tagged

__all__ = ["MIN_VALID_WEIGHT", "Preprocessing", "StatsLike", "StreamLike", "Tagged", "resample_masked"]

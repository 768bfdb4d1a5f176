"""The preprocessing contract of an encoder, the one way from named physical bands to its input tensor."""

from __future__ import annotations

from eo_ssl.preprocessing.amplitude import compute_amplitude, require_backscatter
from eo_ssl.preprocessing.contract import Preprocessing
from eo_ssl.preprocessing.conversion import apply_conversion, parse_conversion
from eo_ssl.preprocessing.input_metadata import describe_input, scale_gsd
from eo_ssl.preprocessing.interpolation import MIN_VALID_WEIGHT, Interpolation, resample_masked
from eo_ssl.preprocessing.physical_values import restore_values
from eo_ssl.preprocessing.tags import CountedStats, StatsLike, StreamLike, Tagged

__all__ = [
    "MIN_VALID_WEIGHT",
    "CountedStats",
    "Interpolation",
    "Preprocessing",
    "StatsLike",
    "StreamLike",
    "Tagged",
    "apply_conversion",
    "compute_amplitude",
    "describe_input",
    "parse_conversion",
    "require_backscatter",
    "resample_masked",
    "restore_values",
    "scale_gsd",
]

"""Pairs of tiles of one place (radar with optical, season with season), how far apart they lie, which to refuse."""

from eo_ssl.pairing.matching import Match, Matching, PairConfig, match
from eo_ssl.pairing.pairs import FILES as PAIR_FILES
from eo_ssl.pairing.pairs import Pairing, PairReport, pair, read_pairs, write_pairs
from eo_ssl.pairing.shift import Shift, ShiftEstimator

__all__ = [
    "PAIR_FILES",
    "Match",
    "Matching",
    "PairConfig",
    "PairReport",
    "Pairing",
    "Shift",
    "ShiftEstimator",
    "match",
    "pair",
    "read_pairs",
    "write_pairs",
]

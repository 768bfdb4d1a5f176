"""The check that co- and cross-polarised backscatter are not exchanged."""

from __future__ import annotations

import numpy as np

from eo_ssl.diagnosis.findings import Finding, clip_ratio, judge
from eo_ssl.diagnosis.sampled_windows import Sample

_GAP_DB, _SPREAD_DB = 7.6, 4.0
"""Median co- minus cross-polarised backscatter over scenes, and its spread: SSL4EO-S12 v1.0 (arXiv 2211.07044) has
-12.55 dB in VV and -20.19 dB in VH. Surfaces return less in the cross polarisation; near the noise floor the two meet
and nothing can be told."""
_LEAST = 200


def check_polarisation(sample: Sample) -> Finding | None:
    """Return whether VV and VH (or HH and HV) are exchanged; None without such a pair in power or decibel."""
    pairs = [pair for pair in (("VV", "VH"), ("HH", "HV")) if set(pair) <= set(sample.bands)]
    if not pairs or not (sample.quantity.is_power or sample.quantity.is_db):
        return None
    own, cross = (sample.pixels()[sample.bands.index(name)].astype(np.float64) for name in pairs[0])
    if sample.quantity.is_power:
        both = (own > 0) & (cross > 0)
        own, cross = 10 * np.log10(own[both]), 10 * np.log10(cross[both])
    if len(own) < _LEAST:
        return Finding(
            kind="polarisation", outcome="cannot tell", llr=0.0, sentence=f"fewer than {_LEAST} pixels with both"
        )
    gap = float(np.median(own - cross))
    llr = clip_ratio(-2 * _GAP_DB * gap / _SPREAD_DB**2)
    outcome, (co, x) = judge(llr), pairs[0]
    sentence = {
        "fine": f"{co} lies above {x}",
        "cannot tell": f"{co} and {x} are too close to say which is which",
    }.get(outcome, f"{co} lies below {x}: the two are exchanged")
    told = outcome in ("wrong", "suspect")
    names = [{co: x, x: co}.get(name, name) for name in sample.file_bands or sample.bands]
    return Finding(
        kind="polarisation",
        outcome=outcome,
        llr=llr,
        sentence=sentence,
        bands=pairs[0] if told else (),
        evidence={f"median {co} - {x} (dB)": round(gap, 2)},
        remedy={"bands": names} if told else {},
    )

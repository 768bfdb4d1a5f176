"""The check of units: scaled once, reflectance and not stored numbers, power and not decibel."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from eo_ssl.diagnosis.findings import CERTAIN, Finding, clip_ratio, judge
from eo_ssl.diagnosis.sampled_windows import Floats, Sample

_LEAST = 200  # valid values below which nothing is said
_BRIGHTNESS = (math.log(0.2), 0.8)
"""Median and standard deviation of ln(reflectance) over scenes: the band means of SSL4EO-S12 (arXiv 2211.07044) lie
between 0.08 and 0.26; deep water comes to 0.03, snow and cloud to 0.9."""
_POWER_DB, _SPREAD_DB = -14.0, 7.0
"""mean backscatter of land and sea in VV and VH, and its spread over pixels, dB (SSL4EO-S12 v1.0: -12.5 +- 5.3 and
-20.2 +- 5.9)"""
_FACTORS = (1e-4, 1e4, 1e-8, 1e8)
"errors met in practice: 10000 forgotten or applied once too often"
_PERCENT = (1e-2, 1e2)
_QUANTUM = 1e-4  # reflectance of one stored unit in Sentinel-2 and HLS products since 2015
_LATTICE_SAYS = 7.0
_ON_LATTICE = 0.99
_SAME_QUANTUM = 0.01  # relative


def check_scale(sample: Sample) -> Finding | None:
    """Return whether reflectance has the size of one, and steps of 0.0001 where the sensor's products have them."""
    if not sample.quantity.is_reflectance:
        return None
    values = _take_ground_values(sample)
    if len(values) < _LEAST:
        return Finding(
            kind="scale", outcome="cannot tell", llr=0.0, sentence=f"fewer than {_LEAST} valid values above zero"
        )
    level = float(np.median(values))
    step = estimate_quantum(sample)
    known = sample.sensor.startswith(("sentinel2", "hls"))
    odd = known and step is not None and abs(step / _QUANTUM - 1) > _SAME_QUANTUM
    ratios = {factor: _score_brightness(level / factor) - _score_brightness(level) for factor in (*_FACTORS, *_PERCENT)}
    if known and step is not None:  # the lattice names its factor and speaks against all others
        ratios = {factor: ratio - _LATTICE_SAYS * (not odd) for factor, ratio in ratios.items()}
        if odd:
            factor = step / _QUANTUM
            ratios[factor] = _score_brightness(level / factor) - _score_brightness(level) + _LATTICE_SAYS
    factor = max(ratios, key=lambda one: ratios[one])
    llr = clip_ratio(ratios[factor])
    evidence: dict[str, object] = {
        "median": float(f"{level:.4g}"),
        "step": None if step is None else float(f"{step:.4g}"),
    }
    return _judge_scale(sample, factor, llr, evidence)


def _judge_scale(sample: Sample, factor: float, llr: float, evidence: dict[str, object]) -> Finding:
    outcome = judge(llr)
    sentence = "values have the size of the declared quantity"
    remedy: dict[str, object] = {}
    if outcome in ("wrong", "suspect"):
        size = f"{factor:,.6g} times too large" if factor > 1 else f"{1 / factor:,.6g} times too small"
        sentence = f"values are {size} for {sample.quantity.value}"
        remedy = {"scale": float(f"{sample.scale / factor:.6g}")}
        evidence = evidence | {"factor": float(f"{factor:.6g}")}
    elif outcome == "cannot tell":
        sentence = "values are possible as declared and under another scale"
    return Finding(kind="scale", outcome=outcome, llr=llr, sentence=sentence, evidence=evidence, remedy=remedy)


def estimate_quantum(sample: Sample) -> float | None:
    """Return the step that the values of most bands are multiples of; None if not quantised (resampled, compressed)."""
    steps = []
    for plane in range(len(sample.bands)):
        values = np.concatenate([window[plane].ravel() for window in sample.windows[:4]]).astype(np.float64)
        step = _estimate_spacing(values[np.isfinite(values)])
        if step is not None:
            steps.append(step)
    if 2 * len(steps) < len(sample.bands):
        return None
    least = float(np.median(steps))
    return least if np.mean(np.abs(np.array(steps) / least - np.rint(np.array(steps) / least)) < 0.02) > 0.5 else None


def _estimate_spacing(values: npt.NDArray[np.float64]) -> float | None:
    """Return the spacing of the distinct values, refined over wider and wider differences; None if there is none."""
    distinct = np.unique(values)
    if len(distinct) < 20:
        return None
    gaps = np.diff(distinct)
    gaps = gaps[gaps > 4 * np.spacing(np.float32(np.abs(distinct).max()))]
    if len(gaps) < 10:
        return None
    step = float(np.percentile(gaps, 10))
    for reach in (10.0, 100.0, 1000.0, math.inf):
        near = distinct[np.abs(distinct - distinct[0]) <= reach * step] - distinct[0]
        counts = np.rint(near / step)
        if counts.any():
            step = float((near * counts).sum() / (counts * counts).sum())
    off = np.abs(distinct / step - np.rint(distinct / step))
    return step if np.mean(off < 0.05) >= _ON_LATTICE else None


def check_unit(sample: Sample) -> Finding | None:
    """Return whether backscatter is in the declared unit, power or decibel, scaled once; None for optical products."""
    quantity = sample.quantity
    if not (quantity.is_power or quantity.is_db):
        return None
    values = sample.pixels().ravel().astype(np.float64)
    if len(values) < _LEAST:
        return Finding(kind="unit", outcome="cannot tell", llr=0.0, sentence=f"fewer than {_LEAST} valid values")
    laws: dict[str, Callable[[npt.NDArray[np.float64]], float]] = {"power": _score_power, "db": _score_decibel}
    own, other = ("power", "db") if quantity.is_power else ("db", "power")
    declared = laws[own](values)
    ratios = {(own, factor): laws[own](values / factor) - math.log(factor) - declared for factor in _FACTORS}
    ratios[other, 1.0] = laws[other](values) - declared
    (law, factor), llr = max(ratios.items(), key=lambda item: item[1])
    evidence: dict[str, object] = {
        "1st to 99th percentile": [float(f"{value:.4g}") for value in np.percentile(values, [1, 99])],
        "negative": f"{100 * np.mean(values < 0):.1f} %",
    }
    if law == own:
        return _judge_scale(sample, factor, clip_ratio(llr), evidence)
    outcome = judge(clip_ratio(llr))
    unit = quantity.in_db if quantity.is_power else quantity.in_power
    told = outcome in ("wrong", "suspect")
    return Finding(
        kind="unit",
        outcome=outcome,
        llr=clip_ratio(llr),
        evidence=evidence,
        remedy={"quantity": unit.value} if told else {},
        sentence=f"values are {unit.value}, not {quantity.value}"
        if told
        else "values have the unit of the declared quantity",
    )


def _score_brightness(level: float) -> float:
    centre, width = _BRIGHTNESS
    return -0.5 * ((math.log(level) - centre) / width) ** 2


def _take_ground_values(sample: Sample) -> Floats:
    """Return the values above zero of the bands that see the ground (not B09, B10)."""
    kept = [k for k, name in enumerate(sample.bands) if name not in ("B09", "B10")] or list(range(len(sample.bands)))
    values = np.concatenate([window[kept].ravel() for window in sample.windows])
    return values[values > 0]


def _score_power(values: npt.NDArray[np.float64]) -> float:
    """Return the mean log-density of linear power: lognormal, small where noise removal left none."""
    positive = values > 0
    width = _SPREAD_DB * math.log(10) / 10
    centre = _POWER_DB * math.log(10) / 10
    safe = np.log(np.where(positive, values, 1.0))
    above = -0.5 * ((safe - centre) / width) ** 2 - safe - math.log(width * math.sqrt(2 * math.pi))
    below = math.log(0.02 / 0.002) - np.abs(values) / 0.002
    return float(np.mean(np.clip(np.where(positive, above, below), -10 * CERTAIN, None)))


def _score_decibel(values: npt.NDArray[np.float64]) -> float:
    """Return the mean log-density of decibels: normal."""
    logs = -0.5 * ((values - _POWER_DB) / _SPREAD_DB) ** 2 - math.log(_SPREAD_DB * math.sqrt(2 * math.pi))
    return float(np.mean(np.clip(logs, -10 * CERTAIN, None)))

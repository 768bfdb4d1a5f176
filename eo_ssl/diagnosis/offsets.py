"""The check that the radiometric offset of Sentinel-2 was taken off exactly once.

From processing baseline 04.00 on (January 2022) stored numbers are 10000 x reflectance + 1000 (ESA, Sentinel-2 Products
Specification Document, RADIO_ADD_OFFSET and BOA_ADD_OFFSET). In codes, 10000 x the reflectance as declared, three
states are compared: nothing left, 1000 left in, 1000 taken off that was never there. Each piece of evidence is a
log-likelihood of the second and third over the first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from eo_ssl.diagnosis.findings import Finding, clip_ratio, judge
from eo_ssl.diagnosis.sampled_windows import Sample

QUANTIFICATION = 10_000.0
STATES = (0.0, 1000.0, -1000.0)
"codes too many"
_FINE_BANDS = ("B02", "B03", "B04", "B08")
_COPIES = 50.0  # pixels of a patch that count as independent
_LEAST_CODES = 200
_STEP = 1024
"""Sen2Cor's 10 m bands hold odd and even codes up to here and even codes only above. Seen in surface products of many
tiles and years, before and after the offset is added, so that the step stands at 1024 or 2024; top-of-atmosphere
products do not show it, nor does B08 of some later surface products: each band is asked whether it has the step."""
_ODD_BELOW, _ODD_ABOVE = (
    (0.25, 0.35, 0.5),
    (0.005,),
)  # shares of odd codes on either side of the step, equally likely each
_DARKEST = ((-50.0, 0.30), (100.0, 0.30), (300.0, 0.20), (700.0, 0.10), (1300.0, 0.08), (3000.0, 0.02))
"""Prior of the 1st percentile of a patch's darkest band: (lower edge in codes, share of patches) up to 10000. A
broad prior: water and shadow near 0, vegetation in red at 200-400, desert above 1000, cloud and snow above 3000."""
_BRIGHTEST_DARK = 10_000.0
_BELOW_ZERO = 40.0  # codes; scale of the exponential fall below -50, where only noise and over-correction reach
_DARK_SAYS = 2.2  # one scene is dark or bright by chance: that no pixel is dark accuses nobody alone
_CIRRUS = (math.log(8.7), 1.36)
"""Median and standard deviation of ln(B10 code): the lognormal law with the mean 22.1 and standard deviation 51.15
published for B10 over SSL4EO-S12 v1.0 (Wang et al., arXiv 2211.07044)."""
_CODEC_PRIOR, _SEEN = 0.5, 1.0 - 1e-6  # that a product has the step, before and after hundreds of even codes were seen
_FEW_ODD = 0.05  # share of odd codes above both steps below which a band has the step
_RARE = -3.0


@dataclass(frozen=True, slots=True)
class ParityCounts:
    """Counts of 10 m codes beside the step at 1024, for the three states."""

    odd: int
    "odd codes above both steps"
    all: int
    between: tuple[tuple[int, int], ...]
    "(odd, all) codes between the true step and the step of the other state, for 1000 left in and 1000 taken off"

    @property
    def stepped(self) -> bool | None:
        """True if the product shows the step of Sen2Cor; None when it has too few codes above it."""
        if self.all < _LEAST_CODES:
            return None
        return self.odd / self.all < _FEW_ODD


def count_parities(sample: Sample) -> ParityCounts | None:
    """Return the parity of the 10 m codes of a surface product, None without whole-numbered codes of such bands."""
    planes = [k for k, name in enumerate(sample.bands) if name in _FINE_BANDS]
    if sample.sensor != "sentinel2_l2a" or not planes:
        return None
    counts = [_count_codes(sample, plane) for plane in planes]
    whole = [item for item in counts if item is not None]
    for wanted in (
        True,
        None,
        False,
    ):  # bands that show the step, else those too dark to say, else those that do not have it
        chosen = [item for item in whole if item.stepped is wanted]
        if chosen:
            odd, total = sum(item.odd for item in chosen), sum(item.all for item in chosen)
            return ParityCounts(odd, total, _add_counts(chosen))
    return None


def _add_counts(counts: list[ParityCounts]) -> tuple[tuple[int, int], ...]:
    sums = np.sum([item.between for item in counts], axis=0).tolist()
    return tuple((int(odd), int(total)) for odd, total in sums)


def _count_codes(sample: Sample, plane: int) -> ParityCounts | None:
    codes = np.concatenate([window[plane].ravel() for window in sample.windows]).astype(np.float64) * QUANTIFICATION
    codes = codes[np.isfinite(codes)]
    whole = np.rint(codes)
    if not len(codes) or np.mean(np.abs(codes - whole) < 0.02) < 0.99:
        return None
    odd = whole.astype(np.int64) % 2 == 1

    def count(low: float, high: float) -> tuple[int, int]:
        inside = (whole > low) & (whole < high)
        return int(np.count_nonzero(odd & inside)), int(np.count_nonzero(inside))

    above = count(_STEP + 1000, math.inf)
    return ParityCounts(*above, (count(_STEP, _STEP + 1000), count(_STEP - 1000, _STEP)))


def score_parity(counts: ParityCounts | None, *, set_share: float | None) -> npt.NDArray[np.float64]:
    """Return the log-likelihoods of the three states from where odd codes end.

    Args:
        counts: of this product.
        set_share: share of the other products of the set that show the step, strictly between 0 and 1; None when too
            few can tell.
    """
    if counts is None or counts.stepped is False:
        return np.zeros(3)
    prior = _CODEC_PRIOR if set_share is None else set_share
    stepped = _SEEN if counts.stepped else prior
    (odd_up, up), (odd_down, down) = counts.between
    shares = ((_ODD_ABOVE, _ODD_BELOW), (_ODD_BELOW, _ODD_BELOW), (_ODD_ABOVE, _ODD_ABOVE))  # up, down, by state
    logs = []
    for in_up, in_down in shares:
        with_step = _score_binomial(odd_up, up, in_up) + _score_binomial(odd_down, down, in_down)
        without = _score_binomial(odd_up, up, (0.5,)) + _score_binomial(odd_down, down, (0.5,))
        logs.append(float(np.logaddexp(math.log(stepped) + with_step, math.log(1 - stepped) + without)))
    return np.array([log - logs[0] for log in logs])


def _score_binomial(odd: int, total: int, shares: tuple[float, ...]) -> float:
    """Return the log-likelihood of ``odd`` out of ``total``, as of at most 50 draws, averaged over ``shares``."""
    if not total:
        return 0.0
    draws = min(float(total), _COPIES)
    part = odd / total
    logs = [draws * (part * math.log(share) + (1 - part) * math.log(1 - share)) for share in shares]
    return float(np.logaddexp.reduce(logs)) - math.log(len(shares))


def score_darkness(level: float) -> npt.NDArray[np.float64]:
    """Return the log-likelihoods of the three states from the 1st percentile (codes) of the darkest band."""
    logs = np.array([_score_dark(level - state) for state in STATES])
    return np.array([min(log, _DARK_SAYS) for log in logs - logs[0]])


def _score_dark(level: float) -> float:
    edges = [edge for edge, _ in _DARKEST] + [_BRIGHTEST_DARK]
    if level < edges[0]:
        first = _DARKEST[0][1] / (edges[1] - edges[0])
        return math.log(first) + (level - edges[0]) / _BELOW_ZERO
    place = min(sum(level >= edge for edge in edges) - 1, len(_DARKEST) - 1)
    return math.log(_DARKEST[place][1] / (edges[place + 1] - edges[place]))


def score_cirrus(level: float) -> npt.NDArray[np.float64]:
    """Return the log-likelihoods of the three states from the 10th percentile (codes) of B10, which sees no ground."""
    centre, width = _CIRRUS
    logs = []
    for state in STATES:
        code = max(level - state, 0.5)
        below = min(level - state, 0.0) / 10.0  # noise reaches a few codes below zero
        logs.append(-0.5 * ((math.log(code) - centre) / width) ** 2 - math.log(code) + below)
    return np.array(logs) - logs[0]


def score_metadata(sample: Sample) -> npt.NDArray[np.float64]:
    """Return the log-likelihoods of the three states from what card and metadata say.

    A card can forget an offset or declare one too many. To find 1000 too few under a declared 0 somebody before must
    have taken it off twice, which is rarer.
    """
    if not sample.listed_as:
        return np.zeros(3)
    rare = np.array([0.0, _RARE if sample.offset else 0.0, 0.0 if sample.offset else _RARE])
    total: npt.NDArray[np.float64] = rare + _score_baseline(sample)
    return total


def _score_baseline(sample: Sample) -> npt.NDArray[np.float64]:
    number = sample.baseline.removeprefix("N").replace("_", ".")
    if not number.replace(".", "", 1).isdigit():
        return np.zeros(3)
    value = float(number) if "." in number else float(number) / 100.0
    if value < 4.0:  # no such product was ever written with an offset
        return np.array([0.0, -8.0, 8.0 if sample.offset else -8.0])
    return np.array([0.0, 2.0 if not sample.offset else -8.0, -2.0 if sample.offset else -8.0])


@dataclass(frozen=True, slots=True)
class Traces:
    """The evidence on the offset in a product's pixels, small enough to hold that of a whole set in memory."""

    declared: Sample
    "without windows"
    valid: int
    "pixels that are valid in all bands"
    darkest: tuple[float, str]
    "least 1st percentile over the bands but B10, in codes, and its band"
    cirrus: float | None
    "10th percentile of B10, in codes"
    codec: ParityCounts | None


def extract_traces(sample: Sample) -> Traces | None:
    """Return the traces of an offset in a sample whose bands and scale are right; None for other sensors."""
    if not sample.sensor.startswith("sentinel2") or not sample.quantity.is_reflectance:
        return None
    codes = sample.pixels() * np.float32(QUANTIFICATION)
    declared = replace(sample, windows=(), borders=())
    if codes.shape[1] < _LEAST_CODES or sample.bands == ("B10",):
        return Traces(declared, 0, (0.0, ""), None, None)
    low = zip(np.percentile(codes, 1, axis=1).tolist(), sample.bands, strict=True)
    darkest = min(pair for pair in low if pair[1] != "B10")
    level = float(np.percentile(codes[sample.bands.index("B10")], 10)) if "B10" in sample.bands else None
    return Traces(declared, codes.shape[1], darkest, level, count_parities(sample))


def check_offset(traces: Traces, *, set_share: float | None = None) -> Finding:
    """Return whether the offset was taken off exactly once.

    Args:
        traces: of the product.
        set_share: share of the other products of the set that show the code step of Sen2Cor, None when unknown.
    """
    if not traces.valid:
        return Finding(
            kind="offset", outcome="cannot tell", llr=0.0, sentence=f"fewer than {_LEAST_CODES} valid pixels"
        )
    level, band = traces.darkest
    parts = {
        "darkest": score_darkness(level),
        "parity": score_parity(traces.codec, set_share=set_share),
        "metadata": score_metadata(traces.declared),
    }
    evidence: dict[str, object] = {"darkest": f"{band} {level:.0f}"}
    if traces.cirrus is not None:
        parts["cirrus"] = score_cirrus(traces.cirrus)
        evidence["B10"] = round(traces.cirrus)
    if traces.codec is not None and any(total for _, total in traces.codec.between):
        evidence["odd 1025-2023"] = _format_share(traces.codec.between[0])
        evidence["odd above 2024"] = _format_share((traces.codec.odd, traces.codec.all))
    total = np.sum(list(parts.values()), axis=0)
    evidence["log ratios"] = {
        name: [round(clip_ratio(float(value)), 1) for value in values[1:]]
        for name, values in parts.items()
        if values.any()
    }
    return _make_finding(traces.declared, total, evidence)


def _format_share(counts: tuple[int, int]) -> str:
    return f"{100 * counts[0] / counts[1]:.1f} %" if counts[1] else "none"


def _make_finding(sample: Sample, total: npt.NDArray[np.float64], evidence: dict[str, object]) -> Finding:
    state = STATES[1] if total[1] >= total[2] else STATES[2]
    llr = clip_ratio(float(max(total[1], total[2])))
    outcome = judge(llr)
    right = sample.offset - state / (QUANTIFICATION * sample.scale)
    if outcome in ("wrong", "suspect"):
        what = "1000 are left in" if state > 0 else "1000 were taken off that were never there"
        sentence = f"of the stored numbers {what}"
    elif outcome == "fine":
        sentence = "the declared offset is right"
        right = sample.offset
    else:
        closer = "with 1000 left in" if state > 0 else "with 1000 taken off too many"
        sentence = (
            "no dark pixel, no cirrus band and no code step that would decide: the values are possible as declared and "
            f"{closer}"
        )
    remedy: dict[str, object] = {}
    if sample.listed_as and outcome != "cannot tell":
        remedy = {"offset_by_file": {sample.listed_as: round(right, 6)}}
    if not sample.declared and outcome != "cannot tell":
        outcome, sentence = "suspect", f"no offset is declared; the pixels say {right:g}"
    return Finding(kind="offset", outcome=outcome, llr=llr, sentence=sentence, evidence=evidence, remedy=remedy)

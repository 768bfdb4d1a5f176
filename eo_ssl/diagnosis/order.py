"""The check of band order: planes of a product compared with the bands of its card by spectra and resolution."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from eo_ssl.diagnosis.endmembers import compute_unmixing_residual, get_endmembers, match_bands
from eo_ssl.diagnosis.findings import TELLING, Finding, Outcome, clip_ratio, judge
from eo_ssl.diagnosis.resolution import score_bands, score_resolution
from eo_ssl.diagnosis.sampled_windows import Sample
from eo_ssl.sensors import Quantity

_BLOCK_PX = 12  # two 60 m pixels of a 10 m grid: what is left has the same resolution in every band
_SPECTRA = 40
_LEAST_SPECTRA = 4
_LEAST_FOR_CORRELATION = 12
_LEAST_BANDS = 4
_STEPS = 13
OFFSET = 0.1  # reflectance: 1000 stored units of processing baselines from 04.00 on
_NEIGHBOURS = tuple(
    tuple(pair.split()) for pair in ["B01 B02", "B04 B05", "B05 B12", "B06 B07", "B07 B8A", "B08 B8A", "B11 B12"]
)
"""Bands that see nearly the same: neighbours in wavelength on one side of the red edge (without green, which leaves
reflect), and B05 with B12, which both darken with leaves and their water. Each predicts the other; a Gaussian tree
along them has the log-likelihood -n/2 ln(1 - r^2) per pair (Chow and Liu, IEEE Transactions on Information Theory 14,
1968, equation 12)."""
_LEAST_REMAINDER = 0.003  # of the variance; below is the rounding of stored numbers
Bands = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Case:
    """The evidence that scores of band orders are computed from."""

    spectra: npt.NDArray[np.float64]
    "[n, plane] reflectance"
    remainders: npt.NDArray[np.float64]
    "[plane, plane] ln(1 - correlation^2)"
    resolutions: npt.NDArray[np.float64]
    top: bool
    shifts: tuple[float, ...] = (0.0,)
    """radiometric offsets, in reflectance, that may still have to be added; an order is judged at the one that suits it
    best"""

    def score(self, bands: Bands) -> float:
        """Return the log-likelihood of the planes being ``bands``; spectra and correlations count as of two pixels."""
        endmembers = get_endmembers(bands, top=self.top)
        return self.bound(bands) - min(
            compute_unmixing_residual(self.spectra + shift, endmembers) for shift in self.shifts
        )

    def bound(self, bands: Bands) -> float:
        """Return what the score can be at most: by resolutions and correlations, with a perfect fit of the spectra."""
        place = {name: k for k, name in enumerate(bands)}
        edges = [(place[a], place[b]) for a, b in _NEIGHBOURS if a in place and b in place]
        return score_bands(self.resolutions, bands) - sum(float(self.remainders[edge]) for edge in edges)

    def gains(self, others: Iterable[Bands], *, over: float) -> dict[Bands, float]:
        """Return the score of each order above ``over``; of those that cannot come near it, the bound."""
        bounds = {other: self.bound(other) - over for other in others}
        return {other: self.score(other) - over if bound > -2 * TELLING else bound for other, bound in bounds.items()}

    def with_shift(self, bands: Bands) -> _Case:
        """Return the case that also considers the offset that makes ``bands`` fit far better, if there is one."""
        for shift in (-OFFSET, OFFSET):
            other = replace(self, shifts=(shift,))
            if other.score(bands) > self.score(bands) + TELLING:
                return replace(self, shifts=(0.0, shift))
        return self


def check_order(sample: Sample) -> Finding | None:
    """Return what the planes say of their order; None for a product without reflectance.

    Every exchange of two bands and every move of one band to another place is compared with the declared order, by how
    well the spectra can be explained by known surfaces and by the resolution that each plane shows. From the best the
    search goes on by exchanges.
    """
    if not sample.quantity.is_reflectance:
        return None
    names = match_bands(sample.sensor, sample.bands)
    spectra = _sample_spectra(sample)
    reason = _explain_silence(names, spectra)
    if reason:
        return Finding(kind="order", outcome="cannot tell", llr=0.0, sentence=reason)
    case = _Case(
        spectra[:_SPECTRA],
        _measure_remainders(spectra),
        score_resolution(sample),
        sample.quantity is Quantity.TOA_REFLECTANCE,
    ).with_shift(names)
    declared = case.score(names)
    scores = case.gains(_list_candidates(names), over=declared)
    best, llr = _climb(case, names, declared, scores)
    outcome: Outcome = judge(llr)
    if outcome in ("wrong", "suspect"):
        return _explain_order(sample, names, best, llr, outcome)
    pairs = [other for other in _list_exchanges(names) if scores[other] > -TELLING]
    alike = ["/".join(name for name, new in zip(names, other, strict=True) if name != new) for other in pairs]
    mistakes = {what: scores[other] for what, other in _list_known_orders(names).items() if other != names}
    possible = [what for what, score in mistakes.items() if score > -TELLING]
    evidence = {
        "not told apart": alike,
        "misfit": round(compute_unmixing_residual(case.spectra, get_endmembers(names, top=case.top)), 2),
    }
    if possible:
        sentence = f"the planes fit the declared order and {' or '.join(possible)} about equally well"
        return Finding(kind="order", outcome="cannot tell", llr=clip_ratio(llr), sentence=sentence, evidence=evidence)
    sentence = "the declared order explains the planes best" + (
        f"; not told apart: {', '.join(alike)}" if alike else ""
    )
    llr = clip_ratio(max(mistakes.values(), default=-TELLING))
    return Finding(kind="order", outcome="fine", llr=llr, sentence=sentence, evidence=evidence)


def reorder(sample: Sample, finding: Finding | None) -> Sample:
    """Return the sample with the band names that the finding proposes, if it calls the declared order wrong."""
    if finding is None or finding.outcome != "wrong":
        return sample
    return sample.named(tuple(finding.evidence["planes are"]))


def _explain_silence(names: Bands, spectra: npt.NDArray[np.float64]) -> str:
    if "" in names or len(names) < _LEAST_BANDS:
        given = ", ".join(name or "another" for name in names)
        return f"an order needs at least {_LEAST_BANDS} bands of known spectra, got {given}"
    if len(spectra) < _LEAST_SPECTRA:
        return f"fewer than {_LEAST_SPECTRA} blocks of {_BLOCK_PX} x {_BLOCK_PX} valid pixels"
    return ""


def _sample_spectra(sample: Sample) -> npt.NDArray[np.float64]:
    """Return up to 400 spectra [n, plane] in random order, each the mean of a wholly valid block of 12 x 12 pixels."""
    means_by_window = []
    for window in sample.windows:
        height, width = (size // _BLOCK_PX * _BLOCK_PX for size in window.shape[1:])
        blocks = window[:, :height, :width].reshape(
            len(window), height // _BLOCK_PX, _BLOCK_PX, width // _BLOCK_PX, _BLOCK_PX
        )
        means = blocks.mean(axis=(2, 4), dtype=np.float64).reshape(len(window), -1).T
        means_by_window.append(means[np.isfinite(means).all(axis=1)])
    spectra = np.concatenate(means_by_window)
    return np.asarray(spectra[np.random.default_rng(0).permutation(len(spectra))[: 10 * _SPECTRA]])


def _measure_remainders(spectra: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return ln(1 - r^2) between the planes, [plane, plane]; 0 where too few spectra make any correlation."""
    if len(spectra) < _LEAST_FOR_CORRELATION:
        return np.zeros((spectra.shape[1], spectra.shape[1]))
    spread = spectra - spectra.mean(axis=0)
    norms = np.sqrt(np.maximum((spread**2).sum(axis=0), 1e-30))
    correlation = (spread.T @ spread) / np.outer(norms, norms)
    return np.asarray(np.log(np.maximum(1.0 - correlation**2, _LEAST_REMAINDER)))


def _list_exchanges(names: Bands) -> Iterator[Bands]:
    for i in range(len(names)):
        for j in range(i + 1, len(names)):
            other = list(names)
            other[i], other[j] = other[j], other[i]
            yield tuple(other)


def _list_moves(names: Bands) -> Iterator[Bands]:
    for name in names:
        rest = [other for other in names if other != name]
        for place in range(len(names)):
            yield tuple(rest[:place] + [name] + rest[place:])


def _list_candidates(names: Bands) -> set[Bands]:
    return ({*_list_exchanges(names), *_list_moves(names), *_list_known_orders(names).values()}) - {names}


def _list_known_orders(names: Bands) -> dict[str, Bands]:
    """Return orders that real sets were published in under another name, by what they are called."""
    known = {"the reverse order": names[::-1]}
    if {"B02", "B04"} <= set(names):
        turn = {"B02": "B04", "B04": "B02"}
        known["red and blue exchanged"] = tuple(turn.get(name, name) for name in names)
    if "B8A" in names and names[-1] != "B8A":  # as EuroSAT is published, and m-eurosat of GEO-Bench after it
        known["B8A last"] = (*(name for name in names if name != "B8A"), "B8A")
    return known


def _climb(case: _Case, names: Bands, declared: float, scores: dict[Bands, float]) -> tuple[Bands, float]:
    """Return the best order found and its score above the declared one."""
    best = max(sorted(scores), key=lambda other: scores[other])
    total = scores[best]
    if total < TELLING:
        return best, total
    for _ in range(_STEPS):
        further = case.gains(_list_exchanges(best), over=declared + total)
        step = max(further, key=lambda other: further[other])
        if further[step] <= TELLING:
            break
        best, total = step, total + further[step]
    return best, total


def _explain_order(sample: Sample, names: Bands, best: Bands, llr: float, outcome: Outcome) -> Finding:
    back = dict(zip(names, sample.bands, strict=True))
    planes = tuple(back[name] for name in best)
    holds = dict(zip(sample.bands, planes, strict=True))
    moved = tuple(name for name, new in holds.items() if name != new)
    pairs = ", ".join(f"{name} holds {holds[name]}" for name in moved)
    called = [what for what, other in _list_known_orders(names).items() if other == best]
    return Finding(
        kind="order",
        outcome=outcome,
        llr=clip_ratio(llr),
        bands=moved,
        sentence=f"the planes are in another order{f' ({called[0]})' if called else ''}: {pairs}",
        evidence={"planes are": list(planes), "gain": round(llr, 1)},
        remedy={"bands": [holds[name] for name in sample.file_bands or sample.bands]},
    )

"""The check of a benchmark's files against its card: bands, unit, and the statistics quoted for them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from eo_ssl.cards import Card
from eo_ssl.diagnosis.examination import examine
from eo_ssl.diagnosis.findings import CERTAIN, TELLING, Finding
from eo_ssl.diagnosis.order import reorder
from eo_ssl.diagnosis.sampled_windows import WINDOW_PX, WINDOWS, Sample
from eo_ssl.errors import UserError, expect
from eo_ssl.manifest import MANIFEST, require
from eo_ssl.sensors import Quantity

Doubles = npt.NDArray[np.float64]
_IMAGES = 256  # largest number looked at
_LEAST_IMAGES = 16  # fewer say too little about a whole set
_SIGMAS = 6.0  # standard errors, over images, that a quoted number may be off
_MEAN_SLACK, _STD_SLACK = 0.05, 0.1
"""part of the standard deviation that mean and standard deviation may be off however many images: a subset is no random
sample"""


_GENERATED = (
    "generated images: only bands, unit and range are compared; "
    "the statistics of the card are those of the published set"
)


class Images(Protocol):
    """Labelled images in physical units, as an evaluation reads them."""

    @property
    def bands(self) -> tuple[str, ...]:
        """Names, in the order of the images."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """Bands, height, width."""
        ...

    def __len__(self) -> int: ...
    def read(self, positions: npt.NDArray[np.int64], out: npt.NDArray[np.float32]) -> None:
        """Fill ``out`` [n, C, H, W]."""
        ...


@dataclass(frozen=True, slots=True)
class _Moments:
    """Per band, physical units: what images show and how sure that is."""

    mean: Doubles
    std: Doubles
    "of all pixels"
    mean_error: Doubles
    std_error: Doubles
    "standard errors with images as the unit of sampling"
    within: Doubles
    "mean of the standard deviations inside single images"

    def misses(self, mean: Doubles, std: Doubles) -> tuple[Doubles, Doubles]:
        """Return how far quoted numbers are off, in units of what is allowed: above 1 is wrong, [band] each."""
        allowed = np.maximum(_SIGMAS * self.mean_error, _MEAN_SLACK * self.std)
        spread = np.maximum(_SIGMAS * self.std_error, _STD_SLACK * self.std)
        return np.abs(mean - self.mean) / allowed, np.abs(std - self.std) / spread

    def fits(self, mean: Doubles, std: Doubles) -> bool:
        """Return whether quoted numbers are those of the images."""
        off = self.misses(mean, std)
        return bool((off[0] <= 1).all() and (off[1] <= 1).all())


def check_card(
    card: Card,
    images: Images,
    *,
    positions: npt.NDArray[np.int64] | None = None,
    count: int = 128,
    generated: bool = False,
) -> tuple[Finding, ...]:
    """Return what images say of the card they were read by: everything `examine` looks at, and the card's statistics.

    Args:
        card: declares bands in file order, quantity, scale, offset, statistics.
        images: read by this card.
        positions: images to look at, those of the training split for statistics of it; None for all.
        count: at most so many of them are read, evenly spaced; up to 256.
        generated: the images are no satellite's (`is_generated`), so that statistics of a published set are not
            compared with them.

    Returns:
        Findings of all outcomes. One that is `wrong` names what to put into the card (`remedy`), unless the files are
        at fault or it takes all images to know.

    Raises:
        UserError: no images, or no positive count.
    """
    try:
        sample = sample_images(card, images, positions=positions, count=count)
    except _Unreadable as error:
        return (Finding(kind="metadata", outcome="wrong", llr=CERTAIN, sentence=str(error)),)
    findings = examine(sample).findings
    if generated:
        return (*findings, _make_finding("cannot tell", _GENERATED)) if card.statistics else findings
    statistics = check_statistics(card, sample, findings, of=len(images) if positions is None else len(positions))
    return (*findings, statistics) if statistics else findings


def is_generated(folder: Path) -> bool:
    """Return whether ``folder`` says that this library generated the images in it."""
    if not (folder / MANIFEST).is_file():
        return False
    try:
        require(folder, "synthetic")
    except UserError:
        return False
    return True


def sample_images(
    card: Card, images: Images, *, positions: npt.NDArray[np.int64] | None = None, count: int = 128
) -> Sample:
    """Return evenly spaced images as the windows of one sample; arguments as of `check_card`.

    Raises:
        UserError: no images, no positive count, or images that the card does not describe.
    """
    chosen = np.arange(len(images), dtype=np.int64) if positions is None else np.asarray(positions, dtype=np.int64)
    expect(
        len(chosen) and count >= 1,
        expected="images to look at",
        got=f"{len(chosen)} and count {count}",
        remedy="name some",
    )
    try:
        stack = _read(images, chosen, count)
    except UserError as error:
        raise _Unreadable(str(error)) from error
    names = card.bands if images.bands == card.bands else images.bands
    # A white roof in 8 bits is 255 in every band and no fill, so borders of uncalibrated images say nothing.
    side = () if card.quantity is Quantity.DN else tuple((True, True, True, True) for _ in stack)
    return Sample(
        card.name,
        card.sensor,
        card.quantity,
        images.bands,
        tuple(stack),
        side,
        card.scale,
        card.offset,
        file_bands=names,
    )


class _Unreadable(UserError):
    """The files are not what the card describes."""


def _read(images: Images, chosen: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.float32]:
    """Return evenly spaced images, no more than an examination holds in memory."""
    pixels = images.shape[1] * images.shape[2]
    most = max(1, min(count, _IMAGES, WINDOWS * WINDOW_PX**2 // pixels))
    rows = chosen[np.unique(np.linspace(0, len(chosen) - 1, most).round().astype(np.int64))]
    out = np.empty((len(rows), *images.shape), dtype=np.float32)
    images.read(rows, out)
    return out


def check_statistics(
    card: Card, sample: Sample, findings: tuple[Finding, ...], *, of: int | None = None
) -> Finding | None:
    """Return what images say of the card's statistics; None where it quotes none.

    Args:
        card: quotes statistics in stored numbers (dn) or in its own quantity.
        sample: images read by this card.
        findings: of `examine` on the sample: a wrong order or scale is put right first, so that one mistake is said
            once.
        of: number of images that the sample was taken from; None for those of the sample.
    """
    quoted = card.statistics
    if quoted is None:
        return None
    if quoted.unit not in ("dn", card.quantity.value):
        return _make_finding(
            "cannot tell", f"statistics in {quoted.unit}, which is neither dn nor {card.quantity.value}"
        )
    if len(sample.windows) < _LEAST_IMAGES:
        return _make_finding(
            "cannot tell", f"{len(sample.windows)} images say too little about the statistics of a set"
        )
    if not len(quoted.mean) == len(quoted.std) == len(card.bands):
        return _make_finding(
            "wrong", f"statistics of {len(quoted.mean)} and {len(quoted.std)} bands for {len(card.bands)} bands"
        )
    places = [card.bands.index(name) for name in sample.bands]
    mean, std = (np.array(values, dtype=np.float64)[places] for values in (quoted.mean, quoted.std))
    if quoted.unit == "dn":
        mean, std = (mean + card.offset) * card.scale, std * abs(card.scale)
    order = next((item for item in findings if item.kind == "order"), None)
    scale = next((item for item in findings if item.kind in ("scale", "unit") and "factor" in item.evidence), None)
    repaired = reorder(sample, order)
    variants = [repaired]
    if scale is not None and scale.outcome == "wrong":  # either the card or the files are off: one mistake, said once
        variants.append(repaired.times(1.0 / float(scale.evidence["factor"])))
    for variant in variants:
        seen = _measure_moments(variant)
        at = [variant.bands.index(name) for name in sample.bands]
        moments = _Moments(*(getattr(seen, key)[at] for key in _Moments.__slots__))
        if moments.fits(mean, std):
            return _make_finding("fine", f"the statistics are those of {len(sample.windows)} images", llr=-CERTAIN)
    return _explain_statistics(card, sample, mean, std, of=len(sample.windows) if of is None else of)


def _measure_moments(sample: Sample) -> _Moments:
    """Return per-band moments of the images of a sample, invalid pixels left out."""
    flat = np.stack([window.reshape(len(sample.bands), -1) for window in sample.windows]).astype(np.float64)
    flat = flat[np.isfinite(flat).any(axis=2).all(axis=-1)]  # images with a pixel in every band
    first, second = np.nanmean(flat, axis=2), np.nanmean(flat**2, axis=2)  # [image, band]
    mean = first.mean(axis=0)
    std = np.sqrt(np.maximum(second.mean(axis=0) - mean**2, 1e-30))
    terms = (second - 2 * mean * first) / (2 * std)  # first-order terms of the standard deviation (Woodruff 1971)
    root = np.sqrt(max(len(flat), 1))
    return _Moments(mean, std, first.std(axis=0) / root, terms.std(axis=0) / root, np.nanstd(flat, axis=2).mean(axis=0))


def _explain_statistics(card: Card, sample: Sample, mean: Doubles, std: Doubles, *, of: int) -> Finding:
    """Return the finding for statistics that are not those of the images, and what they are if that can be said."""
    seen = _measure_moments(sample)
    off_mean, off_std = seen.misses(mean, std)
    worst = [sample.bands[k] for k in np.flatnonzero((off_mean > 1) | (off_std > 1))]
    distance = np.abs(mean[:, None] - seen.mean[None]) / seen.std[None] + np.abs(np.log(std[:, None] / seen.std[None]))
    quoted, planes = linear_sum_assignment(distance)
    turned = planes[np.argsort(quoted)]
    factor = _round_factor(float(np.median(np.concatenate([np.abs(mean / seen.mean), std / seen.std]))))
    moved = turned != np.arange(len(turned))
    remedy: dict[str, Any] = {}
    if len(worst) > 1 and moved.any() and _permute(seen, turned).fits(mean, std):
        order = ", ".join(sample.bands[k] for k in turned)
        sentence = f"the statistics stand in another order than the bands: {order}"
        remedy = _repair_statistics(
            card, sample, mean[np.argsort(turned)], std[np.argsort(turned)], how="in the order of the bands"
        )
    elif seen.fits(mean / factor, std / factor):
        unit = card.statistics.unit if card.statistics else ""
        sentence = f"the statistics are {factor:.4g} times those of the images: another unit than {unit}"
        remedy = _repair_statistics(card, sample, mean / factor, std / factor, how=f"divided by {factor:.4g}")
    elif (off_mean <= 1).all() and bool((np.abs(std - seen.within) <= _STD_SLACK * seen.std).all()):
        sentence = (
            "the standard deviations are means of those inside single images, not those of all pixels: compute them "
            "anew over the whole set"
        )
    else:
        images = (
            f"{len(sample.windows)} images" if of == len(sample.windows) else f"{len(sample.windows)} of {of} images"
        )
        sentence = (
            f"the statistics of {', '.join(worst)} are not those of the {images} looked at: so few prove nothing "
            "about the statistics of a whole set, so keep published ones and ask whether these are its files"
        )
        return _make_finding("suspect", sentence, llr=TELLING, bands=tuple(worst))
    return _make_finding("wrong", sentence, llr=CERTAIN, bands=tuple(worst), remedy=remedy)


def _round_factor(factor: float) -> float:
    """A factor that is a power of ten up to the spread of a sample is that power."""
    whole = 10.0 ** round(np.log10(factor))
    return float(whole) if abs(factor / whole - 1) <= _MEAN_SLACK else factor


def _permute(seen: _Moments, order: npt.NDArray[Any]) -> _Moments:
    return _Moments(*(getattr(seen, key)[order] for key in _Moments.__slots__))


def _repair_statistics(card: Card, sample: Sample, mean: Doubles, std: Doubles, *, how: str) -> dict[str, Any]:
    """Return quoted statistics put right in the card's order and unit; empty when only some of its bands were read.

    They are the numbers of the whole set that the card quotes, never those of the few images looked at.
    """
    if card.statistics is None or set(sample.bands) != set(card.bands):
        return {}
    at = [sample.bands.index(name) for name in card.bands]
    mean, std = mean[at], std[at]
    if card.statistics.unit == "dn":
        mean, std = mean / card.scale - card.offset, std / abs(card.scale)
    new = replace(
        card.statistics,
        mean=tuple(float(f"{value:.10g}") for value in mean),
        std=tuple(float(f"{value:.10g}") for value in std),
        source=f"{card.statistics.source}, {how}",
    )
    return {"statistics": {key: getattr(new, key) for key in ("mean", "std", "unit", "source")}}


def _make_finding(
    outcome: str, sentence: str, *, llr: float = 0.0, bands: tuple[str, ...] = (), remedy: dict[str, Any] | None = None
) -> Finding:
    values: dict[str, Any] = {"outcome": outcome, "sentence": sentence, "bands": bands, "remedy": remedy or {}}
    return Finding(kind="metadata", llr=CERTAIN if outcome == "wrong" else llr, **values)

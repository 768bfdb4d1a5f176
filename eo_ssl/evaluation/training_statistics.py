"""Statistics of a task's training images, per band, in the quantity an encoder works in; test images never enter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eo_ssl.errors import UserError
from eo_ssl.evaluation.sources import ImageSource, Rows, read_images
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import Task
from eo_ssl.preprocessing import Preprocessing, apply_conversion
from eo_ssl.sensors import Quantity, sensor

Floats = npt.NDArray[np.float64]
_BATCH = 256  # images read at once
_SOME = 64  # images looked at to tell a scale
_BINS = 4096  # of the histogram that percentiles are read from: a bin is 1/4096 of the band's range


@dataclass(frozen=True, slots=True)
class TrainStats:
    """Over the valid pixels of the training images, float64 [C] each."""

    count: Floats
    mean: Floats
    std: Floats
    low: Floats
    high: Floats
    p02: Floats
    "2nd percentile, to a bin of 1/4096 of the range; NaN where not asked for"
    p98: Floats
    "98th percentile, likewise"


def compute_train_stats(
    task: Task, train: Rows, bands: Sequence[str], *, convert: Sequence[str] = (), percentiles: bool = False
) -> TrainStats:
    """Return the statistics of the images ``train`` of ``task``.

    Args:
        task: whose sources are read.
        train: positions in the task.
        bands: canonical names, in the order wanted.
        convert: named conversions applied to the values first, such as gamma0->gamma0_db.
        percentiles: whether to read the images once more for percentiles.

    Raises:
        UserError: images that no fold trains with, or a source that lacks a band or has another quantity.
    """
    if not any(np.isin(train, fold.train).all() for fold in task.folds):
        raise UserError(
            f"expected images that a fold of task {task.name} trains with, got others; statistics of test or "
            "validation images never enter"
        )
    key = (train.tobytes(), tuple(bands), tuple(convert), percentiles)
    if key not in task.kept:  # every encoder of a fold asks for the same
        task.kept[key] = _computed(list(_parts(task, train, bands)), len(bands), convert, percentiles)
    found: TrainStats = task.kept[key]
    return found


def check_scale(task: Task, train: Rows, contract: Preprocessing) -> None:
    """Compare some training images with those ``contract`` was made of: a scale applied twice shows in no dark image.

    Raises:
        UserError: their brightest pixel is far below the training means, or power is called decibels.
    """
    source = task.sources[0]
    bands = [band for band in contract.bands if band in source.bands]
    if not bands or (source.sensor, source.quantity) != (contract.sensor, contract.quantity):
        return  # refused by the contract itself, in its own words
    some = train[np.unique(np.linspace(0, len(train) - 1, _SOME).astype(np.int64))]
    stats = compute_train_stats(task, some, bands)
    ends = torch.from_numpy(np.stack([stats.low, stats.high])).float()[:, :, None, None]  # [2, C, 1, 1]
    known = torch.isfinite(ends)
    contract.check_scale(torch.where(known, ends, 0.0), known)


def _computed(parts: Sequence[_Part], bands: int, convert: Sequence[str], percentiles: bool) -> TrainStats:
    count, total, square = (np.zeros(bands) for _ in range(3))
    low, high = np.full(bands, np.inf), np.full(bands, -np.inf)
    for values in _values(parts, convert):  # [C, P]
        valid = torch.isfinite(values)
        wide = torch.where(valid, values, 0.0).double()
        count += valid.sum(dim=1).numpy()
        total += wide.sum(dim=1).numpy()
        square += wide.square().sum(dim=1).numpy()
        low = np.minimum(low, torch.where(valid, values, torch.inf).amin(dim=1).numpy())
        high = np.maximum(high, torch.where(valid, values, -torch.inf).amax(dim=1).numpy())
    known = np.maximum(count, 1)
    std = np.sqrt(np.maximum(square / known - (total / known) ** 2, 0.0))
    p02, p98 = _percentiles(parts, convert, low, high) if percentiles else np.full((2, bands), np.nan)
    return TrainStats(count, total / known, std, low, high, p02, p98)


_Part = tuple[ImageSource, Rows, list[int]]


def _parts(task: Task, train: Rows, bands: Sequence[str]) -> Iterator[_Part]:
    """Each source, the positions wanted of it, and the channel of each band."""
    first = task.sources[0]
    for source, (_, positions) in zip(task.sources, task.by_source(train), strict=True):
        have = sensor(first.sensor).resolve_all(source.bands)
        absent = [band for band in bands if band not in have]
        if absent or source.quantity != first.quantity:
            raise UserError(
                f"expected the same bands and quantity in all sources of task {task.name}, got one without "
                f"{', '.join(absent) or first.quantity.value}; choose streams that agree"
            )
        yield source, positions, [have.index(band) for band in bands]


def _values(parts: Sequence[_Part], convert: Sequence[str]) -> Iterator[Tensor]:
    """Values of some images at a time, [C, P] float32, NaN where invalid."""
    for source, positions, order in parts:
        for start in range(0, len(positions), _BATCH):
            part = positions[start : start + _BATCH]
            values = read_images(source, part)[:, order]
            invalid = ~torch.isfinite(values)
            for name in convert:
                values = apply_conversion(values, name)
            yield values.masked_fill(invalid, torch.nan).transpose(0, 1).flatten(1)


def _percentiles(parts: Sequence[_Part], convert: Sequence[str], low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """2nd and 98th percentile of each band from a histogram over its range."""
    counts = np.zeros((len(low), _BINS))
    for values in _values(parts, convert):
        for band, row in enumerate(values):
            finite = row[torch.isfinite(row)].numpy()
            if not len(finite):
                continue
            counts[band] += np.histogram(finite, bins=_BINS, range=(low[band], high[band]))[0]
    share = np.cumsum(counts, axis=1) / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    middle = low[:, None] + (np.arange(_BINS) + 0.5) / _BINS * (high - low)[:, None]
    found = [np.array([m[np.searchsorted(s, q)] for m, s in zip(middle, share, strict=True)]) for q in (0.02, 0.98)]
    return found[0], found[1]


def list_task_bands(task: Task) -> tuple[str, ...]:
    """Return the bands of the task by canonical name, in the order of its first source."""
    return sensor(task.sources[0].sensor).resolve_all(task.sources[0].bands)


@dataclass(frozen=True, slots=True)
class _Stream:
    sensor: str
    quantity: Quantity
    bands: tuple[str, ...]
    gsd_m: float
    size_px: int


@dataclass(frozen=True, slots=True)
class _Stats:
    quantity: Quantity
    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]


def make_train_contract(task: Task, fold: Fold) -> Preprocessing:
    """Return a contract from the training images of ``fold``: mean and standard deviation per band, power in dB.

    Test images never enter; bands that are constant or never valid in training are left out.
    """
    first, bands = task.sources[0], list_task_bands(task)
    convert = (f"{first.quantity.value}->{first.quantity.in_db.value}",) if first.quantity.is_power else ()
    found = compute_train_stats(task, fold.train, bands, convert=convert)
    usable = [
        i for i in range(len(bands)) if found.count[i] > 0 and found.std[i] > 1e-6 * abs(found.mean[i])
    ]  # rounding
    gsd = [source.gsd_m for source in task.sources]
    contract = Preprocessing.of_stream(
        _Stream(first.sensor, first.quantity, tuple(bands[i] for i in usable), min(gsd), first.shape[1]),
        _Stats(first.quantity.in_db_if_power, found.mean[usable], found.std[usable]),
    )
    return replace(contract, gsd_m=(min(gsd), max(gsd)))

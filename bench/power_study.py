"""Power study of the doctor: mistakes planted in real samples, beside the same number of samples left alone.

A mistake is planted in what a card would read: physical values and band names. That is what a wrong declaration does to
right files.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from eo_ssl.cards import load_card
from eo_ssl.diagnosis import Examination, Sample, examine, sample_product
from eo_ssl.diagnosis.findings import Kind
from eo_ssl.diagnosis.sampled_windows import Floats
from eo_ssl.scene import list_products

Generator = np.random.Generator
Result = Literal["detected", "wrong kind", "suspected", "cannot tell", "missed"]
RESULTS: tuple[Result, ...] = ("detected", "wrong kind", "suspected", "cannot tell", "missed")
_OFFSET = 0.1  # reflectance
_MOST_WINDOWS = 4  # of a sample, so that a whole sensor's tile does not cost more than a patch


@dataclass(frozen=True, slots=True)
class Planting:
    """One kind of mistake."""

    name: str
    kind: Kind
    fits: Callable[[Sample], bool]
    "whether the mistake can be made in a sample"
    plant: Callable[[Sample, Generator], Sample]


@dataclass(frozen=True, slots=True)
class Trial:
    """The doctor's verdict on one sample, planted or left alone."""

    product_id: str
    planting: str
    "empty for a control"
    result: Result | Literal["false alarm", "suspicion", "fine"]
    "of a planting, or of a control"
    part: Literal["design", "held out"]


def assign_part(product_id: str) -> Literal["design", "held out"]:
    """Return which half a product belongs to, by a checksum of its name: thresholds were set on the design half."""
    return "held out" if zlib.crc32(product_id.encode()) % 2 else "design"


def gather_samples(cards: Iterable[str], root: Path, *, most: int) -> list[Sample]:
    """Return samples of the shipped ``cards`` below ``root``, at most ``most`` products of each, evenly spaced.

    Raises:
        UserError: the data of a card are absent.
    """
    samples = []
    for name in cards:
        found = list_products(load_card(name), root, accept_unknown_offset="drop").products
        for place in np.unique(np.linspace(0, len(found) - 1, most).round().astype(int)).tolist():
            sample = sample_product(found[place])
            samples.append(
                replace(sample, windows=sample.windows[:_MOST_WINDOWS], borders=sample.borders[:_MOST_WINDOWS])
            )
    return samples


def run_study(samples: Sequence[Sample], *, plantings: int, seed: int) -> list[Trial]:
    """Return ``plantings`` trials with a mistake, kinds in turn and samples drawn by ``seed``, and as many controls.

    Controls go round all samples; a sample used again is cut elsewhere (shifted and flipped), so that no two controls
    are alike.
    """
    rng = np.random.default_rng(seed)
    trials = []
    for number in range(plantings):
        planting = PLANTINGS[number % len(PLANTINGS)]
        able = [sample for sample in samples if planting.fits(sample)]
        if not able:
            continue
        sample = _vary(able[int(rng.integers(len(able)))], rng)
        planted = planting.plant(sample, rng)
        result = _judge(examine(planted), planting, _name_moved(sample, planted))
        trials.append(Trial(sample.product_id, planting.name, result, assign_part(sample.product_id)))
    for number in range(plantings):
        sample = _vary(samples[number % len(samples)], rng)
        outcome = examine(sample).outcome
        said: dict[str, Literal["false alarm", "suspicion", "cannot tell", "fine"]]
        said = {"wrong": "false alarm", "suspect": "suspicion", "cannot tell": "cannot tell", "fine": "fine"}
        trials.append(Trial(sample.product_id, "", said[outcome], assign_part(sample.product_id)))
    return trials


def tabulate(trials: Iterable[Trial]) -> str:
    """Return the trials as a Markdown table: per planting the shares of the results, then the controls."""
    done = list(trials)
    lines = ["| planted | n | " + " | ".join(RESULTS) + " |", "|---|---|" + "---|" * len(RESULTS)]
    for planting in PLANTINGS:
        lines.append(_format_line(planting.name, [trial for trial in done if trial.planting == planting.name]))
    planted = [trial for trial in done if trial.planting]
    lines += [
        _format_line(f"all, {part}", [trial for trial in planted if trial.part == part])
        for part in ("design", "held out")
    ]
    lines.append(_format_line("all", planted))
    lines += ["", "| controls | n | false alarm | suspicion | cannot tell | fine |", "|---|---|---|---|---|---|"]
    controls = [trial for trial in done if not trial.planting]
    for name, some in (
        ("design", [trial for trial in controls if trial.part == "design"]),
        ("held out", [trial for trial in controls if trial.part == "held out"]),
        ("all", controls),
    ):
        counts = Counter(trial.result for trial in some)
        shares = " | ".join(
            _format_share(counts[result], len(some)) for result in ("false alarm", "suspicion", "cannot tell", "fine")
        )
        lines.append(f"| {name} | {len(some)} | {shares} |")
    return "\n".join(lines)


def _format_line(name: str, trials: Sequence[Trial]) -> str:
    counts = Counter(trial.result for trial in trials)
    return (
        f"| {name} | {len(trials)} | "
        + " | ".join(_format_share(counts[result], len(trials)) for result in RESULTS)
        + " |"
    )


def _format_share(count: int, total: int) -> str:
    return f"{100 * count / total:.0f} %" if total else "-"


def _judge(found: Examination, planting: Planting, moved: str) -> Result:
    """Return what became of a planting; an exchange that the doctor says it cannot tell apart is not missed."""
    own = [finding for finding in found.findings if finding.kind == planting.kind]
    if any(finding.outcome == "wrong" for finding in own):
        return "detected"
    if found.outcome == "wrong":
        return "wrong kind"
    if any(finding.outcome == "suspect" for finding in own):
        return "suspected"
    said = any(
        finding.outcome == "cannot tell" or moved in finding.evidence.get("not told apart", ()) for finding in own
    )
    return "cannot tell" if said else "missed"


def _name_moved(sample: Sample, planted: Sample) -> str:
    pairs = zip(sample.bands, sample.windows[0], planted.windows[0], strict=True)
    return "/".join(name for name, old, new in pairs if not np.array_equal(old, new, equal_nan=True))


def _vary(sample: Sample, rng: Generator) -> Sample:
    """Return the sample flipped and cut by up to a quarter, in multiples of 6 pixels: coarse pixels stay whole."""
    windows, top, left = [], rng.random(), rng.random()
    flip_y, flip_x = rng.random(2) < 0.5
    for window in sample.windows:
        rows, columns = (
            int(6 * int(part * size / 24)) for part, size in zip((top, left), window.shape[1:], strict=True)
        )
        part = window[:, rows:, columns:]
        part = part[:, ::-1] if flip_y else part
        windows.append(np.ascontiguousarray(part[:, :, ::-1] if flip_x else part))
    return replace(sample, windows=tuple(windows))


def _map(sample: Sample, change: Callable[[Floats], npt.NDArray[np.floating]]) -> Sample:
    return replace(sample, windows=tuple(change(window).astype(np.float32) for window in sample.windows))


def _is_sentinel2(sample: Sample) -> bool:
    return sample.sensor.startswith("sentinel2") and sample.quantity.is_reflectance


def _has_all_bands(sample: Sample) -> bool:
    return _is_sentinel2(sample) and len(sample.bands) >= 12


def _is_radar(sample: Sample) -> bool:
    return sample.quantity.is_power or sample.quantity.is_db


def _is_radar_pair(sample: Sample) -> bool:
    return _is_radar(sample) and len(sample.bands) == 2


def _take(sample: Sample, planes: Sequence[int]) -> Sample:
    return _map(sample, lambda window: window[list(planes)])


def _misdeclare_offset(sample: Sample, declared: float) -> Sample:
    """Return what a card reads that declares 0 for a file with 1000, or -1000 for one without; no baseline is known."""
    shift = np.float32(-_OFFSET if declared else _OFFSET)
    return replace(_map(sample, lambda window: window + shift), offset=declared * 1e-4 / sample.scale, baseline="")


def _put_b8a_last(sample: Sample, rng: Generator) -> Sample:
    names = sample.bands
    last = [*(name for name in names if name != "B8A"), "B8A"]
    return _take(sample, [names.index(name) for name in last])


def _exchange_two(sample: Sample, rng: Generator) -> Sample:
    planes = np.arange(len(sample.bands))
    first, second = rng.choice(len(planes), 2, replace=False)
    planes[[first, second]] = planes[[second, first]]
    return _take(sample, planes.tolist())


def _shuffle(sample: Sample, rng: Generator) -> Sample:
    planes = np.arange(len(sample.bands))
    while np.mean(planes == np.arange(len(planes))) > 0.5:
        planes = rng.permutation(len(planes))
    return _take(sample, planes.tolist())


def _put_red_first(sample: Sample, rng: Generator) -> Sample:
    turn = {"B02": "B04", "B04": "B02"}
    return _take(sample, [sample.bands.index(turn.get(name, name)) for name in sample.bands])


def _flatten_band(sample: Sample, rng: Generator) -> Sample:
    plane = int(rng.integers(len(sample.bands)))

    def change(window: Floats) -> Floats:
        out = window.copy()
        out[plane] = np.where(np.isfinite(out[plane]), np.float32(0.1), np.nan)
        return out

    return _map(sample, change)


def _copy_band(sample: Sample, rng: Generator) -> Sample:
    first, second = rng.choice(len(sample.bands), 2, replace=False)
    planes = np.arange(len(sample.bands))
    planes[first] = second
    return _take(sample, planes.tolist())


def _change_unit(sample: Sample, rng: Generator) -> Sample:
    if sample.quantity.is_db:
        return _map(sample, lambda window: 10.0 ** (window / 10.0))
    return _map(sample, lambda window: 10.0 * np.log10(np.maximum(window, 1e-5)))


def _fill_border(sample: Sample, rng: Generator) -> Sample:
    """Fill a slanted strip of every window at the left border with the stored value 0."""
    value = np.float32(sample.offset * sample.scale)
    share = rng.uniform(0.05, 0.4)
    windows = []
    for window in sample.windows:
        rows, columns = np.indices(window.shape[1:])
        windows.append(np.where(columns < share * window.shape[2] * (1 + rows / window.shape[1]) / 1.5, value, window))
    borders = tuple((False, False, True, False) for _ in windows)
    return replace(sample, windows=tuple(windows), borders=borders)


def _has_several_bands(sample: Sample) -> bool:
    return len(sample.bands) > 1


PLANTINGS = (
    Planting(
        "offset of 1000 not declared", "offset", _is_sentinel2, lambda sample, rng: _misdeclare_offset(sample, 0.0)
    ),
    Planting(
        "offset declared, not there", "offset", _is_sentinel2, lambda sample, rng: _misdeclare_offset(sample, -1000.0)
    ),
    Planting("B8A last (EuroSAT, m-eurosat)", "order", _has_all_bands, _put_b8a_last),
    Planting("two bands exchanged", "order", _has_all_bands, _exchange_two),
    Planting("red and blue exchanged", "order", _has_all_bands, _put_red_first),
    Planting("bands shuffled", "order", _has_all_bands, _shuffle),
    Planting("scale forgotten", "scale", _is_sentinel2, lambda sample, rng: sample.times(1e4)),
    Planting("scaled twice", "scale", _is_sentinel2, lambda sample, rng: sample.times(1e-4)),
    Planting("divided by 2750", "scale", _is_sentinel2, lambda sample, rng: sample.times(10_000 / 2750)),
    Planting("dB for power or the reverse", "unit", _is_radar, _change_unit),
    Planting("VV and VH exchanged", "polarisation", _is_radar_pair, lambda sample, rng: _take(sample, [1, 0])),
    Planting("nodata not declared", "nodata", _has_several_bands, _fill_border),
    Planting("one band constant", "constant", _has_several_bands, _flatten_band),
    Planting("one band copied", "duplicate", _has_several_bands, _copy_band),
)

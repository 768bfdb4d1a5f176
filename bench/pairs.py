"""What a shift between two real images is worth: how often unrelated land seems to fit, how often related land is told, and how exactly.

``EO_SSL_DATA=/path/to/samples python -m bench.pairs`` prints the table of ``docs/pairs.md`` (some minutes), ``python -m bench pairs`` its rows.
Tiles are windows of real scenes at random places. Unrelated: two sites, the second turned and mirrored at random, so that a few sites
give many draws. Related: one site, the second image moved by a planted shift of up to 4 px before it is cut.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
import xarray as xr
from scipy import ndimage

from eo_ssl.pairing import PairConfig, Shift, ShiftEstimator

SIZE, TILES, UNRELATED, RELATED = 64, (1, 2, 4, 9), 250, 12
KINDS = (("S1 with S2 L2A, 10 m", "S1RTC", "S2L2A"), ("S2 L1C with L2A, 10 m", "S2L1C", "S2L2A"))
SEED, REACH_PX, CLEAR = 0, 4.0, 0.9
BOUNDS = PairConfig()
Images = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    tiles: int
    pixels: int
    "median over the unrelated draws"
    unrelated: int
    largest: float
    "score of unrelated land"
    false_alarms: int
    related: int
    told: float
    "share of the related draws"
    error_median_px: float
    "distance between the shift found and the planted one, of those told"
    error_95_px: float


def data() -> Path:
    return Path(os.environ.get("EO_SSL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def scenes(kind: str) -> list[Images]:
    """Return the five TerraMesh sites, [C, 224, 224]; numbers as stored, which differ from physical ones by scale and offset only."""
    found = []
    for path in sorted((data() / "terramesh_examples" / kind).glob("*.tif")):
        with rasterio.open(path) as file:
            found.append(file.read().astype(np.float32))
    return found


def moved(image: Images, row: float, col: float) -> Images:
    return np.stack([ndimage.shift(band, (row, col), order=3, mode="nearest") for band in image])


def measured(first: Images, second: Images, tiles: int, rng: np.random.Generator, *, apart: bool) -> Shift:
    """Sum windows at random places: the same in both images, or of each its own when they are ``apart``."""
    estimator = ShiftEstimator(SIZE, search_px=BOUNDS.search_px)
    side = first.shape[1] - SIZE
    for _ in range(tiles):
        y, x = rng.integers(0, side + 1, 2)
        v, u = rng.integers(0, side + 1, 2) if apart else (y, x)
        estimator.add(first[:, y : y + SIZE, x : x + SIZE], second[:, v : v + SIZE, u : u + SIZE])
    return estimator.estimate()


def turned(image: Images, rng: np.random.Generator) -> Images:
    image = np.rot90(image, int(rng.integers(4)), (1, 2))
    return np.ascontiguousarray(image[:, ::-1] if rng.integers(2) else image)


def is_told(shift: Shift, pixels: int = BOUNDS.min_pixels) -> bool:
    return shift.score >= BOUNDS.min_score and shift.pixels >= pixels


def summed(what: str, first: list[Images], second: list[Images], tiles: int) -> Row:
    """Return the row of one sum."""
    rng = np.random.default_rng([SEED, tiles])
    chance = []
    for _ in range(UNRELATED):
        one, other = rng.permutation(len(first))[:2]
        chance.append(measured(first[one], turned(second[other], rng), tiles, rng, apart=True))
    told, related, errors = 0, 0, []
    for one, two in zip(first, second, strict=True):
        own = measured(one, two, 36, rng, apart=False)  # where the site's two images really lie
        for _ in range(RELATED):
            planted = rng.uniform(-REACH_PX, REACH_PX, 2)
            found = measured(one, moved(two, *planted), tiles, rng, apart=False)
            related += 1
            if is_told(found):
                told += 1
                truth = planted + (own.row_px, own.col_px)
                errors.append(float(np.hypot(found.row_px - truth[0], found.col_px - truth[1])))
    return _row(what, tiles, chance, related, told, errors)


def _row(
    what: str,
    tiles: int,
    chance: list[Shift],
    related: int,
    told: int,
    errors: list[float],
    pixels: int = BOUNDS.min_pixels,
) -> Row:
    middle, most = np.percentile(errors, [50, 95]) if errors else (np.nan, np.nan)
    return Row(
        what,
        tiles,
        int(np.median([shift.pixels for shift in chance])),
        len(chance),
        max(shift.score for shift in chance),
        sum(is_told(shift, pixels) for shift in chance),
        related,
        told / related,
        float(middle),
        float(most),
    )


def series() -> list[tuple[Images, Images]]:
    """Return radar and clear optical dates of the four WorldCereal sites, [date, C, 32, 32] at 20 m."""
    found = []
    for path in sorted((data() / "worldcereal_timeseries").glob("*/S2_L2A_20m_*.nc")):
        radar, optical = (
            xr.open_dataset(name, mask_and_scale=False) for name in (next(path.parent.glob("S1_*.nc")), path)
        )
        clear = ~np.isin(optical["SCL"].values, (0, 1, 3, 8, 9, 10))
        power = np.stack([radar[band].values for band in ("VV", "VH")], axis=1).astype(np.float32)
        power[power == 0] = np.nan
        values = np.stack([optical[band].values for band in ("B05", "B06", "B07", "B8A", "B11", "B12")], axis=1)
        found.append((power, values[clear.mean(axis=(1, 2)) >= CLEAR].astype(np.float32)))
    return found


def dates(pixels: int) -> Row:
    """Return the row of one place seen on 24 dates: the ground stays the same, and speckle and fields change."""
    places, number, rng = series(), 24, np.random.default_rng(SEED)

    def summed_dates(first: Images, second: Images) -> Shift:
        estimator = ShiftEstimator(first.shape[-1], search_px=BOUNDS.search_px, same_ground=True)
        for k in range(number):
            estimator.add(first[k], second[k])
        return estimator.estimate()

    chance = [
        summed_dates(
            places[a][0], np.stack([np.rot90(image[:, ::mirror], turn, (1, 2)) for image in places[b][1][:number]])
        )
        for a in range(len(places))
        for b in range(len(places))
        if a != b
        for turn in range(4)
        for mirror in (1, -1)
    ]
    told, related, errors = 0, 0, []
    for radar, optical in places:
        own = summed_dates(radar, optical)
        for _ in range(RELATED):
            planted = rng.integers(-2, 3, 2)
            second = np.roll(
                optical[:number], tuple(planted), axis=(2, 3)
            )  # what comes in from the other side is cut away
            second[:, :, : max(planted[0], 0)] = second[:, :, 32 + min(planted[0], 0) :] = np.nan
            second[:, :, :, : max(planted[1], 0)] = second[:, :, :, 32 + min(planted[1], 0) :] = np.nan
            found = summed_dates(radar, second)
            related += 1
            if is_told(found, pixels):
                told += 1
                errors.append(
                    float(np.hypot(found.row_px - planted[0] - own.row_px, found.col_px - planted[1] - own.col_px))
                )
    return _row("S1 with S2 L2A, 20 m, one place", number, chance, related, told, errors, pixels)


def run() -> Iterator[dict[str, object]]:
    for what, first, second in KINDS:
        images = scenes(first), scenes(second)
        for tiles in TILES:
            yield {"name": "pairs/shift", **asdict(summed(what, *images, tiles))}
    yield {"name": "pairs/shift", **asdict(dates(pixels=512))}


def main() -> None:
    print(
        "| images | tiles | pixels | unrelated: draws | largest score | told | related: draws | told | error, median px | 95 % |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for line in run():
        row = Row(**{key: value for key, value in line.items() if key != "name"})  # type: ignore[arg-type]
        errors = (
            "| – | – |" if np.isnan(row.error_median_px) else f"| {row.error_median_px:.2f} | {row.error_95_px:.2f} |"
        )
        print(
            f"| {row.what} | {row.tiles} | {row.pixels:,} | {row.unrelated} | {row.largest:.1f} | {row.false_alarms} "
            f"| {row.related} | {row.told:.0%} {errors}",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""Acquisitions that come twice, and decoys that only look like it: products whose every tile has a known answer.

Each scene (a piece of ground at one time) becomes a product of its own and others derived from it, of one kind each. What
has to go follows from the ground that two tiles of one acquisition share, looked up pixel centre by pixel centre with
pyproj (`list_true_overlaps`), and from the order of what stays, by plain loops (`expect_dropped`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyproj
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject
from scipy import ndimage

from eo_ssl.cards import Card
from eo_ssl.sample import ArchiveSpec
from eo_ssl.sample.product_plans import plan_archive
from eo_ssl.sample.radar import POLARISATIONS
from eo_ssl.sample.spec import SITES
from eo_ssl.sample.truth import render_product
from eo_ssl.scene import Acquisition
from fake_scenes import FakeProduct, card

Images = npt.NDArray[np.float32]
BANDS = ("B02", "B03", "B04", "B08")
NO_COPIES = {"exact_duplicates": 0, "near_duplicates": 0, "reprocessed": 0}
DECOYS = ("next date", "little shared", "other satellite", "other ground", "other looks")
"""Kinds that no tile of may go for."""
NOISE = 0.001  # of a reprocessed product, beside its gain and offset
WATER = 0.03, 0.0012  # mean and noise of a band of flat water


@dataclass(frozen=True, eq=False)
class Ground:
    """What one acquisition saw of one place."""

    name: str
    image: Images
    "[C, y, x] reflectance or linear power"
    epsg: int
    left: float
    top: float
    pixel_m: float
    looks: float = 0.0
    "of the speckle, 0 for optical images"


@dataclass(frozen=True)
class World:
    """Products, and of each what it is."""

    products: list[FakeProduct] = field(default_factory=list)
    kinds: dict[str, str] = field(default_factory=dict)
    "product id -> kind"
    acquisitions: dict[str, str] = field(default_factory=dict)
    "product id -> what it is of; products with other pixels of the same time are of another"
    grids: dict[str, tuple[int, Affine]] = field(default_factory=dict)

    def add(
        self,
        ground: Ground,
        kind: str,
        when: datetime,
        *,
        acquisition: str,
        baseline: str = "05.09",
        satellite: str = "A",
    ) -> None:
        """Add a product of ``ground`` as it is, under a name of its own."""
        radar = ground.looks > 0
        name = f"{ground.name}/{kind}/{len(self.products):04d}"
        transform = Affine(ground.pixel_m, 0, ground.left, 0, -ground.pixel_m, ground.top)
        facts = Acquisition(f"{when:%Y-%m-%dT%H:%M:%SZ}", "" if radar else baseline, "descending", 0.0)
        where = {
            "crs": f"EPSG:{ground.epsg}",
            "transform": tuple(transform)[:6],
            "platform": f"S{1 if radar else 2}{satellite}",
            "relative_orbit": 22,
        }
        image = ground.image if radar else np.rint(ground.image * 1e4) / 1e4
        self.products.append(
            FakeProduct(name, _describe(ground, radar), image.astype(np.float32), where=where, acquisition=facts)
        )
        self.kinds[name], self.acquisitions[name], self.grids[name] = kind, acquisition, (ground.epsg, transform)


def _describe(ground: Ground, radar: bool) -> Card:
    if radar:
        facts: dict[str, Any] = {"sensor": "sentinel1_rtc", "bands": POLARISATIONS, "quantity": "gamma0"}
    else:
        facts = {"bands": BANDS}
    return card(f"{'radar' if radar else 'optical'} {ground.pixel_m:g} m", labels=None, gsd_m=ground.pixel_m, **facts)


def draw_grounds(*, sites: int, dates: int, size_px: int, seed: int = 0) -> tuple[list[Ground], list[Ground]]:
    """Return optical scenes of the sample archive (cloudy ones too) and flat water, and its radar scenes."""
    spec = ArchiveSpec(sites=sites, dates=dates, size_px=size_px, edge_share=0.0, saturated=0, **NO_COPIES)
    optical, radar = [], []
    for plan in plan_archive(seed, spec):
        place, scene = SITES[plan.site_index], render_product(seed, spec, plan)
        where = (place.epsg, place.left_m, place.top_m, 10.0)
        name = f"{plan.site}-{plan.date_index}"
        if plan.sensor == "sentinel2_l2a":
            optical.append(Ground(name, np.stack([scene.reflectance[band] for band in BANDS]), *where))
        else:
            power = np.stack([scene.observed[band] for band in POLARISATIONS]).astype(np.float32)
            radar.append(Ground(name, power, *where, looks=spec.looks))
    rng = np.random.default_rng([seed, 7])
    water = np.full((len(BANDS), size_px, size_px), WATER[0]) + WATER[1] * rng.standard_normal(
        (len(BANDS), size_px, size_px)
    )
    optical.append(Ground("water-0", water.astype(np.float32), 32632, 300000.0, 4800000.0, 10.0))
    return optical, radar


def plant_optical(
    world: World, grounds: Sequence[Ground], *, tile_px: int, zone_tiles: int = 12, seed: int = 0
) -> None:
    """Add to ``world`` each ground as a product and in every kind of repeat and decoy."""
    for number, ground in enumerate(grounds):
        rng = np.random.default_rng([seed, 1, number])
        when = datetime(2023, 5, 1, 10, 30, tzinfo=UTC) + timedelta(days=17 * number)
        side = ground.image.shape[1] // 2 // tile_px * tile_px
        whole, half = _cut(ground, 0, 0, side), side // 2 // tile_px * tile_px
        world.add(whole, "original", when, acquisition=ground.name)
        after = when + timedelta(seconds=7)
        if number % 3 == 0:
            world.add(_toned(_cut(ground, 0, half, side), rng), "strip", after, acquisition=ground.name)
        elif number % 3 == 1:
            strip = _cut(ground, 0, half + round(0.1875 * tile_px), side)  # 13 of 16 columns in common
            world.add(_toned(strip, rng), "shifted strip", after, acquisition=ground.name)
        else:
            strip = _warped(ground, ground.epsg, (3.4, half + 0.3), side)
            world.add(_toned(strip, rng), "strip on another grid", after, acquisition=ground.name)
        for row, col in [(k % 3, k // 3) for k in range(zone_tiles)]:
            corner = (row * tile_px + rng.uniform(-1.5, 1.5), col * tile_px + rng.uniform(-1.5, 1.5))
            small = _warped(ground, _neighbour_zone(ground.epsg), corner, tile_px)
            world.add(_toned(small, rng), "other zone", after, acquisition=ground.name)
        again = _noisy(_toned(whole, rng), NOISE, rng)
        world.add(again, "reprocessed", when, acquisition=ground.name, baseline="05.10")
        moved = np.stack([ndimage.shift(band, (1.3, -0.7), order=3, mode="nearest") for band in ground.image])
        moved_px = _noisy(_cut(replace(ground, image=moved.astype(np.float32)), side, 0, side), NOISE, rng)
        below = _cut(ground, side, 0, side)
        world.add(below, "original", when, acquisition=f"{ground.name} below")
        world.add(moved_px, "reprocessed and moved", when, acquisition=f"{ground.name} below", baseline="05.10")
        _plant_decoys(world, grounds, number, whole, when, rng, tile_px)


def _plant_decoys(
    world: World,
    grounds: Sequence[Ground],
    number: int,
    whole: Ground,
    when: datetime,
    rng: np.random.Generator,
    tile_px: int,
) -> None:
    ground, side = grounds[number], whole.image.shape[1]
    later = _noisy(whole, NOISE, rng)  # as alike as a season can be
    world.add(later, "next date", when + timedelta(days=5), acquisition=f"{ground.name} later")
    beside = _cut(ground, 0, round(0.7 * tile_px), side)  # three tenths in common, each
    world.add(_toned(beside, rng), "little shared", when + timedelta(seconds=7), acquisition=ground.name)
    tandem = _noisy(whole, NOISE, rng)
    seconds = timedelta(seconds=30)
    world.add(tandem, "other satellite", when + seconds, acquisition=f"{ground.name} tandem", satellite="C")
    if ground.name.startswith("water"):
        return  # flat water looks like flat water: with a wrong place nothing could tell
    textured = [one for one in grounds if not one.name.startswith("water")]
    foreign = textured[(number + 1) % len(textured)].image[:, -side:, -side:]
    elsewhere = replace(whole, image=foreign)
    world.add(elsewhere, "other ground", when + timedelta(seconds=9), acquisition=f"{ground.name} misplaced")


def plant_radar(world: World, grounds: Sequence[Ground], *, tile_px: int, seed: int = 0) -> None:
    """Add to ``world`` each ground as a product, in slices that overlap, on another grid, and as other looks or dates."""
    for number, ground in enumerate(grounds):
        rng = np.random.default_rng([seed, 2, number])
        when = datetime(2023, 5, 1, 5, 40, tzinfo=UTC) + timedelta(days=17 * number)
        side = ground.image.shape[1] // 2 // tile_px * tile_px
        whole, half = _cut(ground, 0, 0, side), side // 2 // tile_px * tile_px
        world.add(whole, "original", when, acquisition=ground.name)
        after = when + timedelta(seconds=25)
        if number % 2 == 0:
            slice_ = _cut(ground, half, 0, side)
            noise = 1 + 0.01 * rng.standard_normal(slice_.image.shape)
            world.add(
                replace(slice_, image=(slice_.image * noise).astype(np.float32)),
                "slice",
                after,
                acquisition=ground.name,
            )
        else:
            world.add(
                _warped(ground, ground.epsg, (half + 0.5, 2.5), side),
                "slice on another grid",
                after,
                acquisition=ground.name,
            )
        speckle = rng.gamma(ground.looks, 1 / ground.looks, ground.image.shape)
        smooth = ndimage.gaussian_filter(ground.image, (0, 1.5, 1.5))  # the ground without its speckle
        looks = _cut(replace(ground, image=(smooth * speckle).astype(np.float32)), 0, 0, side)
        world.add(looks, "other looks", when + timedelta(seconds=3), acquisition=f"{ground.name} other burst")
        world.add(whole, "next date", when + timedelta(days=6), acquisition=f"{ground.name} later")


def _cut(ground: Ground, row: int, col: int, side: int) -> Ground:
    """Return the square of ``side`` pixels with that upper left corner."""
    return replace(
        ground,
        image=np.ascontiguousarray(ground.image[:, row : row + side, col : col + side]),
        left=ground.left + col * ground.pixel_m,
        top=ground.top - row * ground.pixel_m,
    )


def _toned(ground: Ground, rng: np.random.Generator) -> Ground:
    """Return the ground with a gain and an offset per band, as another atmospheric correction gives."""
    gain = 1 + 0.02 * rng.standard_normal((len(ground.image), 1, 1))
    offset = 0.001 * rng.standard_normal((len(ground.image), 1, 1))
    return replace(ground, image=(ground.image * gain + offset).astype(np.float32))


def _noisy(ground: Ground, sigma: float, rng: np.random.Generator) -> Ground:
    return replace(ground, image=(ground.image + sigma * rng.standard_normal(ground.image.shape)).astype(np.float32))


def _neighbour_zone(epsg: int) -> int:
    return epsg - 1 if epsg % 100 > 1 else epsg + 1


def _warped(ground: Ground, epsg: int, corner: tuple[float, float], side: int) -> Ground:
    """Return ``side`` pixels of another grid, its upper left corner near pixel ``corner`` (row, column) of the ground."""
    here = pyproj.Transformer.from_crs(ground.epsg, epsg, always_xy=True)
    middle = [value + side / 2 for value in corner]
    x, y = here.transform(ground.left + middle[1] * ground.pixel_m, ground.top - middle[0] * ground.pixel_m)
    half = side * ground.pixel_m / 2
    target = Affine(ground.pixel_m, 0, x - half, 0, -ground.pixel_m, y + half)
    out = np.empty((len(ground.image), side, side), dtype=np.float32)
    reproject(
        ground.image,
        out,
        src_transform=Affine(ground.pixel_m, 0, ground.left, 0, -ground.pixel_m, ground.top),
        src_crs=f"EPSG:{ground.epsg}",
        dst_transform=target,
        dst_crs=f"EPSG:{epsg}",
        src_nodata=np.nan,
        dst_nodata=np.nan,
        resampling=Resampling.cubic if not ground.looks else Resampling.bilinear,
    )
    return replace(ground, image=out, epsg=epsg, left=target.c, top=target.f)


def list_true_overlaps(world: World, index: pa.Table) -> Iterator[tuple[int, int, float]]:
    """Yield (row, other row, share of the row's pixel centres in the other) of tiles of one acquisition that share some.

    A loop over all their pairs; the centres are brought into the other's system by pyproj.
    """
    columns = {name: index[name].to_pylist() for name in ("product_id", "row_off", "col_off", "height", "width")}
    together: dict[str, list[int]] = {}
    for row, name in enumerate(columns["product_id"]):
        together.setdefault(world.acquisitions[name], []).append(row)
    outlines = [
        (row, col, row + high, col + wide)
        for row, col, high, wide in zip(
            *(columns[name] for name in ("row_off", "col_off", "height", "width")), strict=True
        )
    ]
    for one, name in enumerate(columns["product_id"]):
        epsg, affine = world.grids[name]
        r0, c0, r1, c1 = outlines[one]
        cols, rows = np.meshgrid(np.arange(c0, c1) + 0.5, np.arange(r0, r1) + 0.5)
        x, y = affine.c + affine.a * cols, affine.f + affine.e * rows  # all grids are north up
        for two in together[world.acquisitions[name]]:
            if one == two:
                continue
            other_epsg, other_affine = world.grids[columns["product_id"][two]]
            there = (x, y) if epsg == other_epsg else _transformer(epsg, other_epsg).transform(x, y)
            col, row = (there[0] - other_affine.c) / other_affine.a, (there[1] - other_affine.f) / other_affine.e
            top, left, bottom, right = outlines[two]
            share = float(((row >= top) & (row < bottom) & (col >= left) & (col < right)).mean())
            if share > 0:
                yield one, two, share


@lru_cache
def _transformer(epsg: int, other: int) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(epsg, other, always_xy=True)


def expect_dropped(
    overlaps: Sequence[tuple[int, int, float]], baselines: Sequence[str], valid: Sequence[float], *, least: float
) -> tuple[dict[int, set[int]], set[int]]:
    """Return what has to go, with what it may go for, and the rows too near to ``least`` for an answer.

    Row by row from the best (valid pixels, later baseline, first): it goes if a row that stays shows enough of it.
    """
    shown: dict[int, list[int]] = {}
    close = set()
    for row, other, share in overlaps:
        if abs(share - least) < 0.01:
            close |= {row, other}
        if share >= least:
            shown.setdefault(row, []).append(other)
    order = sorted(range(len(valid)), key=lambda row: (-round(100 * valid[row]), _descend(baselines[row]), row))
    stays: set[int] = set()
    gone: dict[int, set[int]] = {}
    for row in order:
        reasons = stays & set(shown.get(row, ()))
        if reasons:
            gone[row] = reasons
        else:
            stays.add(row)
    return gone, close


def _descend(baseline: str) -> tuple[int, ...]:
    return tuple(-int(part) for part in baseline.split(".")) if baseline else (1,)

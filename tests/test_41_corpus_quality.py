"""What a tile's quality says, against planted speckle, noise, fields and places; and the limits that leave tiles out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import xarray as xr

from eo_ssl.cards import load_card
from eo_ssl.corpus import Corpus, Encoding, IngestConfig, ingest
from eo_ssl.corpus.tile_locations import locate_footprint
from eo_ssl.corpus.tile_quality import estimate_enl
from eo_ssl.errors import UserError
from eo_ssl.scene import Acquisition, Chip, list_products
from eo_ssl.sensors import Quantity
from fake_scenes import FakeProduct, card, scenes

CONFIG = IngestConfig(size_px=64, min_valid=0.0, shares=(1.0, 0.0, 0.0))
RADAR = card("radar", sensor="sentinel1_rtc", bands=("VV", "VH"), quantity="gamma0", labels=None)


def run(products: list, out: Path, config: IngestConfig = CONFIG) -> Corpus:
    ingest(products, out=out, config=config, client="synchronous")
    return Corpus.open(out)


@dataclass(frozen=True, eq=False)
class Measured(FakeProduct):
    """A product whose cube also states how it was acquired."""

    stated: dict[str, Any] = dataclasses.field(default_factory=dict)

    def open(self) -> xr.Dataset:
        return super().open().assign_attrs(self.stated)


# Looks. Speckle of L looks over a uniform surface is gamma distributed and has mean^2 / variance = L (Oliver and Quegan 2004, 4.3).


@pytest.mark.parametrize("planted", [1.0, 4.4, 10.0, 50.0])
def test_speckle_of_l_looks_has_l_looks_whatever_lies_beside_it(rng: np.random.Generator, planted: float) -> None:
    uniform, mixed = [], []
    for _ in range(20):
        speckle = rng.gamma(planted, 1 / planted, (64, 64))
        uniform.append(estimate_enl((0.03 * speckle).astype(np.float32)))
        ground = np.full((64, 64), 0.05)
        ground[:, 32:] *= rng.gamma(1.5, 1 / 1.5, (64, 32))  # texture of its own
        ground[40:50] *= 5  # an edge
        ground[rng.integers(0, 64, 6), rng.integers(0, 64, 6)] = 40  # bright targets
        mixed.append(estimate_enl((ground * speckle).astype(np.float32)))
    assert np.mean(uniform) == pytest.approx(planted, rel=0.08)
    assert np.std(uniform) < 0.1 * planted
    if planted > 2:  # a single look is itself as rough as the texture
        assert np.mean(mixed) == pytest.approx(planted, rel=0.1)
        assert np.std(mixed) < 0.15 * planted


def test_looks_do_not_depend_on_brightness_or_on_where_the_tile_lay_in_memory(rng: np.random.Generator) -> None:
    scene = rng.gamma(4.4, 1 / 4.4, (2, 200, 300)).astype(np.float32)
    tile = scene[1, 17:81, 100:164]
    assert (
        estimate_enl(tile)
        == estimate_enl(tile.copy())
        == estimate_enl(np.asfortranarray(tile))
        == estimate_enl(tile * np.float32(2**-10))
    )


def test_looks_of_pixels_that_show_no_speckle_are_unknown(rng: np.random.Generator) -> None:
    speckle = rng.gamma(4.4, 1 / 4.4, (64, 64)).astype(np.float32)
    holes = speckle.copy()
    holes[::6, ::6] = np.nan  # no window of 7 px is whole
    assert estimate_enl(holes) is None
    assert estimate_enl(np.full((64, 64), 0.1, dtype=np.float32)) is None  # constant
    assert estimate_enl(-speckle) is None  # noise subtracted below zero
    assert estimate_enl(speckle[:10, :10]) is None and estimate_enl(speckle[:5]) is None  # too few windows
    half = speckle.copy()
    half[:, :30] = np.nan
    assert estimate_enl(half) == pytest.approx(4.4, rel=0.25)


def radar_scene(rng: np.random.Generator) -> Measured:
    """64 x 192 px: tile 0 with border noise, tile 1 of 4.4 looks, tile 2 of 40 looks."""
    power = np.concatenate([rng.gamma(n, 0.05 / n, (2, 64, 64)).astype(np.float32) for n in (4.4, 4.4, 40.0)], axis=2)
    noise = np.zeros((64, 192), dtype=bool)
    noise[:, :5] = True
    noise[:3, 5:20] = True
    power[:, noise] = np.nan
    angle = np.broadcast_to(np.linspace(30, 45, 192, dtype=np.float32), (64, 192)).copy()
    angle[:, 128:] = np.nan  # unknown over tile 2
    stated = {
        "platform": "S1A",
        "mode": "IW",
        "relative_orbit": 117,
        "incidence_deg": 38.5,
        "sun_zenith_deg": None,
        "view_zenith_deg": None,
    }
    return Measured("radar/0", RADAR, power, {"border_noise": noise, "incidence_deg": angle}, stated=stated)


def test_radar_tiles_know_border_noise_looks_angle_and_pass(tmp_path: Path, rng: np.random.Generator) -> None:
    corpus = run([radar_scene(rng)], tmp_path / "c")
    (name,) = corpus.streams
    rows = corpus.index(name).to_pylist()
    share = (64 * 5 + 3 * 15) / 64**2
    assert [row["border_noise_fraction"] for row in rows] == [np.float32(share), 0.0, 0.0]
    assert rows[0]["valid_fraction"] == np.float32(1 - share)
    angles = np.linspace(30, 45, 192, dtype=np.float32)
    expected = [angles[:64].mean(), angles[64:128].mean(), 38.5]  # of the product where the field says nothing
    np.testing.assert_allclose([row["incidence_deg"] for row in rows], expected, rtol=1e-6)
    np.testing.assert_allclose([row["enl"] for row in rows], [4.4, 4.4, 40.0], rtol=0.25)
    for row in rows:
        assert (row["platform"], row["mode"], row["relative_orbit"]) == ("S1A", "IW", 117)
        assert row["sun_zenith_deg"] is None and row["cloud_probability"] is None and row["cloud_fraction"] is None


def test_optical_tiles_know_mean_cloud_probability_and_sun(tmp_path: Path, rng: np.random.Generator) -> None:
    image = np.full((3, 64, 128), 0.2, dtype=np.float32)
    image[:, :, :16] = np.nan
    probability = np.zeros((64, 128), dtype=np.float32)
    probability[:, :16] = 1.0  # where nothing is valid
    probability[:32, 16:64] = 0.5
    probability[:, 64:] = np.nan
    stated = {
        "platform": "S2B",
        "mode": "",
        "relative_orbit": None,
        "sun_zenith_deg": 33.25,
        "view_zenith_deg": 5.5,
        "incidence_deg": None,
    }
    product = Measured("fake/0", card(), image, {"cloud_probability": probability}, stated=stated)
    corpus = run([product], tmp_path / "c")
    (name,) = corpus.streams
    rows = corpus.index(name).to_pylist()
    assert [row["cloud_probability"] for row in rows] == [0.25, None]
    assert {(row["sun_zenith_deg"], row["view_zenith_deg"], row["platform"]) for row in rows} == {(33.25, 5.5, "S2B")}
    assert {(row["enl"], row["border_noise_fraction"], row["incidence_deg"], row["mode"]) for row in rows} == {
        (None,) * 4
    }


def test_fields_are_resampled_with_the_tiles(tmp_path: Path) -> None:
    """On the grid tiling, whole-pixel shifts: flags and fields of a cell are those of the pixels under it."""
    where = {"crs": "EPSG:32632", "transform": (10.0, 0.0, 500000.0 + 50, 0.0, -10.0, 5000000.0 - 70)}
    probability = np.broadcast_to(np.arange(200, dtype=np.float32) / 200, (200, 200)).copy()
    noise = np.zeros((200, 200), dtype=bool)
    noise[:, 100:] = True
    image = np.full((3, 200, 200), 0.2, dtype=np.float32)
    product = FakeProduct("fake/0", card(), image, {"cloud_probability": probability, "border_noise": noise}, where)
    corpus = run([product], tmp_path / "c", dataclasses.replace(CONFIG, size_px=32, tiling="grid", min_valid=1.0))
    (name,) = corpus.streams
    rows = corpus.index(name).to_pylist()
    assert len(rows) >= 16
    for row in rows:
        first = row["col_off"] - 50005  # its column in the product
        assert row["cloud_probability"] == pytest.approx((first + 15.5) / 200, abs=1e-6)
        assert row["border_noise_fraction"] == pytest.approx(np.clip((first + 32 - 100) / 32, 0, 1))


def test_limits_leave_tiles_out_and_say_why(tmp_path: Path, rng: np.random.Generator) -> None:
    config = dataclasses.replace(CONFIG, max_border_noise=0.05, min_enl=10.0)
    report = ingest([radar_scene(rng)], out=tmp_path / "c", config=config, client="synchronous")
    expected = {"planned": 3, "kept": 1, "invalid": 0, "cloudy": 0, "border_noise": 1, "few_looks": 1}
    assert report.counts == expected == Corpus.open(tmp_path / "c").describe()["counts"]
    image = np.full((3, 64, 320), 0.2, dtype=np.float32)
    masks = {name: np.zeros((64, 320), dtype=bool) for name in ("cloud", "shadow", "snow", "saturated")}
    for k, name in enumerate(masks):
        masks[name][:40, 64 * k : 64 * k + 64] = True
    image[1, :40, 256:] = 3.5  # beyond what is stored, though no mask says so
    config = dataclasses.replace(CONFIG, max_cloud=0.5, max_shadow=0.5, max_snow=0.5, max_saturated=0.5)
    report = ingest(
        [FakeProduct("fake/0", card(), image, masks)], out=tmp_path / "d", config=config, client="synchronous"
    )
    assert report.counts == {
        "planned": 5,
        "kept": 0,
        "invalid": 0,
        "cloudy": 1,
        "shadowed": 1,
        "snowy": 1,
        "saturated": 2,
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_border_noise": 0.1}, "expected a border noise mask in fake/0 for max_border_noise 0.1, got none"),
        ({"max_snow": 0.1}, "expected a snow mask in fake/0 for max_snow 0.1"),
        ({"min_enl": 2.0}, "expected radar power in fake/0 for min_enl 2.0, got another quantity"),
    ],
)
def test_a_limit_on_what_is_not_measured_is_refused(tmp_path: Path, rng, change: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        run(scenes(rng, 1), tmp_path / "c", dataclasses.replace(CONFIG, size_px=16, **change))
    with pytest.raises(UserError, match="give a number of looks"):
        IngestConfig(min_enl=-1)
    with pytest.raises(UserError, match="give a share, not percent"):
        IngestConfig(max_snow=20)


# Chips that know where and when they were taken, as wave-mode vignettes do.


WAVE = card("wave", sensor="sentinel1_grd", bands=("VV",), quantity="sigma0", gsd_m=200.0, labels=None)
WAVE_FACTS = Acquisition("2020-05-31T23:59:58Z", "003.31", "ascending", 0.0, "S1A", "WV", 8, incidence_deg=30.0)


@dataclass(frozen=True, eq=False)
class FakeWave:
    """Three vignettes of power, 12.8 km wide; the first two of one place in two months."""

    product_id: str = "wave/0"
    kind: str = "chips"
    is_described_by_card: bool = False
    entries: tuple = ()
    paths: tuple = ()
    nbytes: int = 1
    offset: float = 0.0
    bands: tuple[str, ...] = ("VV",)
    shape: tuple[int, int, int] = (1, 64, 64)
    acquisition: Acquisition = WAVE_FACTS
    card: Any = WAVE

    def checksum(self) -> str:
        return "ab" * 32

    def open_chips(self) -> Iterator[Chip]:
        rng = np.random.default_rng(4)
        for k, (lon, lat, when) in enumerate(
            [(-33.0, 10.0, ""), (-33.0, 10.0, "2020-06-01T00:00:13Z"), (179.98, -40.0, "2020-06-01T00:00:28Z")]
        ):
            image = rng.gamma(20, 0.3 / 20, (1, 64, 64)).astype(np.float32)
            image[0, 0, k] = np.nan
            around = ((-0.06, -0.05), (0.06, -0.05), (0.06, 0.05), (-0.06, 0.05))
            corners = tuple((((lon + dx + 180) % 360) - 180, lat + dy) for dx, dy in around)
            yield Chip(
                image=image,
                valid=np.isfinite(image[0]),
                name=f"{k:03d}",
                sha256=f"{k:064x}",
                label=-1,
                label_name="",
                split="",
                width_px=70,
                height_px=71,
                row_off=3,
                col_off=3,
                datetime=when,
                mode="WV1" if k % 2 else "WV2",
                incidence_deg=None if k == 0 else 23.8,
                footprint=corners,
            )


def test_vignettes_keep_power_place_time_mode_and_angle(tmp_path: Path) -> None:
    corpus = run([FakeWave()], tmp_path / "c")
    ((name, stream),) = corpus.streams.items()
    images = np.stack([chip.image for chip in FakeWave().open_chips()])
    reader = corpus.stream(name)
    assert reader.dtype == np.float16 and stream.quantity is Quantity.SIGMA0
    tiles = reader.read(np.arange(3))
    assert (np.isnan(tiles) == np.isnan(images)).all() and np.isnan(tiles).sum() == 3
    np.testing.assert_allclose(tiles, images, rtol=2**-11)
    rows = corpus.index(name).to_pylist()
    assert [row["datetime"] for row in rows] == ["2020-05-31T23:59:58Z", "2020-06-01T00:00:13Z", "2020-06-01T00:00:28Z"]
    assert [row["month"] for row in rows] == [5, 6, 6] and [row["mode"] for row in rows] == ["WV2", "WV1", "WV2"]
    np.testing.assert_allclose([row["incidence_deg"] for row in rows], [30.0, 23.8, 23.8], rtol=1e-6)
    assert {(row["platform"], row["relative_orbit"], row["orbit"]) for row in rows} == {("S1A", 8, "ascending")}
    np.testing.assert_allclose([row["enl"] for row in rows], 20, rtol=0.25)
    assert rows[0]["location_id"] == rows[1]["location_id"] != rows[2]["location_id"]
    assert rows[0]["location_id"].startswith("32625:") and rows[2]["location_id"].startswith("32760:")
    np.testing.assert_allclose([rows[0][k] for k in ("xmin", "ymin", "xmax", "ymax")], [-33.06, 9.95, -32.94, 10.05])
    shape = shapely.from_wkb(rows[2]["geometry"])
    assert shape.geom_type == "MultiPolygon" and shape.area == pytest.approx(0.012)
    assert sorted((key.month, int(m.count[0])) for key, m in corpus.statistics(name).strata.items()) == [
        (5, 64**2 - 1),
        (6, 2 * (64**2 - 1)),
    ]
    may = corpus.statistics(name).where(month=5)
    np.testing.assert_allclose(may.mean, [np.nanmean(tiles[0].astype(np.float64))], rtol=1e-6)


def test_places_are_split_and_not_vignettes(tmp_path: Path) -> None:
    for seed in range(6):
        corpus = run([FakeWave()], tmp_path / str(seed), dataclasses.replace(CONFIG, shares=(0.4, 0.3, 0.3), seed=seed))
        (name,) = corpus.streams
        splits = corpus.index(name, columns=["split"])["split"].to_pylist()
        assert splits[0] == splits[1]


def test_a_footprint_lies_in_the_cell_of_its_middle() -> None:
    places = locate_footprint(((8.9, 45.0), (9.1, 45.0), (9.1, 45.2), (8.9, 45.2)), cell_m=10_000)
    zone, row, col = map(int, places.location[0].split(":"))  # 9 E is the central meridian of zone 32: x = 500 km
    assert zone == 32632 and col == 50 and row == 499  # 45.1 N: northing 4,994.1 km
    for wrong in (((0, 0), (1, 1)), ((0, 0), (1, 1), (float("nan"), 2)), ((0, 0), (1, 91), (2, 2))):
        with pytest.raises(UserError, match="three corners"):
            locate_footprint(wrong, cell_m=100)


@pytest.mark.parametrize("client", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_quality_is_the_same_on_every_scheduler(tmp_path: Path, rng: np.random.Generator, client: str) -> None:
    scene = radar_scene(rng)
    others = [dataclasses.replace(scene, product_id=f"radar/{k}", image=scene.image * np.float32(k)) for k in (2, 3)]
    one = ingest([scene, *others, FakeWave()], out=tmp_path / "one", config=CONFIG, client="synchronous")
    assert (
        one.tiles
        == 12
        == ingest([FakeWave(), *others, scene], out=tmp_path / "two", config=CONFIG, client=client).tiles
    )
    assert Corpus.open(tmp_path / "two").fingerprint == one.fingerprint


def test_real_sentinel_1_has_the_looks_of_its_processing(real_data: Path, tmp_path: Path) -> None:
    """IW GRDH has 4.4 looks (Sentinel-1 product specification); resampling to 10 m correlates neighbours, which raises the local ratio."""
    listed = list_products(load_card("terramesh_s1rtc"), real_data).products
    corpus = run(list(listed), tmp_path / "c")
    (name,) = corpus.streams
    found = corpus.index(name, columns=["enl"])["enl"].to_numpy()
    assert len(found) > 20 and found.min() > 4.0 and found.max() < 9.0
    assert 4.4 < np.median(found) < 7.5


def test_only_grey_chips_are_bytes() -> None:
    assert Encoding.of(Quantity.AMPLITUDE, chips=True).dtype == "uint8"
    assert Encoding.of(Quantity.SIGMA0, chips=True) == Encoding.of(Quantity.SIGMA0, chips=False)

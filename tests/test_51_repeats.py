"""Tiles that show one acquisition twice: planted kinds and decoys go and stay as a plain reading of the ground says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyproj
import pytest
from rasterio.transform import Affine
from rasterio.warp import reproject
from scipy import ndimage

from eo_ssl.corpus import Corpus, IngestConfig, ingest
from eo_ssl.curation import RepeatConfig, Repeats, find_repeats
from eo_ssl.curation.dedup import join_duplicates
from eo_ssl.curation.repeat_candidates import find_candidates, read_tile_facts
from eo_ssl.errors import UserError
from eo_ssl.scene import Acquisition
from fake_scenes import FakeChips, FakeProduct, card
from worlds.repeated import (
    DECOYS,
    World,
    draw_grounds,
    expect_dropped,
    list_true_overlaps,
    plant_optical,
    plant_radar,
)

TILE_PX = 32
BOUNDS = RepeatConfig()


def make_corpus(products: list[FakeProduct], out: Path, **config: object) -> Corpus:
    ingest(products, out=out, config=IngestConfig(**{"size_px": TILE_PX, **config}), client="synchronous")
    return Corpus.open(out)


def find(corpus: Corpus, bounds: RepeatConfig = BOUNDS) -> Repeats:
    (stream,) = corpus.streams
    return find_repeats(corpus, stream, np.arange(corpus.count(stream)), bounds)


@pytest.mark.parametrize("sensor", ["optical", "radar"])
def test_planted_repeats_go_and_decoys_stay(tmp_path: Path, sensor: str) -> None:
    """Nearly all that has to go goes, for a tile that shows it and stays; nothing else does."""
    optical, radar = draw_grounds(sites=2, dates=1, size_px=192)
    world = World()
    if sensor == "optical":
        plant_optical(world, optical, tile_px=TILE_PX, zone_tiles=5)
    else:
        plant_radar(world, radar, tile_px=TILE_PX)
    corpus = make_corpus(world.products, tmp_path / "c")
    (stream,) = corpus.streams
    index = corpus.index(stream)
    names, baselines, valid = (
        index[name].to_pylist() for name in ("product_id", "processing_baseline", "valid_fraction")
    )
    wanted, close = expect_dropped(list(list_true_overlaps(world, index)), baselines, valid, least=0.8)
    found = find(corpus)
    gone = set(np.flatnonzero(found.original >= 0).tolist())
    assert len(gone) > (60 if sensor == "optical" else 10) and len(index) > (240 if sensor == "optical" else 60)
    assert len(gone - set(wanted) - close) <= 0.01 * len(gone)
    assert len(set(wanted) - gone - close) <= 0.01 * len(wanted)
    for row in gone:
        other = int(found.original[row])
        assert other not in gone, "what it repeats stays"
        assert world.acquisitions[names[row]] == world.acquisitions[names[other]]
        assert world.kinds[names[row]] not in DECOYS or row in close
        assert found.overlap[row] >= 0.8
    assert np.isnan(found.overlap[found.original < 0]).all() and np.isnan(found.correlation[found.original < 0]).all()
    if sensor == "optical":
        flat = [row for row in gone if np.isnan(found.correlation[row])]
        assert flat and all(names[row].startswith("water") for row in flat)


# One rule each: what the better tile is, what may differ and what may not.


GROUND = np.random.default_rng(3).normal(0.2, 0.05, (3, 160, 160)).astype(np.float32)
WHEN = datetime(2023, 5, 1, 10, 30, tzinfo=UTC)


def scene(
    name: str,
    *,
    when: datetime | str = WHEN,
    baseline: str = "05.09",
    gain: float = 1.0,
    orbit: str = "descending",
    corner: tuple[int, int] = (0, 0),
    side: int = TILE_PX,
    image: np.ndarray | None = None,
    place: int = 0,
    **facts: object,
) -> FakeProduct:
    """A cut of the same ground, one tile wide unless more is asked for; places are 20 km apart."""
    row, col = corner
    pixels = GROUND[:, row : row + side, col : col + side] * gain if image is None else image
    text = when if isinstance(when, str) else f"{when:%Y-%m-%dT%H:%M:%SZ}"
    where = {
        "crs": "EPSG:32632",
        "transform": (10.0, 0.0, 500000.0 + 10 * col, 0.0, -10.0, 5000000.0 + 20_000 * place - 10 * row),
        **facts,
    }
    return FakeProduct(
        name,
        card(labels=None),
        pixels.astype(np.float32),
        where=where,
        acquisition=Acquisition(text, baseline, orbit, 0.0),
    )


def find_gone(products: list[FakeProduct], out: Path, bounds: RepeatConfig = BOUNDS, **config: object) -> list[str]:
    """Names of the products whose tiles went, one per tile."""
    corpus = make_corpus(products, out, **config)
    (stream,) = corpus.streams
    names = corpus.index(stream)["product_id"].to_pylist()
    return sorted(names[row] for row in np.flatnonzero(find(corpus, bounds).original >= 0))


MAY_DIFFER = (
    ({"when": WHEN + timedelta(seconds=8)}, True),
    ({"when": WHEN + timedelta(minutes=15)}, True),
    ({"when": WHEN + timedelta(minutes=15, seconds=1)}, False),
    ({"when": WHEN + timedelta(days=5)}, False),  # a season, however alike
    ({"when": WHEN + timedelta(days=365)}, False),
    ({"when": ""}, False),
    ({"when": "2023-05-01"}, True),  # a day alone: the same day
    ({"when": "2023-05-02"}, False),
    ({"orbit": "ascending"}, False),
    ({"orbit": ""}, True),
    ({"orbit": "R022-descending"}, True),
    ({"orbit": "T022"}, True),  # says nothing of the direction
    ({"platform": "S2C"}, False),  # a satellite half a minute behind
    ({"platform": "sentinel-2a"}, True),
    ({"relative_orbit": 23}, False),
    ({"relative_orbit": 22}, True),
    ({"mode": "EW"}, False),
    ({"mode": "IW"}, True),
)


def test_what_two_tiles_of_one_acquisition_may_state(tmp_path: Path) -> None:
    stated = {"platform": "S2A", "relative_orbit": 22, "mode": "IW"}
    unsaid = {"gain": 1.01, "platform": None, "relative_orbit": None, "mode": None}
    products = []
    for place, (changes, _) in enumerate(MAY_DIFFER):
        products += [
            scene(f"a{place}", place=place, **stated),
            scene(f"b{place}", place=place, **{**unsaid, **changes}),
        ]
    went = {int(name[1:]) for name in find_gone(products, tmp_path / "c")}
    assert went == {place for place, (_, repeats) in enumerate(MAY_DIFFER) if repeats}


def test_days_alone_and_tracks(tmp_path: Path) -> None:
    products = [
        scene("a", when="2023-05-01"),
        scene("b", when="2023-05-01", gain=1.01),
        scene("c", when="2023-05-02"),
        scene("d", place=1, orbit="T137"),
        scene("e", place=1, orbit="T064", gain=1.01),  # two tracks see a place on one day, far to the north
        scene("f", place=1, orbit="T137", gain=1.02),
    ]
    went = find_gone(products, tmp_path / "c")
    assert len(went) == 2 and sum(name in "ab" for name in went) == 1 and sum(name in "df" for name in went) == 1


def test_of_two_the_more_valid_stays_then_the_later_baseline_then_the_first(tmp_path: Path) -> None:
    tile = GROUND[:, :TILE_PX, :TILE_PX]
    holed, nearly = tile.copy(), tile.copy()
    holed[:, 3] = np.nan  # 3 %
    nearly[:, 0, 0] = np.nan  # a tenth of a percent, which does not count
    products = [
        scene("full older"),
        scene("holed newer", baseline="05.10", image=holed),
        scene("nearly newer", baseline="05.10", image=nearly, place=1),
        scene("full but older", place=1),
    ]
    goes = ["holed newer", "full but older"]
    for place, (early, late) in enumerate((("9.00", "10.00"), ("", "01.00"), ("002.36", "003.31")), 2):
        products += [scene(f"late {place}", baseline=late, gain=1.01, place=place)]
        products += [scene(f"early {place}", baseline=early, place=place)]
        goes.append(f"early {place}")  # versions are numbers
    products += [scene(f"same {k}", gain=1 + k / 100, place=9) for k in range(3)]
    corpus = make_corpus(products, tmp_path / "c")
    (stream,) = corpus.streams
    names = corpus.index(stream)["product_id"].to_pylist()
    found = find(corpus)
    went = [names[row] for row in np.flatnonzero(found.original >= 0)]
    assert sorted(name for name in went if not name.startswith("same")) == sorted(goes)
    alike = [row for row, name in enumerate(names) if name.startswith("same")]
    assert found.original[alike].tolist() == [-1, alike[0], alike[0]], "the others repeat the first of the corpus"
    # Answers are places in the rows given, and rows left out make no others go.
    rows = np.array(sorted({*range(len(names))} - {alike[0]}))
    fewer = find_repeats(corpus, stream, rows, BOUNDS)
    assert rows[fewer.original[np.searchsorted(rows, alike[2])]] == alike[1]
    assert fewer.original[np.searchsorted(rows, alike[1])] == -1
    assert not len(find_repeats(corpus, stream, rows[:0], BOUNDS).original)


def test_exact_copies_are_left_to_the_exact_filter(tmp_path: Path) -> None:
    """A later copy of a tile may have the later baseline: two filters must not take both for each other's sake."""
    products = [scene("a", baseline="05.09"), scene("b", baseline="05.10"), scene("c", baseline="05.11", gain=1.01)]
    corpus = make_corpus(products, tmp_path / "c")
    (stream,) = corpus.streams
    index, rows = corpus.index(stream), np.arange(3)
    names, hashes = index["product_id"].to_pylist(), index["pixels_sha256"]
    copies = [row for row in rows if names[row] != "c"]
    found = find_repeats(corpus, stream, rows, BOUNDS, identities=hashes)
    assert found.original[copies[0]] == names.index("c") and found.original[copies[1]] == -1
    both = join_duplicates(3, hashes, found)
    assert both.first.tolist() == [names.index("c")] and both.group.tolist() == [0, 0, 0]
    pair = np.array(copies)
    found = find_repeats(corpus, stream, pair, BOUNDS, identities=hashes.take(copies))
    assert join_duplicates(2, hashes.take(copies), found).first.tolist() == [0]


def test_answers_are_places_in_the_rows_whatever_copies_lie_between(tmp_path: Path) -> None:
    products = [
        scene(f"{name}{place}", place=place, gain=gain, baseline=baseline, corner=(8 * place, 0))
        for place in range(4)
        for name, gain, baseline in (("a", 1, "05.09"), ("b", 1, "05.09"), ("c", 1.01, "05.10"))
    ]
    corpus = make_corpus(products, tmp_path / "c")
    (stream,) = corpus.streams
    index = corpus.index(stream)
    names = index["product_id"].to_pylist()
    found = find_repeats(corpus, stream, np.arange(12), BOUNDS, identities=index["pixels_sha256"])
    went = {names[row]: names[found.original[row]] for row in np.flatnonzero(found.original >= 0)}
    assert sorted(went.values()) == ["c0", "c1", "c2", "c3"]
    assert all(name[1] == other[1] for name, other in went.items())


@pytest.mark.parametrize(
    ("shift", "bounds", "how_many"), [(6, BOUNDS, 6), (7, BOUNDS, 0), (7, RepeatConfig(min_overlap=0.78), 6)]
)
def test_a_shifted_grid_repeats_what_shares_enough(
    tmp_path: Path, shift: int, bounds: RepeatConfig, how_many: int
) -> None:
    """26 of 32 columns are 0.8125, 25 are 0.78; of three columns of tiles two lie within the other product."""
    second = scene("b", corner=(0, 32 + shift), gain=1.01, side=96)
    assert len(find_gone([scene("a", side=96), second], tmp_path / "c", bounds)) == how_many


def test_two_halves_do_not_make_a_repeat(tmp_path: Path) -> None:
    """All ground of the tiles of b is seen again, half in one tile of a and half in the next."""
    assert find_gone([scene("a", side=96), scene("b", corner=(0, 16), side=64, gain=1.01)], tmp_path / "c") == []


def test_ground_counts_where_it_is_valid(tmp_path: Path) -> None:
    """A corner of data at the edge of a swath repeats a whole tile that shows that corner; the whole one stays."""
    half, corner = GROUND[:, :32, 48:80].copy(), GROUND[:, 58:90, 58:90].copy()
    half[:, :, 16:] = np.nan
    corner[:, 6:] = np.nan
    corner[:, :, 6:] = np.nan
    products = [
        scene("whole", corner=(0, 32)),
        scene("half", corner=(0, 48), image=half),
        scene("other", corner=(32, 32), place=1),
        scene("corner", corner=(58, 58), image=corner, place=1),
    ]
    corpus = make_corpus(products, tmp_path / "c", min_valid=0.01)
    (stream,) = corpus.streams
    names = corpus.index(stream)["product_id"].to_pylist()
    found = find(corpus)
    went = np.flatnonzero(found.original >= 0)
    assert sorted(names[row] for row in went) == ["corner", "half"]
    assert found.overlap[went].tolist() == [1.0, 1.0]


def test_other_pixels_of_one_time_and_place_stay(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    other = scene("b", image=rng.normal(0.2, 0.05, (3, 96, 96)))
    assert find_gone([scene("a", side=96), other], tmp_path / "c") == []
    corpus = Corpus.open(tmp_path / "c")
    notes = " ".join(find(corpus).notes)
    assert "9 pairs of tiles share ground and time: 0 show the same pixels, 9 do not and stay; 0 are flat" in notes


def test_a_moved_reprocessing_is_found_by_the_shift_of_the_two_products(tmp_path: Path) -> None:
    smooth = ndimage.gaussian_filter(GROUND, (0, 1, 1)).astype(np.float32) * 3  # as an optical image is
    moved = np.stack([ndimage.shift(band, (1.4, -0.9), order=3, mode="reflect") for band in smooth])
    products = [scene("a", image=smooth[:, :96, :96]), scene("b", image=moved[:, :96, :96])]
    corpus = make_corpus(products, tmp_path / "c")
    for most, how_many in ((2, 9), (0, 0), (1, 0)):
        assert (find(corpus, RepeatConfig(max_shift_px=most)).original >= 0).sum() == how_many


def test_one_tile_that_does_not_fit_is_told_by_the_shift_of_the_others(tmp_path: Path) -> None:
    """Eight tiles are smooth enough to correlate 1.5 px off; a corner of the ninth, alone, does not say where it lies."""
    ground = 0.2 + 12 * ndimage.gaussian_filter(GROUND - 0.2, (0, 5, 5))
    ground[:, 32:64, 32:64] += 3 * ndimage.gaussian_filter(GROUND - 0.2, (0, 1, 1))[:, 32:64, 32:64]
    moved = np.stack([ndimage.shift(band, (1.2, -0.9), order=3, mode="reflect") for band in ground])
    images = [image[:, :96, :96].copy() for image in (ground, moved)]
    images[0][:, 41:64, 32:64] = np.nan
    images[0][:, 32:64, 41:64] = np.nan
    products = [scene(name, image=image, side=96) for name, image in zip("ab", images, strict=True)]
    corpus = make_corpus(products, tmp_path / "c", min_valid=0.05)
    assert (find(corpus, RepeatConfig(max_shift_px=0)).original >= 0).sum() == 8
    assert (find(corpus).original >= 0).sum() == 9


def test_flat_tiles_go_by_their_means_where_the_time_is_known(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    products = []
    for place, (level, when) in enumerate(((0.031, WHEN), (0.06, WHEN), (0.031, "2023-05-01"))):
        for name, mean in (("a", 0.03), ("b", level)):
            image = mean + 0.001 * rng.standard_normal((3, TILE_PX, TILE_PX))
            products.append(scene(f"{name}{place}", image=image, when=when, place=place))
    corpus = make_corpus(products, tmp_path / "c")
    found = find(corpus)
    names = corpus.index(next(iter(corpus.streams)))["product_id"].to_pylist()
    assert [names[row] for row in np.flatnonzero(found.original >= 0)] in (["a0"], ["b0"])
    assert np.isnan(found.correlation).all()


def test_the_last_tile_moved_inwards_repeats_its_neighbour(tmp_path: Path) -> None:
    """`edge shift` cuts the last column of tiles again with another start: one product overlaps itself."""
    wide = [scene("a", side=98)]
    corpus = make_corpus(wide, tmp_path / "c", edge="shift")
    assert corpus.count(next(iter(corpus.streams))) == 16
    assert (find(corpus).original >= 0).sum() == 7


@pytest.mark.parametrize("tiling", ["native", "grid"])
def test_the_antimeridian_is_ground_like_any_other(tmp_path: Path, tiling: str) -> None:
    """Tiles on both sides of 180 degrees, in zone 60 and again in zone 1, and a season of them."""
    left, top = pyproj.Transformer.from_crs(4326, 32660, always_xy=True).transform(179.9955, -17.0)
    here = Affine(10.0, 0, round(left, -1), 0, -10.0, round(top, -1))
    east = pyproj.Transformer.from_crs(32660, 32601, always_xy=True).transform(here.c, here.f)
    smooth = np.stack([np.convolve(band.ravel(), np.ones(3) / 2, "same").reshape(160, 160) for band in GROUND])
    smooth = smooth.astype(np.float32)
    there = Affine(10.0, 0, round(east[0], -1), 0, -10.0, round(east[1], -1))
    warped = np.empty((3, 96, 96), dtype=np.float32)
    options = {"src_crs": "EPSG:32660", "src_transform": here, "dst_crs": "EPSG:32601", "dst_transform": there}
    reproject(smooth, warped, **options, resampling=3, src_nodata=np.nan, dst_nodata=np.nan)
    first = scene("a", image=smooth[:, :96, :96], crs="EPSG:32660", transform=tuple(here)[:6])
    again = scene("b", image=smooth[:, :96, :96] * 1.01, crs="EPSG:32660", transform=tuple(here)[:6])
    other = scene("c", image=warped, crs="EPSG:32601", transform=tuple(there)[:6], when=WHEN + timedelta(seconds=9))
    season = scene(
        "d", image=smooth[:, :96, :96], crs="EPSG:32660", transform=tuple(here)[:6], when=WHEN + timedelta(days=9)
    )
    corpus = make_corpus([first, again, other, season], tmp_path / "c", tiling=tiling, edge="drop", min_valid=0.5)
    (stream,) = corpus.streams
    index = corpus.index(stream, columns=["product_id", "xmin", "xmax"])
    names = np.array(index["product_id"].to_pylist())
    assert (index["xmin"].to_numpy() > index["xmax"].to_numpy()).any(), "tiles cross it"
    found = find(corpus)
    went = names[found.original >= 0]
    one = int((names == "a").sum())
    assert sum(name in ("a", "b") for name in went) >= one and "d" not in went
    if tiling == "native":
        assert (went == "c").sum() >= 6  # the two grids are turned a little against each other


def test_chips_without_a_place_are_compared_byte_by_byte_only(tmp_path: Path) -> None:
    images = np.random.default_rng(2).integers(0, 250, (6, 1, TILE_PX, TILE_PX)).astype(np.uint8)
    images[3] = images[0] + 1  # a copy but for a constant
    chips = card(
        "chips", sensor="sar_chip", bands=("SAR",), quantity="amplitude", gsd_m=0.3, scale=1 / 255, labels=None
    )
    names = tuple(f"c{k}" for k in range(6))
    corpus = make_corpus([FakeChips("chips", chips, images, names, (-1,) * 6, ("",) * 6)], tmp_path / "c")
    found = find(corpus)
    assert (found.original < 0).all()
    assert found.notes == ("6 of 6 tiles have no place or no date: of them only exact copies were looked for",)


def test_seasons_are_counted(tmp_path: Path) -> None:
    products = [scene("a", side=96), scene("b", gain=1.01, side=96), scene("c", when=WHEN + timedelta(days=30))]
    corpus = make_corpus(products, tmp_path / "c")
    # The first tile of a and c; the tiles of b go for those of a.
    assert find(corpus).notes[-1] == "2 tiles show a place that others show on another date: seasons, which stay"


def test_candidates_come_once_whatever_the_lots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    products = [scene(f"p{k}", when=WHEN + timedelta(minutes=6 * k), gain=1 + k / 100, side=96) for k in range(5)]
    corpus = make_corpus([*products, scene("day", when="2023-05-01", side=96)], tmp_path / "c")
    (stream,) = corpus.streams
    facts = read_tile_facts(corpus, stream, np.arange(corpus.count(stream)))

    def listed() -> list[tuple[int, int]]:
        lots = list(find_candidates(facts, min_overlap=0.8, max_seconds=900))
        return sorted(pair for lot in lots for pair in zip(lot.first.tolist(), lot.second.tolist(), strict=True))

    whole = listed()
    assert len(whole) == len(set(whole)) == 9 * (4 + 3 + 5)  # one and two steps of 6 minutes, and all with the day
    monkeypatch.setattr("eo_ssl.curation.repeat_candidates._ROWS_AT_ONCE", 4)
    monkeypatch.setattr("eo_ssl.curation.repeat_candidates._PAIRS_AT_ONCE", 3)
    assert listed() == whole
    monkeypatch.setattr("eo_ssl.curation.repeats._BYTES_AT_ONCE", 1)
    again = find(corpus)
    monkeypatch.undo()
    np.testing.assert_array_equal(again.original, find(corpus).original)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            {"min_overlap": 80},
            "expected min_overlap and min_correlation above 0, up to 1, got 80 and 0.85; give shares",
        ),
        ({"min_correlation": 0}, "got 0.8 and 0;"),
        ({"max_minutes": 61}, "expected max_minutes in 0..60"),
        ({"max_shift_px": -1}, "max_shift_px of at least 0, got 15 and -1"),
    ],
)
def test_bounds_that_cannot_be_meant_are_refused(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        RepeatConfig(**wrong)

"""When a shift counts as told: parts that both tiles lack are no match, dates of one place are no new ground, real scenes are found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from scipy import ndimage, optimize

from eo_ssl.corpus import Corpus, IngestConfig, ingest
from eo_ssl.errors import UserError
from eo_ssl.pairing import PairConfig, ShiftEstimator, match, pair
from eo_ssl.scene import Acquisition
from fake_scenes import FakeProduct, card

BOUNDS = PairConfig()


def striped(rng: np.random.Generator, size: int = 64) -> np.ndarray:
    """Fields along one direction, as land between parallel roads has it; the phase is random."""
    image = ndimage.gaussian_filter(rng.normal(size=(size, size)), (1.0, 6.0))
    return (image / image.std())[None].astype(np.float32)


def test_unrelated_land_that_lacks_the_same_part_does_not_match() -> None:
    """Both have the same direction and the same hole: the overlap of the two masks alone peaks at no shift."""
    rng = np.random.default_rng(4)
    scores = []
    for trial in range(30):
        estimator = ShiftEstimator(64)
        left = 8 * (trial % 5)
        for _ in range(12):
            one, two = striped(rng), striped(rng)
            for image in (one, two):
                image[:, :, :left] = np.nan
                image[:, :, left + 24 :] = np.nan
            estimator.add(one, two)
        found = estimator.estimate()
        assert found.pixels > BOUNDS.min_pixels
        scores.append(found.score)
    assert max(scores) < BOUNDS.min_score


def test_a_narrow_strip_still_tells_its_shift() -> None:
    rng = np.random.default_rng(5)
    estimator = ShiftEstimator(64)
    for _ in range(6):
        ground = ndimage.gaussian_filter(rng.normal(size=(80, 80)), 2.0).astype(np.float32)
        one, two = ground[None, 8:72, 8:72].copy(), ground[None, 6:70, 11:75].copy()  # content moves by (+2, -3)
        for image in (one, two):
            image[:, :, :22] = np.nan
            image[:, :, 46:] = np.nan
        estimator.add(one, two)
    found = estimator.estimate()
    assert (found.row_px, found.col_px) == pytest.approx((2, -3), abs=0.1)
    assert found.score > BOUNDS.min_score


def test_where_two_tiles_share_no_ground_nothing_is_said() -> None:
    rng = np.random.default_rng(6)
    one, two = striped(rng), striped(rng)
    one[:, :, 30:] = np.nan
    two[:, :, :34] = np.nan
    estimator = ShiftEstimator(64, search_px=3)
    estimator.add(one, two)
    found = estimator.estimate()
    assert found.score == 0.0
    assert np.isnan([found.row_px, found.col_px]).all()


def dated(name: str, day: int, image: np.ndarray) -> FakeProduct:
    date = f"2023-06-{day:02d}T10:00:00Z"
    return FakeProduct(
        name, card("optical", labels=None), image, acquisition=Acquisition(date, "05.09", "descending", 0.0)
    )


def test_dates_of_one_place_are_no_new_ground(tmp_path: Path) -> None:
    """One cell of 64 px on ten dates has the ground of one cell, on ten cells that of ten."""
    rng = np.random.default_rng(7)
    image = np.stack([0.2 + 0.02 * ndimage.gaussian_filter(rng.normal(size=(64, 64)), 1.5)] * 3).astype(np.float32)
    found = [dated(f"d{day}", day, image + np.float32(1e-3 * day)) for day in range(1, 11)]
    ingest(
        found,
        out=tmp_path,
        config=IngestConfig(size_px=64, tiling="grid", edge="pad", min_valid=0.0),
        client="synchronous",
    )
    corpus = Corpus.open(tmp_path)
    (name,) = corpus.streams
    config = PairConfig(min_overlap=0.0, shift_of="places", min_days=0.5, max_days=2.0)
    places = pair(corpus, (name, name), match(corpus, name, name, config), config=config)
    assert set(places.scenes["tiles"].to_pylist()) == {9}
    assert max(places.scenes["pixels"].to_pylist()) <= 58 * 58
    assert set(places.scenes["product_a"].to_pylist()) == {""}
    assert "" not in places.scenes["location_id"].to_pylist()
    assert set(places.scenes["days"].to_pylist()) == {1.0}
    assert places.report.sentence().endswith(f"of {len(places.scenes)} places")
    config = PairConfig(min_overlap=0.0, min_days=0.5, max_days=2.0)
    products = pair(corpus, (name, name), match(corpus, name, name, config), config=config)
    assert sum(products.scenes["pixels"].to_pylist()) == 9 * sum(places.scenes["pixels"].to_pylist())
    assert products.report.sentence().endswith("of 9 pairs of products")


def test_pixels_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    image = np.full((3, 192, 192), 0.2, dtype=np.float32)
    for gsd, size in ((10.0, 96), (15.0, 64)):
        where = {"crs": "EPSG:32632", "transform": (gsd, 0.0, 500000.0, 0.0, -gsd, 5000000.0)}
        product = FakeProduct(f"p{gsd:g}", card(f"gsd{gsd:g}", labels=None, gsd_m=gsd), image, where=where)
        config = IngestConfig(size_px=size, tiling="grid", edge="pad", min_valid=0.0)
        ingest([product], out=tmp_path, config=config, client="synchronous")
    corpus = Corpus.open(tmp_path)
    first, second = corpus.streams
    with pytest.raises(UserError, match="a whole number of those of the other, got 15 m and 10 m"):
        match(corpus, first, second, BOUNDS)


REAL = ("38D_378R_2_3", "433D_629L_3_1", "637U_59R_1_3")


@pytest.mark.parametrize("site", REAL)
def test_real_scenes_of_two_levels_fit_and_a_planted_shift_is_found_as_by_brute_force(
    real_data: Path, site: str
) -> None:
    """L1C and L2A come from the same pixels, so the truth is zero. The oracle moves one image and compares values, not edges."""
    levels = []
    for level, band in (("S2L1C", 4), ("S2L2A", 4)):
        with rasterio.open(real_data / "terramesh_examples" / level / f"{site}.tif") as file:
            levels.append(file.read(band).astype(np.float32))
    rows, cols = np.meshgrid(np.fft.fftfreq(224), np.fft.fftfreq(224), indexing="ij")
    planted = np.real(np.fft.ifft2(np.fft.fft2(levels[1]) * np.exp(-2j * np.pi * (1.4 * rows - 2.3 * cols)))).astype(
        np.float32
    )
    for second, truth in ((levels[1], (0.0, 0.0)), (planted, (1.4, -2.3))):
        estimator = ShiftEstimator(64)
        for top in (16, 80, 144):
            for left in (16, 80, 144):
                window = np.s_[None, top : top + 64, left : left + 64]
                estimator.add(levels[0][window], second[window])
        found = estimator.estimate()
        reference = levels[0][16:208, 16:208].ravel()

        def unlike(move: np.ndarray, second: np.ndarray = second, reference: np.ndarray = reference) -> float:
            back = ndimage.shift(second, -move, order=3, mode="nearest")[16:208, 16:208]
            return -float(np.corrcoef(reference, back.ravel())[0, 1])

        start = np.round(truth)
        simplex = start + [[0.0, 0.0], [0.7, 0.0], [0.0, 0.7]]
        oracle = optimize.minimize(unlike, start, method="Nelder-Mead", options={"initial_simplex": simplex}).x
        assert found.score > BOUNDS.min_score
        assert (found.row_px, found.col_px) == pytest.approx(tuple(oracle), abs=0.1)
        assert (found.row_px, found.col_px) == pytest.approx(truth, abs=0.15)


def test_real_scenes_of_other_places_are_not_told_to_fit(real_data: Path) -> None:
    images = []
    for site in REAL:
        pair_of = []
        for kind in ("S1RTC", "S2L2A"):
            with rasterio.open(real_data / "terramesh_examples" / kind / f"{site}.tif") as file:
                pair_of.append(
                    file.read().astype(np.float32)[:12:3] if kind == "S2L2A" else file.read().astype(np.float32)
                )
        images.append(pair_of)
    scores = []
    for first in range(3):
        for turn in range(4):
            estimator = ShiftEstimator(64)
            other = np.rot90(images[(first + 1) % 3][1], turn, (1, 2))
            for top in (0, 80, 160):
                window = np.s_[:, top : top + 64, 80:144]
                estimator.add(images[first][0][window], other[window].copy())
            scores.append(estimator.estimate().score)
    assert max(scores) < BOUNDS.min_score

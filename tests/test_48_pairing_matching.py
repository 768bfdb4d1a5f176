"""Which tile goes with which: against a loop over all pairs, and on corpora whose partners are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eo_ssl.corpus import Corpus, IngestConfig, ingest
from eo_ssl.errors import UserError
from eo_ssl.pairing import PairConfig, match, pair, read_pairs, write_pairs
from eo_ssl.pairing.matching import find_nearest_in_time
from eo_ssl.scene import Acquisition
from eo_ssl.sensors import Quantity
from fake_scenes import FakeProduct, card

DAY = 86_400


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), max_size=12),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), max_size=12),
    st.integers(0, 5),
    st.integers(0, 12),
    st.booleans(),
)
def test_the_nearest_in_time_is_what_a_loop_finds(
    one: list[tuple[int, int]], two: list[tuple[int, int]], least: int, more: int, forward: bool
) -> None:
    first, second = (tuple(np.array([row[k] for row in rows], dtype=np.int64) for k in (0, 1)) for rows in (one, two))
    partner, gap = find_nearest_in_time(first, second, least=least, most=least + more, forward_only=forward)
    for k, (place, time) in enumerate(one):
        allowed = [
            (abs(other - time), other < time, j)
            for j, (where, other) in enumerate(two)
            if where == place and least <= abs(other - time) <= least + more and not (forward and other <= time)
        ]
        assert partner[k] == (min(allowed)[2] if allowed else -1)
        if allowed:
            assert gap[k] == two[partner[k]][1] - time


def radar_card() -> object:
    return card("radar", sensor="sentinel1_rtc", bands=("VV", "VH"), quantity="gamma0", labels=None)


def ground(seed: int, size: int = 256) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows, cols = np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size), indexing="ij")
    low = np.exp(-((rows**2 + cols**2) / (2 * 0.12**2)))
    image = np.zeros((size, size))
    y, x = np.mgrid[:size, :size] / size
    for _ in range(80):
        a, b = rng.integers(-14, 15, 2)
        image += np.where(np.sin(2 * np.pi * (a * x + b * y + rng.random())) > 0.3, rng.normal(), 0)
    return np.real(np.fft.ifft2(np.fft.fft2(image) * low)) / 4


def moved(image: np.ndarray, row: float, col: float) -> np.ndarray:
    rows, cols = np.meshgrid(np.fft.fftfreq(len(image)), np.fft.fftfreq(len(image)), indexing="ij")
    return np.real(np.fft.ifft2(np.fft.fft2(image) * np.exp(-2j * np.pi * (rows * row + cols * col))))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Two optical dates and three radar dates of one place: the second radar date misplaced by (2.5, -1.5) px."""
    out = tmp_path_factory.mktemp("pairs") / "corpus"
    land = ground(5)
    rng = np.random.default_rng(0)
    optical = [
        FakeProduct(
            f"o{k}",
            card("optical", labels=None),
            np.stack([0.2 + 0.03 * (k + 1) * land] * 3).astype(np.float32),
            acquisition=Acquisition(date, "05.09", "descending", 0.0),
        )
        for k, date in enumerate(("2023-06-01T10:00:00Z", "2023-09-01T10:00:00Z"))
    ]
    radar = []
    for k, (date, orbit, shift) in enumerate(
        (
            ("2023-06-03T06:00:00Z", "ascending", (0.0, 0.0)),
            ("2023-09-02T06:00:00Z", "ascending", (2.5, -1.5)),
            ("2023-12-01T06:00:00Z", "descending", (0.0, 0.0)),
        )
    ):
        power = 0.1 * np.exp(-0.5 * moved(land, *shift)) * rng.gamma(4.4, 1 / 4.4, (2, *land.shape))
        radar.append(
            FakeProduct(f"r{k}", radar_card(), power.astype(np.float32), acquisition=Acquisition(date, "", orbit, 0.0))
        )
    ingest([*optical, *radar], out=out, config=IngestConfig(size_px=64, tiling="grid"), client="synchronous")
    return Corpus.open(out)


def names(corpus: Corpus) -> tuple[str, str]:
    optical = next(name for name, stream in corpus.streams.items() if stream.quantity is Quantity.BOA_REFLECTANCE)
    return optical, next(name for name in corpus.streams if name != optical)


def test_the_misplaced_scene_is_refused_by_its_measured_shift_and_the_good_one_kept(
    corpus: Corpus, tmp_path: Path
) -> None:
    optical, radar = names(corpus)
    config = PairConfig(max_days=5)
    found = pair(corpus, (optical, radar), match(corpus, optical, radar, config), config=config)
    scenes = {(row["product_a"], row["product_b"]): row for row in found.scenes.to_pylist()}
    assert set(scenes) == {("o0", "r0"), ("o1", "r1")}
    good, bad = scenes["o0", "r0"], scenes["o1", "r1"]
    assert np.hypot(good["shift_row_px"], good["shift_col_px"]) < 0.2
    assert bad["shift_row_px"] == pytest.approx(2.5, abs=0.2)
    assert bad["shift_col_px"] == pytest.approx(-1.5, abs=0.2)
    tiles = good["tiles"]
    assert tiles == bad["tiles"] == len(found.kept) == len(found.rejected) > 4
    assert found.report.rejected == {"scenes shifted too far": tiles}
    assert set(found.kept["days"].to_pylist()) == {44 / 24}
    index = (
        corpus.index(optical, columns=["location_id", "product_id"]),
        corpus.index(radar, columns=["location_id", "product_id"]),
    )
    for row in found.kept.to_pylist():
        assert (
            index[0]["location_id"][row["row_a"]].as_py()
            == index[1]["location_id"][row["row_b"]].as_py()
            == row["location_id"]
        )
        assert index[1]["product_id"][row["row_b"]].as_py() == "r0"
    write_pairs(tmp_path, found)
    assert read_pairs(tmp_path).kept.equals(found.kept)
    assert read_pairs(tmp_path).report == found.report


def test_seasons_of_one_stream_pair_forwards_once_and_orbits_are_kept_apart(corpus: Corpus) -> None:
    _, radar = names(corpus)
    wide = PairConfig(min_days=60, max_days=200)
    table = match(corpus, radar, radar, wide).match.table
    couples = {(a, b) for a, b in zip(table["product_a"].to_pylist(), table["product_b"].to_pylist(), strict=True)}
    assert couples == {("r0", "r1"), ("r1", "r2")}
    same = match(corpus, radar, radar, PairConfig(min_days=60, max_days=200, orbit="same"))
    assert set(same.match.table["product_b"].to_pylist()) == {"r1"}
    assert same.unmatched["nearest tile is of the other orbit direction"] == len(table) // 2


def test_windows_of_a_products_own_grid_are_refused(tmp_path: Path) -> None:
    land = np.stack([0.2 + 0.02 * ground(1, 128)] * 3).astype(np.float32)
    ingest(
        [FakeProduct("a", card(labels=None), land)], out=tmp_path, config=IngestConfig(size_px=64), client="synchronous"
    )
    corpus = Corpus.open(tmp_path)
    name = next(iter(corpus.streams))
    with pytest.raises(UserError, match="tiling grid, got native"):
        match(corpus, name, name, PairConfig())

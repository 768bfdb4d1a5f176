"""The map of rows that a selection writes: principal components against planted planes and scikit-learn, and its tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.decomposition import PCA

from eo_ssl.curation import (
    Context,
    CurationReport,
    Density,
    DynamicConfig,
    DynamicSchedule,
    Hierarchical,
    Random,
    Readiness,
    curate,
    tabulate_selection,
    write_subset,
)
from eo_ssl.curation.diversity import compute_normalised_entropy
from eo_ssl.curation.mapped_rows import allocate_mapped
from eo_ssl.curation.projection import project_rows


def place_all(points: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    points = points.astype(np.float32)
    found = project_rows(points, np.arange(len(points)), np.random.default_rng(0))
    assert found.rows.tolist() == list(range(len(points))) and found.places.dtype == np.float32
    return found.places, found.variance


@pytest.mark.parametrize("width", [5, 60])  # fewer columns than rows, and more
def test_a_plane_comes_back_with_its_distances_and_variances(rng: np.random.Generator, width: int) -> None:
    axes = np.linalg.qr(rng.normal(size=(width, 2)))[0].T
    flat = rng.normal(size=(40, 2)) * (3.0, 1.0)
    places, variance = place_all(flat @ axes + 7.0)
    apart = [np.linalg.norm(at[:, None] - at[None], axis=-1) for at in (places, flat)]
    np.testing.assert_allclose(apart[0], apart[1], atol=2e-5)
    spread = np.sort(np.linalg.eigvalsh(np.cov(flat.T)))[::-1]
    assert variance == pytest.approx(tuple(spread / spread.sum()), rel=1e-5)
    assert (places[np.abs(places).argmax(axis=0), [0, 1]] > 0).all()


@pytest.mark.parametrize("shape", [(50, 8), (12, 30)])
def test_places_are_those_of_another_library_up_to_their_sign(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    points = rng.normal(size=shape) * np.linspace(2, 0.5, shape[1])
    places, variance = place_all(points)
    oracle = PCA(2, svd_solver="full").fit(points)
    np.testing.assert_allclose(np.abs(places), np.abs(oracle.transform(points)), atol=1e-4)
    assert variance == pytest.approx(tuple(oracle.explained_variance_ratio_), rel=1e-5)


def test_rows_that_do_not_differ_lie_at_one_point_and_those_on_a_line_on_a_line(rng: np.random.Generator) -> None:
    places, variance = place_all(np.tile(rng.normal(size=6), (30, 1)))
    assert not places.any() and variance == (0.0, 0.0)
    places, variance = place_all(np.ones((1, 4)))
    assert places.tolist() == [[0.0, 0.0]] and variance == (0.0, 0.0)
    places, variance = place_all(np.arange(5.0)[:, None])  # one column
    np.testing.assert_allclose(np.abs(places[:, 0]), [2, 1, 0, 1, 2], atol=1e-6)
    assert not places[:, 1].any() and variance == (1.0, 0.0)
    places, variance = place_all(100 + np.arange(5.0)[:, None] * np.ones(7))
    assert not places[:, 1].any() and variance[0] == pytest.approx(1) and variance[1] == 0


def test_at_most_so_many_rows_are_placed_drawn_uniformly_and_copies_at_the_place_of_the_first(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr("eo_ssl.curation.projection.MOST_ROWS", 60)
    points, group = rng.normal(size=(100, 4)).astype(np.float32), np.repeat(np.arange(100), 2)
    seen = np.zeros(200)
    for seed in range(200):
        found = project_rows(points, group, np.random.default_rng(seed))
        assert len(found.rows) == 60 and (np.diff(found.rows) > 0).all()
        seen[found.rows] += 1
        twins = np.flatnonzero((found.rows[:-1] % 2 == 0) & (np.diff(found.rows) == 1))
        np.testing.assert_allclose(found.places[twins], found.places[twins + 1], atol=1e-5)
    assert abs(seen / 200 - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 200)
    again = project_rows(points, group, np.random.default_rng(199))
    assert again.places.tobytes() == found.places.tobytes()


def test_the_map_of_a_memory_map_is_that_of_the_array_and_of_the_scale_that_was_selected_on(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    values = (rng.normal(size=(90, 6)) * (1000, 1, 1, 1, 1, 1)).astype(np.float16)
    mapped = allocate_mapped(tmp_path, values.shape, np.float16)
    mapped[:] = values
    method = Random(scaling="zscore")
    plain, paged = (curate(x, 0.5, np.random.default_rng(3), method=method) for x in (values, mapped))
    np.testing.assert_array_equal(plain.projection.places, paged.projection.places)
    assert plain.report.projected_variance == plain.projection.variance
    assert plain.report.projected_variance[0] < 0.5  # the wide column counts no more than others


def test_tables_name_the_place_of_every_row_that_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr("eo_ssl.curation.projection.MOST_ROWS", 30)
    points = rng.normal(size=(50, 3))
    points[25:30] = points[20:25]
    identities = np.r_[np.arange(25), np.arange(20, 25), np.arange(30, 50)]
    selection = curate(points, 0.4, np.random.default_rng(0), context=Context(identities=identities))
    names = np.arange(100, 200, 2)
    write_subset(tmp_path, selection, names, left_out={"near test": np.array([1, 3])})
    kept, dropped = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("subset", "dropped"))
    places = {}
    for table in (kept, dropped):
        for row, x, y in zip(*(table[name].to_pylist() for name in ("row", "x", "y")), strict=True):
            places[row] = (x, y)
    assert len(places) == 52 and places[1] == places[3] == (None, None)
    placed = {row: place for row, place in places.items() if place != (None, None)}
    wanted = zip(names[selection.projection.rows].tolist(), selection.projection.places.tolist(), strict=True)
    assert placed == {row: tuple(place) for row, place in wanted} and len(placed) == 30
    assert set(kept["row"].to_pylist()) | set(dropped["row"].to_pylist()) == {*names.tolist(), 1, 3}
    report = CurationReport.from_json(json.loads((tmp_path / "curation_report.json").read_text()))
    assert report.projected_variance == selection.projection.variance


@pytest.mark.parametrize("method", [Hierarchical(levels=(8, 2), n_resample=1), Density(), Random()])
def test_the_uniform_draw_is_counted_by_cluster(rng: np.random.Generator, method: object) -> None:
    points = np.r_[rng.normal(size=(90, 3)), rng.normal(8, 1, size=(10, 3))]
    report = curate(points, 0.3, np.random.default_rng(0), method=method, clusters=6).report  # type: ignore[arg-type]
    assert len(report.cluster_chance) == len(report.cluster_rows) and sum(report.cluster_chance) == report.chance.rows
    assert compute_normalised_entropy(np.array(report.cluster_chance)) == report.chance.cluster_entropy
    assert all(drawn <= there for drawn, there in zip(report.cluster_chance, report.cluster_rows, strict=True))
    assert curate(points, 0.3, np.random.default_rng(0), method=Random(), clusters=0).report.cluster_chance == ()


def test_a_report_of_an_earlier_version_opens_without_what_it_did_not_have(rng: np.random.Generator) -> None:
    plain = curate(rng.normal(size=(30, 3)), 0.5, np.random.default_rng(0)).report.to_json()
    assert CurationReport.from_json(json.loads(json.dumps(plain))).to_json() == plain
    earlier = CurationReport.from_json(
        {k: v for k, v in plain.items() if k not in ("cluster_chance", "projected_variance")}
    )
    assert earlier.cluster_chance == earlier.projected_variance == ()


def test_events_have_a_map_of_their_own_and_a_resumed_schedule_the_same(rng: np.random.Generator) -> None:
    looks = [rng.normal(size=(40, 5)) for _ in range(3)]
    config = DynamicConfig(warmup=1, interval=1, keep=0.5, method=Random(), readiness=Readiness(full=0.0))
    whole, tables = DynamicSchedule(config), []
    for points in looks:
        whole.update(points)
        assert whole.last is not None
        tables.append(tabulate_selection(whole.last))
    assert not tables[0]["x"].equals(tables[1]["x"])
    broken = DynamicSchedule(config)
    broken.update(looks[0])
    resumed = DynamicSchedule(config)
    resumed.load_state_dict(json.loads(json.dumps(broken.state_dict())))
    for points, table in zip(looks[1:], tables[1:], strict=True):
        resumed.update(points)
        assert resumed.last is not None and tabulate_selection(resumed.last).equals(table)

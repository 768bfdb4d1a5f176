"""Leakage: rows near test footprints, by distances that are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod

from eo_ssl.corpus import Corpus
from eo_ssl.curation import Random
from eo_ssl.curation.leakage import find_rows_alike, find_rows_near
from eo_ssl.embedding import CandidateRows, open_tests, prepare_encoder
from eo_ssl.errors import UserError
from eo_ssl.evaluation import extract_features, open_corpus_source
from eo_ssl.pretraining import DataSelection, open_training_data
from eo_ssl.sample import ArchiveSpec, make_archive
from eo_ssl.workflows.curate import main as curate
from eo_ssl.workflows.ingest import main as ingest
from worlds.benchmarks import make_eurosat

GEOD = Geod(a=6_371_008.8, b=6_371_008.8)


def square(lon: float, lat: float, side_m: float) -> list[float]:
    """A box around a place; across the antimeridian its west lies east of its east."""
    half = side_m / 2
    west, _, _ = GEOD.fwd(lon, lat, 270, half)
    east, _, _ = GEOD.fwd(lon, lat, 90, half)
    _, north, _ = GEOD.fwd(lon, lat, 0, half)
    _, south, _ = GEOD.fwd(lon, lat, 180, half)
    return [west, south, east, north]


@given(
    st.floats(-180, 180),
    st.floats(-75, 75),
    st.floats(0, 360),
    st.floats(100, 40_000),
    st.sampled_from([640.0, 2640.0]),
)
@settings(max_examples=150, deadline=None)
def test_a_row_is_near_when_its_edge_is(lon: float, lat: float, azimuth: float, apart_m: float, side_m: float) -> None:
    """Never missed, and never found where even the corners are farther than the distance."""
    other_lon, other_lat, _ = GEOD.fwd(lon, lat, azimuth, apart_m)
    if abs(other_lat) > 80:
        return
    boxes, tested = np.asarray([square(other_lon, other_lat, side_m)]), np.asarray([square(lon, lat, side_m)])
    nearest, farthest = max(apart_m - side_m * np.sqrt(2), 0), apart_m
    assert find_rows_near(boxes, tested, distance_m=farthest)[0]
    if nearest > 50:
        assert not find_rows_near(boxes, tested, distance_m=0.95 * nearest - 20)[0]


def test_touching_boxes_lie_at_no_distance_also_across_the_antimeridian() -> None:
    tested = np.asarray([[179.9, 10.0, -179.9, 10.2]])
    boxes = np.asarray(
        [[-179.9, 10.0, -179.7, 10.2], [179.7, 10.2, 179.9, 10.4], [-179.8, 10.0, -179.6, 10.2], [0, 10, 0.2, 10.2]]
    )
    assert find_rows_near(boxes, tested, distance_m=0).tolist() == [True, True, False, False]
    gap = 6_371_008.8 * np.radians(0.1) * np.cos(np.radians(10.2))
    assert find_rows_near(boxes, tested, distance_m=gap * 1.001)[2]
    assert not find_rows_near(boxes, tested, distance_m=gap * 0.999)[2]


def test_rows_and_test_images_without_a_place_are_near_nothing() -> None:
    box, nowhere = [10.0, 50.0, 10.1, 50.1], [np.nan] * 4
    assert find_rows_near(np.asarray([box, nowhere]), np.asarray([nowhere, box]), distance_m=1).tolist() == [
        True,
        False,
    ]
    assert not find_rows_near(np.asarray([box]), np.asarray([nowhere]), distance_m=1e6).any()
    with pytest.raises(UserError, match="a distance of at least 0 m, got -1"):
        find_rows_near(np.asarray([box]), np.asarray([box]), distance_m=-1)


def test_many_rows_are_those_of_all_pairs(rng: np.random.Generator) -> None:
    """More rows than a chunk, against every pair."""
    centres = rng.uniform([-20, 30], [20, 60], (20_000, 2))
    boxes = np.concatenate([centres - 0.01, centres + 0.01], axis=1)
    tested = boxes[rng.choice(20_000, 30, replace=False)] + 0.05
    expected = np.zeros(20_000, dtype=bool)
    for other in tested:
        north = np.maximum(np.maximum(boxes[:, 1] - other[3], other[1] - boxes[:, 3]), 0)
        east = np.maximum(np.maximum(boxes[:, 0] - other[2], other[0] - boxes[:, 2]), 0)
        most = np.cos(np.radians(np.maximum(boxes[:, 3], other[3])))
        expected |= 6_371_008.8 * np.radians(np.hypot(north, east * most)) <= 20_000
    assert 30 < expected.sum() < 5000
    np.testing.assert_array_equal(find_rows_near(boxes, tested, distance_m=20_000), expected)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `corpus` to train on, and one of the same ground that is `judged` by some of its tiles."""
    root = tmp_path_factory.mktemp("leakage")
    make_archive(root / "archive", seed=3, spec=ArchiveSpec(sites=2, dates=2, size_px=192))
    ingest("sample_s2_l2a", root / "archive", root / "corpus", size_px=32, dask="synchronous")
    shares = {"shares": (0.93, 0.0, 0.07), "seed": 5}
    ingest("sample_s2_l2a", root / "archive", root / "judged", size_px=32, dask="synchronous", **shares)
    return root


def test_tiles_near_the_test_split_are_left_out_with_the_reason(corpora: Path, tmp_path: Path) -> None:
    """From the command to training: none of what a pool holds lies near a test tile of the other corpus."""
    (stream,) = Corpus.open(corpora / "corpus").streams
    options = {"keep": 1, "method": Random(), "duplicates": "keep", "audit": str(corpora / "judged")}
    for distance_m in (0.0, 200.0):
        out = tmp_path / f"subset_{distance_m:g}"
        curate(corpora / "corpus", out, audit_distance_m=distance_m, **options)
        kept, dropped = (pq.read_table(out / f"{name}.parquet") for name in ("subset", "dropped"))
        index = Corpus.open(corpora / "corpus").index(stream)
        own, other = (read_boxes(corpora / name, stream) for name in ("corpus", "judged"))
        tested = other[np.asarray(Corpus.open(corpora / "judged").index(stream)["split"].to_pylist()) == "test"]
        train = np.flatnonzero(np.asarray(index["split"].to_pylist()) == "train")
        gaps = np.maximum(np.maximum(own[train, None, :2] - tested[:, 2:], tested[:, :2] - own[train, None, 2:]), 0)
        gaps *= [111_195 * np.cos(np.radians(tested[:, 3].max())), 111_195]
        near = (np.hypot(gaps[..., 0], gaps[..., 1]) <= distance_m + 1e-6).any(axis=1)
        assert near.any() and not near.all()
        assert kept["row"].to_pylist() == train[~near].tolist()
        assert dropped["row"].to_pylist() == train[near].tolist() and set(dropped["reason"].to_pylist()) == {
            "near test"
        }
        pool = open_training_data(DataSelection((corpora / "corpus",), subsets=(out,))).pool
        assert pool.tolist() == train[~near].tolist()
        assert f"{near.sum()} tiles within {distance_m:g} m of the" in (out / "curation_report.json").read_text()
    with pytest.raises(
        UserError, match=r"expected tiles farther than 1e.06 m from the .* got none; lower the distance"
    ):
        curate(corpora / "corpus", tmp_path / "none", audit_distance_m=1e6, **options)


def normalise(values: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    scaled = (values - mean) / deviation
    return np.asarray(scaled / np.linalg.norm(scaled, axis=1, keepdims=True))


@pytest.mark.parametrize("scale", ["l2", "zscore", "zscore_l2"])
def test_rows_alike_are_those_of_the_largest_cosine(scale: str, rng: np.random.Generator) -> None:
    """More rows than a part, against every pair; z-scores are those of the rows, not of the test images."""
    points = rng.normal(3, [1, 5, 0.2, 2], (20_000, 4)).astype(np.float32)
    tested = np.concatenate([rng.normal(2, 4, (30, 4)), points[[17, 19_999]]]).astype(np.float32)
    moments = (np.zeros(4), np.ones(4)) if scale == "l2" else (points.mean(axis=0), points.std(axis=0))
    nearest = (normalise(points, *moments) @ normalise(tested, *moments).T).max(axis=1)
    for cosine in (0.999, 1.0):
        clear = np.abs(nearest - cosine) > 1e-5
        found = find_rows_alike(points, tested, scale=scale, cosine=cosine)  # type: ignore[arg-type]
        assert found[[17, 19_999]].all() and 2 <= found.sum() < 20_000
        np.testing.assert_array_equal(found[clear], nearest[clear] >= cosine)
    for cosine in (0.0, 1.01):
        with pytest.raises(UserError, match="expected a cosine above 0 and at most 1, got"):
            find_rows_alike(points, tested, scale="l2", cosine=cosine)
    with pytest.raises(UserError, match="expected test images of 4 features, as many as a tile's, got 3"):
        find_rows_alike(points, tested[:, :3], scale="l2", cosine=0.9)


def test_tiles_that_look_like_test_images_are_left_out(corpora: Path, tmp_path: Path) -> None:
    """By the features of the encoder, beside those that lie near: what is left has a smaller cosine."""
    (stream,) = Corpus.open(corpora / "corpus").streams
    options = {"keep": 1, "method": Random(), "duplicates": "keep", "audit": str(corpora / "judged")}
    options["audit_distance_m"] = 0.0
    curate(corpora / "corpus", tmp_path / "by_place", **options)
    away = pq.read_table(tmp_path / "by_place" / "subset.parquet")["row"].to_numpy()
    own, judged = (Corpus.open(corpora / name) for name in ("corpus", "judged"))
    tested = np.flatnonzero(np.asarray(judged.index(stream)["split"].to_pylist()) == "test")
    encoder = prepare_encoder("imagestats", statistics=(own, stream), seed=0)
    features, goal = (
        extract_features(encoder, open_corpus_source(corpus, stream, rows=rows)).x.astype(np.float16).astype(np.float32)
        for corpus, rows in ((own, away), (judged, tested))
    )
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation[deviation == 0] = np.inf
    nearest = (normalise(features, mean, deviation) @ normalise(goal, mean, deviation).T).max(axis=1)
    several = np.sort(nearest)
    widest = len(several) // 4 + int(np.argmax(np.diff(several[len(several) // 4 : -1])))
    similarity = float(several[widest : widest + 2].mean())
    curate(corpora / "corpus", tmp_path / "by_looks", audit_similarity=similarity, **options)
    kept, dropped = (pq.read_table(tmp_path / "by_looks" / f"{name}.parquet") for name in ("subset", "dropped"))
    assert kept["row"].to_pylist() == away[nearest < similarity].tolist()
    reasons = dict(zip(dropped["row"].to_pylist(), dropped["reason"].to_pylist(), strict=True))
    assert [row for row in reasons if reasons[row] == "like test"] == away[nearest >= similarity].tolist() != []
    assert "with a cosine of" in (tmp_path / "by_looks" / "curation_report.json").read_text()
    with pytest.raises(UserError, match=r"expected tiles less like the .* than a cosine of 0\.001, got none"):
        curate(corpora / "corpus", tmp_path / "none", encoder="rcf", audit_similarity=0.001, **options)
    with pytest.raises(UserError, match="--audit with the test images that a similarity is to, got none"):
        curate(corpora / "corpus", tmp_path / "none", audit_similarity=0.9)


def read_boxes(corpus: Path, stream: str) -> np.ndarray:
    index = Corpus.open(corpus).index(stream)
    return np.stack([index[name].to_numpy() for name in ("xmin", "ymin", "xmax", "ymax")], axis=1)


def test_benchmarks_are_audited_by_name_and_say_when_they_have_no_places(tmp_path: Path) -> None:
    make_eurosat(tmp_path / "eurosat", per_class=5)
    tests = open_tests("eurosat", data=tmp_path / "eurosat")
    assert len(tests.boxes) == 10 and tests.name == "10 test images of eurosat"
    placeless = replace(tests, boxes=np.full((10, 4), np.nan))
    rows = CandidateRows(None, "s", np.arange(3))  # type: ignore[arg-type]  # whose index nobody reads
    away = rows.keep_away(placeless, distance_m=10)
    assert away.rows.tolist() == [0, 1, 2] and "have no places: which tiles lie near" in away.notes[0]
    with pytest.raises(UserError, match="expected the root folder of eurosat, got none; name it with --audit_data"):
        open_tests("eurosat")

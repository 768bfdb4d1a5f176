"""SimCore against the loop of the paper, planted look-alikes, and the target sets that the command opens."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eo_ssl.cli import main
from eo_ssl.corpus import Corpus, IngestConfig, find_tiles_within, ingest, read_regions
from eo_ssl.curation import Candidates, Context, Hierarchical, SimCore, curate
from eo_ssl.curation import towards_targets as towards
from eo_ssl.curation.embeddings import rescale
from eo_ssl.errors import UserError
from eo_ssl.manifest import require
from eo_ssl.sensors import sensor
from fake_scenes import FakeProduct, card
from worlds.benchmarks.eurosat import make_eurosat


def unit(rng: np.random.Generator, n: int, d: int = 6) -> np.ndarray:
    return rescale(rng.normal(size=(n, d)).astype(np.float32), "l2")


def take_slowly(points: np.ndarray, centroids: np.ndarray, count: int) -> list[int]:
    """Round by round, centroid by centroid: the most similar row that none has."""
    cosine, taken = centroids.astype(np.float64) @ points.T, []
    while len(taken) < count:
        for row in cosine:
            order = [i for i in np.argsort(-row) if i not in taken]
            taken += [int(i) for i in order[:1]]
    return taken[:count]


@pytest.mark.parametrize("least", [1, 64])
def test_rows_are_taken_as_in_the_loop(monkeypatch: pytest.MonkeyPatch, least: int) -> None:
    """However few rows are looked up at a time, and in chunks of any size."""
    monkeypatch.setattr(towards, "_LEAST", least)
    monkeypatch.setattr(towards, "_CHUNK", 37)
    rng = np.random.default_rng(0)
    points = unit(rng, 200)
    near = rescale(points[:1] + 0.05 * unit(rng, 5), "l2")  # centroids that want the same rows
    for centroids in (unit(rng, 7), near, points[:1]):
        for count in (1, 9, 60, 200):
            rows, cosine = towards.take_most_similar(points, centroids, count)
            assert rows.tolist() == take_slowly(points, centroids, count)
            asked = centroids[np.arange(count) % len(centroids)]
            np.testing.assert_allclose(cosine, (asked * points[rows]).sum(axis=1), atol=1e-6)


def test_look_alikes_of_the_target_set_are_found_and_of_all_its_parts() -> None:
    """Of ten groups the target has two, a large and a small one: both give half of the rows."""
    rng = np.random.default_rng(1)
    group = rng.permutation(np.repeat(np.arange(10), 80))
    points = (np.eye(10)[group] + rng.normal(size=(800, 10)) * 0.1).astype(np.float32)
    of_target = np.repeat([3, 7], [190, 10])
    target = (np.eye(10)[of_target] + rng.normal(size=(200, 10)) * 0.1).astype(np.float32)
    context = Context(towards=target)
    selection = curate(points, 100, np.random.default_rng(0), method=SimCore(clusters=2), context=context)
    assert np.bincount(group[selection.rows], minlength=10)[[3, 7]].tolist() == [50, 50]
    lengths = np.linalg.norm(points, axis=1)
    stretched = points / lengths[:, None] * rng.uniform(0.1, 9, (800, 1))  # cosines do not mind
    again = curate(stretched, 100, np.random.default_rng(0), method=SimCore(clusters=2), context=context)
    np.testing.assert_array_equal(again.rows, selection.rows)


def test_the_target_set_is_scaled_by_the_means_of_the_rows() -> None:
    """By its own a target far off would look like the middle of them."""
    rng = np.random.default_rng(2)
    points = (rng.normal(size=(400, 4)) * [1, 5, 50, 1] + [0, 10, 0, 1000]).astype(np.float32)
    target = points[points[:, 1] > 16]
    for scaling in ("zscore", "none"):
        method = SimCore(clusters=1, scaling=scaling)  # type: ignore[arg-type]
        kept = curate(points, 40, np.random.default_rng(0), method=method, context=Context(towards=target)).rows
        middle = rescale(target, method.scaling, reference=(points, None))
        middle = rescale(middle, "l2").mean(axis=0, dtype=np.float64)
        wide = (points - points.mean(axis=0, dtype=np.float64)) / (
            points.std(axis=0, dtype=np.float64) if scaling == "zscore" else 1
        )
        best = np.argsort(-(wide / np.linalg.norm(wide, axis=1, keepdims=True)) @ middle)[:40]
        assert kept.tolist() == np.sort(best).tolist()


def test_the_notes_say_how_similar_the_rows_are_and_where_the_paper_stops() -> None:
    angle = np.deg2rad([0, 1, 2, 3, 30, 31, 80, 81])
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    goal = points[:1]
    result = SimCore().pick(Candidates(points, towards=goal), 7, np.random.default_rng(0))
    assert result.rows.tolist() == list(range(7))
    said = f"mean cosine 1.000 first and {np.cos(angle[6]):.3f} last; the paper stops at 4 rows"
    assert result.notes[0].startswith("1 centroids of the target set") and said in result.notes[0]
    assert result.notes[1] == "facility location 1 of at most 1"
    both = points[[0, 7]]  # one row for two centroids: the other is only as near as the first one
    result = SimCore().pick(Candidates(points, towards=both), 1, np.random.default_rng(0))
    value = 1 + np.cos(angle[7]) if result.rows[0] in (0, 7) else 0
    assert result.notes[1] == f"facility location {value:.6g} of at most 2"
    assert "stops at 4 rows" in SimCore().pick(Candidates(points, towards=both), 6, np.random.default_rng(0)).notes[0]
    middle = SimCore(clusters=1).pick(Candidates(points, towards=both), 1, np.random.default_rng(0))
    assert middle.rows.tolist() == [5] and f"cosine {np.cos(np.deg2rad(40.5 - 31)):.3f} first" in middle.notes[0]
    assert "stops" not in SimCore().pick(Candidates(points, towards=both), 4, np.random.default_rng(0)).notes[0]


def test_small_and_degenerate_sets_are_no_trouble() -> None:
    same = np.ones((5, 3), np.float32)
    for points, goal in ((same, same), (np.eye(3, dtype=np.float32), same), (np.zeros((6, 3), np.float32), same)):
        for target in range(1, len(points)):
            rows = SimCore().pick(Candidates(points, towards=goal), target, np.random.default_rng(0)).rows
            assert len(np.unique(rows)) == target
    with pytest.raises(UserError, match="expected a target set for simcore, got none"):
        curate(np.eye(4), 2, np.random.default_rng(0), method=SimCore())
    with pytest.raises(UserError, match="embedded by the same encoder, 4 features, got 3"):
        curate(np.eye(4), 2, np.random.default_rng(0), method=SimCore(), context=Context(towards=same))
    with pytest.raises(UserError, match="finite embeddings"):
        curate(np.eye(3), 2, np.random.default_rng(0), method=SimCore(), context=Context(towards=same * np.nan))
    with pytest.raises(UserError, match="at least 1 cluster"):
        SimCore(clusters=0)
    with pytest.raises(UserError, match="expected a selector towards a target set, got hierarchical"):
        curate(np.eye(3), 2, np.random.default_rng(0), context=Context(towards=same))
    assert SimCore.needs_target and not Hierarchical.needs_target


def grow(
    out: Path, brightness: list[float], *, size_px: int = 16, quantity: str = "boa_reflectance", **changes
) -> Path:
    """A corpus of one scene, one row of tiles of given brightness, all for training, from 9 degrees east on."""
    rng = np.random.default_rng(5)
    scene = np.repeat(np.asarray(brightness, np.float32), size_px)[None, None] * np.ones((3, size_px, 1), np.float32)
    scene = scene + rng.normal(size=scene.shape).astype(np.float32) * 0.002
    bands = changes.get("bands", ("B02", "B03", "B04"))
    scene = scene[np.arange(len(bands)) % 3]
    product = FakeProduct("fake/0", card(quantity=quantity, labels=None, **changes), scene)
    config = IngestConfig(size_px=size_px, min_valid=0.0, shares=(1.0, 0.0, 0.0))
    ingest([product], out=out, config=config, client="synchronous")
    return out


BRIGHT = [0.1 + 0.02 * k for k in range(24)]


def run(corpus: Path, out: Path, *options: str) -> list[int]:
    keep = ["--keep", "4", "--encoder", "imagestats", "--method", "SimCore", "--method.scaling", "none"]
    assert main(["curate", "--corpus", str(corpus), "--out", str(out), *keep, *options]) == 0
    return pq.read_table(out / "subset.parquet")["row"].to_pylist()


def test_another_corpus_of_the_same_bands_is_a_target_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tiles of twice the size, as bright as the last ones."""
    corpus = grow(tmp_path / "c", BRIGHT)
    target = grow(tmp_path / "target", BRIGHT[-3:], size_px=32)
    rows = run(corpus, tmp_path / "s", "--towards", str(target))
    assert len(rows) == 4 and min(rows) > 12  # of the brighter half
    made = require(tmp_path / "s", "curate")
    assert made.config["towards"] == str(target) and made.inputs["towards"] == Corpus.open(target).fingerprint
    notes = json.loads((tmp_path / "s" / "curation_report.json").read_text())["notes"]
    assert notes[0].startswith("the target set are 3 tiles of s2_boa_b02b03b04_10m_32px") and "cosine" in notes[1]
    other = grow(tmp_path / "other", BRIGHT, bands=("B02", "B03", "B08"))
    capsys.readouterr()
    command = ["curate", "--corpus", str(corpus), "--out", str(tmp_path / "t"), "--keep", "4"]
    simcore = ["--method", "SimCore", "--towards"]
    for options, words in (
        (
            [*simcore, str(other)],
            "one stream of .*other with the quantity and bands of s2_boa_b02b03b04_10m_16px, got s2",
        ),
        ([*simcore, str(target), "--split", "val"], "tiles in the split"),
        ([*simcore, str(tmp_path / "nowhere")], "expected a corpus"),
        ([*simcore[:2]], "expected a target set for simcore, got none"),
        (["--towards", str(target)], "expected a selector towards a target set, got hierarchical"),
        ([*simcore, str(target), "--towards_data", "x"], "expected --towards_data with the name of a benchmark"),
        ([*simcore, "eurosat"], "expected the root folder of eurosat, got none"),
        ([*simcore, str(tmp_path / "no.geojson")], "expected the file"),
    ):
        assert main([*command, *options]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert re.search(words, said), said
    assert not (tmp_path / "t").exists()


def test_tiles_within_regions_are_a_target_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = grow(tmp_path / "c", BRIGHT)
    (name,) = Corpus.open(corpus).streams
    index = Corpus.open(corpus).index(name).to_pylist()
    middle = (index[9]["xmin"] + index[9]["xmax"]) / 2, (index[9]["ymin"] + index[9]["ymax"]) / 2
    square = [[middle[0] + dx, middle[1] + dy] for dx, dy in ((0, 0), (1e-4, 0), (1e-4, 1e-4), (0, 1e-4), (0, 0))]
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [square]}}
    regions = tmp_path / "here.geojson"
    regions.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    assert 9 in run(corpus, tmp_path / "s", "--towards", str(regions))
    notes = json.loads((tmp_path / "s" / "curation_report.json").read_text())["notes"]
    assert notes[0] == "the target set are 1 tiles within the regions of here.geojson"
    rows = np.arange(24)[::-1]
    shape = read_regions(regions)
    assert find_tiles_within(shape, Corpus.open(corpus), name, rows).tolist() == [14]  # the tenth tile, from the end
    wide = [[-10, 40], [9.01, 40], [9.01, 50], [-10, 50], [-10, 40]]
    regions.write_text(json.dumps({"type": "Polygon", "coordinates": [wide]}))
    expected = [row for row, tile in enumerate(index) if tile["xmin"] <= 9.01]
    assert find_tiles_within(read_regions(regions), Corpus.open(corpus), name, np.arange(24)).tolist() == expected
    assert 0 < len(expected) < 24
    command = ["curate", "--corpus", str(corpus), "--out", str(tmp_path / "t"), "--keep", "4", "--method", "SimCore"]
    away = {"type": "Point", "coordinates": [100, 0]}
    crossed = {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]}
    metres = {"type": "Point", "coordinates": [500000, 4999000]}
    for content, words in (
        (json.dumps(away), "expected tiles to select from within the regions of"),
        (json.dumps(crossed), "expected valid outlines"),
        (json.dumps(metres), "expected degrees in"),
        (json.dumps({**away, "crs": {"properties": {"name": "EPSG:32632"}}}), "expected longitude and latitude"),
        (json.dumps({"type": "FeatureCollection", "features": []}), "expected a region in"),
        (json.dumps({"type": "Nonsense"}), "expected GeoJSON in"),
        ("[1, 2", "expected JSON in"),
    ):
        regions.write_text(content)
        assert main([*command, "--towards", str(regions)]) == 2
        assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "t").exists()


def test_boxes_over_the_antimeridian_reach_both_ways(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Known:
        def index(self, stream: str, *, columns: list[str], rows: np.ndarray) -> pa.Table:
            boxes = [(179.0, 0.0, -179.0, 1.0), (-179.5, 0.0, -179.2, 1.0), (0.0, 0.0, 1.0, 1.0), (None, 0.0, 1.0, 1.0)]
            values = zip(*[boxes[row] for row in rows], strict=True)
            return pa.table({name: pa.array(v, pa.float64()) for name, v in zip(columns, values, strict=True)})

    for lon, expected in ((179.5, [0]), (-179.3, [0, 1]), (0.5, [2]), (90, []), (-180, [0])):
        path = tmp_path / "r.json"
        path.write_text(json.dumps({"type": "Point", "coordinates": [lon, 0.5]}))
        assert find_tiles_within(read_regions(path), Known(), "s", np.arange(4)).tolist() == expected  # type: ignore[arg-type]


def test_the_training_images_of_a_benchmark_are_a_target_set(tmp_path: Path) -> None:
    known = sensor("sentinel2_l1c").band_names
    corpus = grow(tmp_path / "c", BRIGHT, quantity="toa_reflectance", sensor="sentinel2_l1c", bands=known)
    root = make_eurosat(tmp_path / "eurosat", per_class=5)
    rows = run(corpus, tmp_path / "s", "--towards", "eurosat", "--towards_data", str(root))
    notes = json.loads((tmp_path / "s" / "curation_report.json").read_text())["notes"]
    assert len(rows) == 4 and notes[0] == "the target set are 30 training images of eurosat"
    assert notes[1].startswith("30 centroids")

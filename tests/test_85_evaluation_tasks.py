"""Places are held out whole, sensors meet by band names, and what pretraining saw is not tested."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eo_ssl.corpus import Stream
from eo_ssl.errors import UserError
from eo_ssl.evaluation import revisits
from eo_ssl.evaluation.sources import CorpusSource
from eo_ssl.evaluation.splits import Fold, SampleLocations, divide, group_sites
from eo_ssl.evaluation.tasks import make_corpus_task
from eo_ssl.sensors import Quantity
from fake_corpora import L5, S2, TOA, FakeCorpus, tiles


def places(products: list[str], boxes: list[tuple[float, float, float, float]]) -> SampleLocations:
    return SampleLocations(np.array(products), np.array(boxes, dtype=np.float64), np.zeros((len(products), 4)))


def test_overlapping_products_are_one_site() -> None:
    # a and c overlap only through b; d is elsewhere; e has no georeference; two tiles of b lie apart.
    nan = (np.nan,) * 4
    found = group_sites(
        places(
            ["e", "a", "b", "b", "c", "d"],
            [nan, (0, 0, 2, 2), (1, 1, 2, 2), (3, 3, 4, 4), (3.5, 3.5, 6, 6), (9, 9, 10, 10)],
        )
    )
    assert found.tolist() == [0, 1, 1, 1, 1, 2]


@pytest.mark.parametrize(("count", "folds"), [(2, 2), (4, 4), (13, 5)])
def test_each_site_is_tested_once_and_never_teaches_itself(rng: np.random.Generator, count: int, folds: int) -> None:
    site = rng.permutation(np.repeat(np.arange(count), rng.integers(2, 9, count)))
    division = divide(places([f"p{s}" for s in site], [(10.0 * s, 0, 10.0 * s + 1, 1) for s in site]))
    assert len(division.folds) == folds
    assert sorted(np.concatenate([fold.test for fold in division.folds])) == list(range(len(site)))
    for fold in division.folds:
        assert not set(site[fold.train]) & set(site[fold.test])
        assert len(fold.train) + len(fold.test) == len(site)


@pytest.mark.parametrize("flat", [True, False])
def test_single_site_is_cut_with_a_strip(flat: bool) -> None:
    y, x = (v.ravel() for v in np.mgrid[0:8, 0:12])
    boxes = np.stack([x, y, x + 1, y + 1], axis=1).astype(float)
    nan = np.full_like(boxes, np.nan)
    division = divide(SampleLocations(np.array(["p"] * 96), *((boxes, boxes) if flat else (nan, 8 * boxes))))
    assert sorted(np.concatenate([fold.test for fold in division.folds])) == list(range(96))
    for fold in division.folds:
        gap = np.abs(x[fold.train][:, None] - x[fold.test][None]).min()
        assert gap >= 2  # a whole column of tiles lies between
    assert len(np.unique(division.blocks)) == 16


def scenes(rng: np.random.Generator) -> list[tuple[FakeCorpus, str]]:
    corpus, parts = FakeCorpus(), []
    for stream, product in ((S2, "s2"), (L5, "l5")):
        labels = np.arange(40) % 2
        rows = [
            {"product_id": product, "label": int(v), "label_name": ("dark", "green")[v], "split": "test"}
            for v in labels
        ]
        rows[0] = {**rows[0], "label": -1, "label_name": ""}
        if stream is S2:
            rows[1] |= {"label": 2, "label_name": "only here"}
        parts.append(corpus.add(stream, tiles(rng, stream, labels), rows))
    return parts


def test_cross_sensor_task_by_translated_names(rng: np.random.Generator) -> None:
    parts = scenes(rng)
    task = make_corpus_task(parts, name="scenes", sensor="sentinel2_l1c", held_out="all")  # type: ignore[arg-type]
    assert {source.bands for source in task.sources} == {S2.bands} and len(task.labels) == 78
    assert len(task.folds) == 2 and "leave one of 2 sites out" in task.split
    assert any("1 test tiles left out" in note for note in task.notes) and "only here" in task.class_names
    assert any("named as sentinel2_l1c" in note for note in task.notes)
    with pytest.raises(UserError, match="expected one sensor in task scenes"):
        make_corpus_task(parts, name="scenes", held_out="all")  # type: ignore[arg-type]


def test_generated_data_are_said_to_be(rng: np.random.Generator) -> None:
    labels, said = np.arange(40) % 2, []
    for owner in ("Synthetic data", "Contains modified Copernicus Sentinel data"):
        rows = [
            {"product_id": f"p{i // 10}", "label": int(v), "label_name": str(v), "attribution": owner}
            for i, v in enumerate(labels)
        ]
        part = FakeCorpus().add(S2, tiles(rng, S2, labels), rows)
        said.append([note for note in make_corpus_task([part], name="t", held_out="all").notes if "generated" in note])  # type: ignore[list-item]
    assert len(said[0]) == 1 and said[1] == []


def test_twins_are_the_same_ground_at_another_time_or_from_the_other_side(rng: np.random.Generator) -> None:
    """Rows of three places: one seen in January, June and July, one in January and February, one without georeference."""
    box = {"xmin": 1.0, "ymin": 2.0, "xmax": 1.01, "ymax": 2.01}
    there = {**box, "xmin": 3.0, "xmax": 3.01}
    rows = [
        {**box, "month": 1, "orbit": "R1-ascending"},
        {**box, "month": 6, "orbit": "R2-descending"},
        {**box, "month": 7, "orbit": "R1-ascending"},
        {**there, "month": 1, "orbit": "R3-descending"},
        {**there, "month": 2, "orbit": "R3-ascending"},
        {"month": 1},
        {"month": 7},
    ]
    rows = [{**row, "product_id": f"p{i % 2}", "label": 0, "label_name": "a"} for i, row in enumerate(rows)]
    radar = Stream("sentinel1_rtc", Quantity.GAMMA0, ("VV", "VH"), 10.0, 8)
    corpus, stream = FakeCorpus().add(radar, rng.random((7, 2, 8, 8)), rows)
    table = corpus.index(stream, columns=list(revisits.COLUMNS))
    source = CorpusSource(
        corpus.stream(stream), np.arange(7), "sentinel1_rtc", Quantity.GAMMA0, ("VV", "VH"), 10.0, (2, 8, 8), "x"
    )  # type: ignore[arg-type]

    def tested(count: int) -> list[Fold]:
        return [Fold(np.empty(0, dtype=np.int64), np.arange(count), np.empty(0, dtype=np.int64))]

    season, orbit = revisits.find_revisits(source, table, tested(7))
    assert season.source.rows.tolist() == [2, 0, 0, 3, 4, 5, 6]  # six months apart, then five; a month is no season
    assert orbit.source.rows.tolist() == [1, 2, 1, 4, 3, 5, 6]  # the nearest in time from the other side
    assert "43 % of the test tiles" in season.about and season.source.fingerprint != source.fingerprint
    optical = replace(source, sensor="sentinel2_l1c", quantity=TOA)
    assert [revisit.name for revisit in revisits.find_revisits(optical, table, tested(7))] == ["season"]
    some = replace(source, rows=np.array([1, 4]))
    assert revisits.find_revisits(some, table, tested(2))[0].source.rows.tolist() == [
        0,
        4,
    ]  # also a tile that is not of the task


def test_tiles_that_pretraining_saw_are_not_tested(rng: np.random.Generator) -> None:
    corpus, labels = FakeCorpus(), np.arange(60) % 2
    rows = [
        {"product_id": f"p{i % 3}", "label": int(v), "label_name": str(v), "split": ("train", "val", "test")[i // 20]}
        for i, v in enumerate(labels)
    ]
    part = corpus.add(S2, tiles(rng, S2, labels), rows)
    unseen = make_corpus_task([part], name="t")  # type: ignore[list-item]
    assert set(unseen.tested) == set(range(20, 60)) and all(set(fold.train) <= set(range(20)) for fold in unseen.folds)
    assert len(make_corpus_task([part], name="t", held_out="all").tested) == 60  # type: ignore[list-item]
    for row in rows:
        row["split"] = "train"
    with pytest.raises(UserError, match="choose held_out = all"):
        make_corpus_task([part], name="t")  # type: ignore[list-item]


def test_corpus_task_refusals(rng: np.random.Generator) -> None:
    parts = scenes(rng)[:1]
    with pytest.raises(UserError, match="expected at least two classes"):
        make_corpus_task(parts, name="t", classes=["dark"])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="expected classes out of the labels dark, got 'water'"):
        make_corpus_task(parts, name="t", classes=["dark", "water"])  # type: ignore[arg-type]


def test_classes_that_never_share_two_sites_are_refused_in_a_sentence(rng: np.random.Generator) -> None:
    labels = np.arange(20) % 2
    rows = [{"product_id": f"p{v}", "label": int(v), "label_name": str(v), "split": "test"} for v in labels]
    part = FakeCorpus().add(S2, tiles(rng, S2, labels), rows)
    with pytest.raises(UserError, match="expected training and test samples in every fold of task t"):
        make_corpus_task([part], name="t", held_out="all")  # type: ignore[list-item]

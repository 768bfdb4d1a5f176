"""Another view of the ground stands in for a test tile: never one that taught, never one of another label, and its share is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from eo_ssl.corpus import Stream
from eo_ssl.evaluation.features import Computing
from eo_ssl.evaluation.predictions import Settings
from eo_ssl.evaluation.result_rows import judge
from eo_ssl.evaluation.revisits import COLUMNS, find_revisits
from eo_ssl.evaluation.seeds import load_candidates
from eo_ssl.evaluation.sources import open_corpus_source
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.studies import VariantGrid, expand_study
from eo_ssl.evaluation.tasks import Task, make_corpus_task
from eo_ssl.reporting.leaderboard import format_markdown
from eo_ssl.sensors import Quantity
from fake_corpora import S2, FakeCorpus

NONE = np.empty(0, dtype=np.int64)


def place(number: int) -> dict[str, Any]:
    return {"xmin": float(number), "ymin": 2.0, "xmax": number + 0.01, "ymax": 2.01}


def labelled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"label": "ab".index(row["label_name"]), "source": f"{i}", **row} for i, row in enumerate(rows)]


def seen(task: Task, name: str = "season") -> list[int]:
    """Row of the image that is shown in place of each image of the task."""
    (revisit,) = [one for one in task.revisits[0] if one.name == name]
    return [int(row) for row in revisit.source.rows]


def corpus_of(rows: list[dict[str, Any]], rng: np.random.Generator, stream: Stream = S2) -> tuple[FakeCorpus, str]:
    return FakeCorpus().add(stream, rng.uniform(0.05, 0.3, (len(rows), len(stream.bands), 8, 8)), labelled(rows))


DECLARED = [
    {**place(1), "month": 1, "label_name": "a", "benchmark_split": "test"},
    {**place(1), "month": 7, "label_name": "a", "benchmark_split": "train"},  # half a year apart, but it teaches
    {**place(1), "month": 5, "label_name": "a", "benchmark_split": "test"},
    {**place(2), "month": 1, "label_name": "b", "benchmark_split": "test"},
    {**place(2), "month": 7, "label_name": "b", "benchmark_split": "train"},
    {**place(3), "month": 1, "label_name": "b", "benchmark_split": "test"},
    {**place(3), "month": 7, "label_name": "a", "benchmark_split": "test"},  # something else by now
    {**place(3), "month": 10, "label": -1, "label_name": "b", "benchmark_split": ""},  # nobody knows what it was
]


def test_a_declared_split_gives_no_training_tile_as_a_twin(rng: np.random.Generator) -> None:
    task = make_corpus_task([corpus_of(DECLARED, rng)], name="t", held_out="all")  # type: ignore[list-item]
    assert seen(task) == [2, 1, 0, 3, 4, 5, 6]
    assert task.revisits[0][0].share == pytest.approx(2 / 5)  # of the five that are tested


def test_a_validation_tile_is_no_twin_and_another_fold_s_training_tile_is(rng: np.random.Generator) -> None:
    rows = [{**place(1), "month": month, "label_name": "a"} for month in (1, 7, 4)]
    corpus, stream = corpus_of([*rows, {"label_name": "b"}], rng)
    source = open_corpus_source(corpus, stream, rows=np.arange(4))  # type: ignore[arg-type]
    table = corpus.index(stream, columns=list(COLUMNS))

    def rows_of(*folds: Fold) -> list[int]:
        (revisit,) = find_revisits(source, table, folds)
        return [int(row) for row in revisit.source.rows]

    zero, one, three = (np.array([number]) for number in (0, 1, 3))
    assert rows_of(Fold(three, zero, NONE)) == [1, 1, 2, 3]
    assert rows_of(Fold(three, zero, one)) == [2, 1, 2, 3]  # the next best
    assert rows_of(Fold(three, zero, NONE), Fold(zero, one, NONE)) == [1, 2, 2, 3]  # row 0 teaches there


def test_sources_that_stand_later_in_a_task_know_their_folds(rng: np.random.Generator) -> None:
    first = [{"label_name": "ab"[i % 2], "benchmark_split": ("train", "test")[i // 2]} for i in range(4)]
    parts = [corpus_of(first, rng), corpus_of(DECLARED, rng)]
    task = make_corpus_task(parts, name="t", held_out="all")  # type: ignore[arg-type]
    assert task.revisits[0] == () and task.revisits[1][0].source.rows.tolist() == [2, 1, 0, 3, 4, 5, 6]


def test_the_other_orbit_keeps_to_the_same_rules(rng: np.random.Generator) -> None:
    radar = Stream("sentinel1_rtc", Quantity.GAMMA0, ("VV", "VH"), 10.0, 8)
    sides = ("R1-ascending", "R2-descending", "R2-descending", "R1-ascending", "R2-descending", "", "", "")
    rows = [{**row, "orbit": side} for row, side in zip(DECLARED, sides, strict=True)]
    task = make_corpus_task([corpus_of(rows, rng, radar)], name="t", held_out="all")  # type: ignore[list-item]
    assert seen(task, "orbit") == [2, 1, 0, 3, 4, 5, 6]


def test_the_share_with_a_twin_reaches_the_leaderboard(rng: np.random.Generator, tmp_path: Any) -> None:
    task = make_corpus_task([corpus_of(DECLARED, rng)], name="t", held_out="all")  # type: ignore[list-item]
    compared = expand_study(load_candidates(["imagestats"]), task, "robustness", grid=VariantGrid(), seed=0)
    revisit = [one for one in compared if "other season" in one.name]
    settings = Settings.of(["knn5"], shots=[0], draws=1, seed=0)
    rows, comparisons = judge(task, [compared[0], *revisit], settings, tmp_path, computing=Computing())
    assert "| other season (40 % of the tiles) |" in format_markdown(rows, comparisons)
    everywhere = replace(task, revisits=tuple((replace(own[0], share=1.0),) for own in task.revisits))
    names = [
        one.name
        for one in expand_study(load_candidates(["imagestats"]), everywhere, "robustness", grid=VariantGrid(), seed=0)
    ]
    assert "imagestats | other season" in names

"""Tasks: labelled images with their division into training and test, the classes, the blocks and the rule in words."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eo_ssl.corpus import Corpus
from eo_ssl.errors import UserError, suggest_nearest
from eo_ssl.evaluation.revisits import COLUMNS as REVISIT_COLUMNS
from eo_ssl.evaluation.revisits import Revisit, find_revisits
from eo_ssl.evaluation.sources import ImageSource, Matrix, Rows, locate_rows, open_corpus_source, rename_bands
from eo_ssl.evaluation.splits import Division, Fold, SampleLocations, divide
from eo_ssl.evaluation.task_metrics import Metric
from eo_ssl.fingerprints import fingerprint

HeldOut = Literal["unseen", "all"]
Kind = Literal["classification", "multilabel", "segmentation", "regression"]
METRICS: dict[Kind, tuple[Metric, ...]] = {
    "classification": ("accuracy", "balanced_accuracy"),
    "multilabel": ("micro_ap",),
    "segmentation": ("miou",),
    "regression": ("r2",),
}
IGNORED = -1
"""Class of a pixel of a mask that nobody is asked about."""
CorpusStream = tuple[Corpus, str]
COLUMNS = (
    *("product_id", "row_off", "col_off", "height", "width", "xmin", "ymin", "xmax", "ymax", "label", "label_name"),
    *("split", "benchmark_split", "source", "source_width_px", "source_height_px", "attribution"),
)


@runtime_checkable
class MaskedSource(ImageSource, Protocol):
    """Images with a class for each pixel."""

    def read_masks(self, positions: Rows, out: Rows) -> None:
        """Fill ``out`` [n, H, W] int64 with the class of each pixel, `IGNORED` where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Control:
    """Features that no encoder is needed for; what they reach is the floor of the task."""

    name: str
    x: Matrix
    "[n, d] float32, in the order of the task's samples"
    note: str

    @property
    def fingerprint(self) -> str:
        """Of the features."""
        return fingerprint([self.name, list(self.x.shape), _digest(self.x)])


def _digest(array: npt.NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@dataclass(frozen=True)  # no slots: the fingerprint is kept
class Task:
    """Labelled images of one or several sources; positions run through the sources one after the other."""

    name: str
    sources: tuple[ImageSource, ...]
    "with the same bands, by name"
    labels: npt.NDArray[Any]
    """classification: int64 [n], class of each image; multilabel: uint8 [n, K], 1 where a label holds; regression:
    float32 [n], value of each image; segmentation: int64 [n, 0], since the sources hold masks"""
    class_names: tuple[str, ...]
    "none for a regression"
    blocks: Rows
    "[n] images with equal numbers are resampled together"
    folds: tuple[Fold, ...]
    split: str
    "rule of the split, in words"
    metric: Metric
    notes: tuple[str, ...] = ()
    controls: tuple[Control, ...] = ()
    kind: Kind = "classification"
    partners: tuple[ImageSource, ...] = ()
    "images of a second sensor on the same ground, in the order of `sources`"
    rank: Rows | None = None
    """[n] place of each image among all by a name that outlives the corpus, so that draws do not depend on row
    order; None for positions"""
    places: npt.NDArray[np.float64] | None = None
    "[n, 4] xmin, ymin, xmax, ymax of each image in degrees, NaN without georeference; None where nothing is known"
    revisits: tuple[tuple[Revisit, ...], ...] = ()
    "of each source"
    kept: dict[Any, Any] = field(default_factory=dict, init=False, compare=False, repr=False)
    "statistics of training images, computed once"

    def __post_init__(self) -> None:
        """Check that everything speaks of the same images."""
        count = sum(len(source) for source in self.sources)
        if not len(self.labels) == len(self.blocks) == count:
            raise UserError(
                f"expected a label and a block for each of {count} images, got {len(self.labels)} and "
                f"{len(self.blocks)}; check task {self.name}"
            )
        shape = {"multilabel": (count, len(self.class_names)), "segmentation": (count, 0)}.get(self.kind, (count,))
        if self.labels.shape != shape or self.metric not in METRICS[self.kind]:
            raise UserError(
                f"expected labels {list(shape)} and a metric out of {', '.join(METRICS[self.kind])} for the "
                f"{self.kind} task {self.name}, got {list(self.labels.shape)} and {self.metric}; check the task"
            )
        if self.kind == "segmentation" and not all(isinstance(source, MaskedSource) for source in self.sources):
            raise UserError(
                f"expected sources with masks in the segmentation task {self.name}, got one without; check the task"
            )
        tested = self.tested
        if not len(tested) or any(not len(fold.train) for fold in self.folds):
            raise UserError(
                f"expected training and test samples in every fold of task {self.name}, got none in one "
                f"({self.split}); add labelled products"
            )
        if len(np.unique(tested)) < len(tested) or any(
            np.intersect1d(fold.train, fold.test).size for fold in self.folds
        ):
            raise UserError(
                f"expected each image of task {self.name} to be tested once and never by itself, got an overlap of "
                "the folds; check the task"
            )

    @property
    def tested(self) -> Rows:
        """Positions of all test items, fold after fold."""
        return np.concatenate([np.empty(0, dtype=np.int64), *(fold.test for fold in self.folds)])

    def by_source(self, rows: Rows) -> list[tuple[int, Rows]]:
        """Return for each source the place of its first image, and its own positions of ``rows``, ascending."""
        located = {source: own for source, _, own in locate_rows(self.sizes, rows)}
        empty = np.empty(0, dtype=np.int64)
        return [(sum(self.sizes[:number]), np.unique(located.get(number, empty))) for number in range(len(self.sizes))]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of images of each source."""
        return tuple(len(source) for source in self.sources)

    @cached_property
    def sensor_tasks(self) -> tuple[Task, Task]:
        """The task of each of the two sensors alone; made once, since each keeps statistics of its own."""
        return replace(self, partners=()), replace(self, sources=self.partners, partners=())

    @cached_property
    def fingerprint(self) -> str:
        """Of everything that decides a number: images, labels, blocks, folds, order of the draws, controls."""
        folds = [[fold.train.tolist(), fold.test.tolist(), fold.validation.tolist()] for fold in self.folds]
        return fingerprint(
            [
                self.name,
                [source.fingerprint for source in self.sources],
                [str(self.labels.dtype), list(self.labels.shape), _digest(self.labels)],
                self.blocks.tolist(),
                folds,
                self.kind,
                self.metric,
                self.class_names,
                [source.fingerprint for source in self.partners],
                None if self.rank is None else self.rank.tolist(),
                [control.fingerprint for control in self.controls],
            ]
        )


def make_corpus_task(
    corpora: Sequence[CorpusStream],
    *,
    name: str,
    sensor: str | None = None,
    classes: Sequence[str] | None = None,
    held_out: HeldOut = "unseen",
    metric: Metric = "balanced_accuracy",
) -> Task:
    """Return the task of telling the labels of corpus tiles, read from the index.

    The corpus's ``benchmark_split`` is used where it has one; else sites are left out (`splits.divide`). Test tiles
    whose class has no training tile in their fold are left out and counted in the notes.

    Args:
        corpora: (corpus, stream) pairs; several streams need equal bands after translation.
        name: of the task.
        sensor: name the bands of all streams as those of this sensor (`sensors.translate_bands`); None leaves them.
        classes: label names to tell apart; None for all that occur.
        held_out: `unseen` tests only tiles outside the corpus's training split, which no statistic and no pretraining
            on this corpus has seen; `all` tests every tile, for corpora that were not pretrained on.
        metric: `balanced_accuracy` weighs classes equally.

    Raises:
        UserError: no labels, one class only, an unknown class, or nothing left to test.
    """
    parts = [find_labelled_rows(one, classes=classes) for one in corpora]
    table = pa.concat_tables([part for _, part in parts])
    names = _class_names(table, classes, task=name)
    sources = []
    for (corpus, stream), (rows, _) in zip(corpora, parts, strict=True):
        source = open_corpus_source(corpus, stream, rows=rows)
        sources.append(source if sensor is None or sensor == source.sensor else rename_bands(source, sensor=sensor))
    labels = np.searchsorted(names, table["label_name"].to_pylist()).astype(np.int64)
    division = _divided(table, held_out)
    folds, dropped = _teachable(division.folds, labels)
    notes = [f"{dropped} test tiles left out: their class has no training tile in the fold"] if dropped else []
    if len(np.unique(division.blocks)) < 10:
        notes.append(f"only {len(np.unique(division.blocks))} blocks: the interval is wide and rough")
    if any(str(text).startswith("Synthetic") for text in table["attribution"].to_pylist()):
        notes.append("generated data, no satellite's: what holds here may not hold there")
    if len({source.sensor for source in sources}) > 1:
        raise UserError(
            f"expected one sensor in task {name}, got {', '.join(sorted({s.sensor for s in sources}))}; name the "
            "bands of one with `sensor`"
        )
    if sensor is not None:
        notes.append(f"bands of every stream named as {sensor} by common name")
    return Task(
        name,
        tuple(sources),
        labels,
        names,
        division.blocks,
        folds,
        division.split,
        metric,
        tuple(notes),
        rank=_rank(table),
        places=read_numbers(table, ("xmin", "ymin", "xmax", "ymax")),
        revisits=tuple(
            find_revisits(
                source,
                corpus.index(stream, columns=list(REVISIT_COLUMNS)),
                folds,
                first=sum(map(len, sources[:number])),
            )
            for number, (source, (corpus, stream)) in enumerate(zip(sources, corpora, strict=True))
        ),
    )


def _class_names(table: pa.Table, wanted: Sequence[str] | None, *, task: str) -> tuple[str, ...]:
    """Label names that occur, sorted; at least two, and all that were wanted."""
    names = sorted(set(table["label_name"].to_pylist()))
    for one in wanted or ():
        if one not in names:
            raise UserError(
                f"expected classes out of the labels {', '.join(names) or 'none'},"
                f" got {one!r}{suggest_nearest(one, names)}"
            )
    if len(names) < 2:
        raise UserError(
            f"expected at least two classes of labelled tiles for task {task}, got {', '.join(names) or 'none'}; "
            "ingest products with labels"
        )
    return tuple(names)


def _rank(table: pa.Table) -> Rows:
    """Place of each tile by product, file and offset, which outlive the order of the rows."""
    columns = (table[name].to_pylist() for name in ("product_id", "source", "row_off", "col_off"))
    return rank_names(
        [f"{product}/{source}/{row:08d}/{col:08d}" for product, source, row, col in zip(*columns, strict=True)]
    )


def find_labelled_rows(part: CorpusStream, *, classes: Sequence[str] | None = None) -> tuple[Rows, pa.Table]:
    """Return the rows of a stream that carry a label (of ``classes``), and their part of the index."""
    corpus, stream = part
    table = corpus.index(stream, columns=list(COLUMNS))
    known = table["label"].to_numpy() >= 0
    if classes is not None:
        known &= np.isin(np.array(table["label_name"].to_pylist(), dtype=np.str_), list(classes))
    rows = np.flatnonzero(known).astype(np.int64)
    return rows, table.take(rows)


def rank_names(names: Sequence[str]) -> Rows:
    """Return the place of each name in sorted order, int64 [n]."""
    rank = np.empty(len(names), dtype=np.int64)
    rank[np.argsort(np.array(names, dtype=np.str_), kind="stable")] = np.arange(len(names))
    return rank


def read_numbers(table: pa.Table, columns: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return columns of the index as float64 [n, c], NaN where null."""
    return np.stack([table[name].to_numpy().astype(np.float64) for name in columns], axis=1)


def read_texts(table: pa.Table, column: str) -> npt.NDArray[np.str_]:
    """Return a text column of the index, [n]."""
    return np.array(table[column].to_pylist(), dtype=np.str_)


def _divided(table: pa.Table, held_out: HeldOut) -> Division:
    declared = read_texts(table, "benchmark_split")
    if (declared != "").any():
        folds = (
            Fold(np.flatnonzero(declared == "train"), np.flatnonzero(declared == "test"), np.empty(0, dtype=np.int64)),
        )
        names = np.char.add(
            np.char.add(read_texts(table, "product_id"), "/"), read_texts(table, "source")
        )  # a batch of chips holds many files
        blocks = np.unique(names, return_inverse=True)[1].astype(np.int64)
        return Division(folds, blocks, "the benchmark's own train and test; blocks are files")
    offsets = read_numbers(table, ("col_off", "row_off", "width", "height"))
    offsets[:, 2:] += offsets[:, :2]
    division = divide(
        SampleLocations(read_texts(table, "product_id"), read_numbers(table, ("xmin", "ymin", "xmax", "ymax")), offsets)
    )
    if held_out == "all":
        return Division(division.folds, division.blocks, f"{division.split}; every tile of a held-out place is tested")
    unseen = read_texts(table, "split") != "train"
    kept = [
        Fold(fold.train[~unseen[fold.train]], fold.test[unseen[fold.test]], fold.validation) for fold in division.folds
    ]
    usable = tuple(fold for fold in kept if len(fold.train) and len(fold.test))
    if not usable:
        raise UserError(
            "expected labelled tiles in and outside the corpus's training split, got none of one; choose held_out = "
            "all if it was not trained on"
        )
    return Division(usable, division.blocks, f"{division.split}; tested are tiles outside the corpus's training split")


def _teachable(folds: tuple[Fold, ...], labels: Rows) -> tuple[tuple[Fold, ...], int]:
    """Folds without the test items whose class nobody teaches, and their number."""
    kept, dropped = [], 0
    for fold in folds:
        taught = np.isin(labels[fold.test], labels[fold.train])
        dropped += int((~taught).sum())
        if taught.any():
            kept.append(Fold(fold.train, fold.test[taught], fold.validation))
    return tuple(kept), dropped

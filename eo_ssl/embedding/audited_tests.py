"""Test images of a benchmark or a corpus, by their places and their looks, which training is to stay away from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eo_ssl.corpus import Corpus, Stream, select_rows
from eo_ssl.errors import expect
from eo_ssl.evaluation import (
    BENCHMARKS,
    ImageSource,
    SourceSubset,
    Task,
    load_benchmark,
    locate_rows,
    open_corpus_source,
)
from eo_ssl.evaluation.sources import Matrix, Rows
from eo_ssl.fingerprints import fingerprint

BOX = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True)
class AuditedTests:
    """Where test images lie, and what they show; there are none where nothing is audited."""

    name: str
    "what they are, in words"
    fingerprint: str
    boxes: npt.NDArray[np.float64]
    "xmin, ymin, xmax, ymax in degrees, float64 [m, 4]; NaN where the benchmark does not say"
    sources: tuple[ImageSource, ...] = ()
    "the images; of a corpus those that can be compared with a stream"
    similarity: float | None = None
    "cosine of features from which a tile is too much like one of them; None where places alone count"

    def embed(self, embed: Callable[[ImageSource], Matrix]) -> Matrix:
        """Return the embeddings of the images: float32 [m, d].

        Raises:
            UserError: there is none that can be compared.
        """
        expect(
            self.sources,
            expected=f"test images of the quantity and bands of the stream among the {self.name}",
            got="none",
            remedy="audit by place alone, without a similarity",
        )
        return np.concatenate([embed(source) for source in self.sources])

    @property
    def inputs(self) -> dict[str, str]:
        """What a manifest says of them; nothing where there are none."""
        return {"audit": self.fingerprint} if self.fingerprint else {}

    @property
    def placed(self) -> int:
        """Number of test images whose place is known."""
        return int(np.isfinite(self.boxes).all(axis=1).sum())


def open_tests(
    place: str | None, *, data: Path | None = None, like: Stream | None = None, similarity: float | None = None
) -> AuditedTests:
    """Return the test images at ``place``: a benchmark by its name, or a corpus, of which the split test is meant.

    Args:
        place: name of a benchmark, or folder of a corpus; None for no test images.
        data: root folder of the benchmark.
        like: the stream that images of a corpus are to be comparable with; None where only places count.
        similarity: cosine of features from which a tile is too much like one of them; None where places alone count.

    Raises:
        UserError: a similarity to nothing, a benchmark without its folder, or a corpus without test tiles.
    """
    if place is None:
        expect(
            similarity is None,
            expected="--audit with the test images that a similarity is to",
            got="none",
            remedy="name a benchmark or a corpus, or leave --audit_similarity out",
        )
        return AuditedTests("", "", np.empty((0, 4)))
    if place in BENCHMARKS:
        task = open_benchmark(place, data, option="audit_data")
        places = np.full((len(task.tested), 4), np.nan) if task.places is None else task.places[task.tested]
        key = fingerprint([source.fingerprint for source in task.sources])
        return AuditedTests(
            f"{len(places)} test images of {place}", key, places, take_images(task, task.tested), similarity
        )
    corpus, found, sources = Corpus.open(place), [], []
    comparable = () if like is None else list_comparable_streams(corpus, like)
    for stream in corpus.streams:
        rows = select_rows(corpus, stream, ["split==test"])
        if stream in comparable and len(rows):
            sources.append(open_corpus_source(corpus, stream, rows=rows))
        known = corpus.index(stream, columns=list(BOX), rows=rows)
        found.append(np.stack([known[name].to_numpy().astype(np.float64) for name in BOX], axis=1))
    boxes = np.concatenate(found)
    expect(
        len(boxes),
        expected=f"tiles of the split test in {corpus.root}",
        got="none",
        remedy="ingest it with a share of test, or name a benchmark",
    )
    return AuditedTests(
        f"{len(boxes)} test tiles of {corpus.root}", corpus.fingerprint, boxes, tuple(sources), similarity
    )


def list_comparable_streams(corpus: Corpus, wanted: Stream) -> list[str]:
    """Names of the streams of the sensor, quantity and bands of ``wanted``."""
    traits = (wanted.sensor, wanted.quantity, wanted.bands)
    return [name for name, tag in corpus.streams.items() if (tag.sensor, tag.quantity, tag.bands) == traits]


def take_images(task: Task, rows: Rows) -> tuple[ImageSource, ...]:
    """The images ``rows`` int64 [n], ascending, of a task, out of each of its sources."""
    parts = locate_rows([len(source) for source in task.sources], rows)
    return tuple(SourceSubset(task.sources[part], positions) for part, _, positions in parts)


def open_benchmark(name: str, data: Path | None, *, option: str) -> Task:
    """Return the benchmark called ``name`` under its root folder ``data``, which a command takes as ``option``.

    Raises:
        UserError: no folder.
    """
    expect(
        data is not None,
        expected=f"the root folder of {name}",
        got="none",
        remedy=f"name it with --{option}, or write ./{name} for a corpus of that name",
    )
    assert data is not None
    return load_benchmark(name, data)

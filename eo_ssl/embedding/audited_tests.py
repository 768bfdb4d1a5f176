"""Test images of a benchmark or a corpus by their places, which training is to stay away from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eo_ssl.corpus import Corpus, select_rows
from eo_ssl.errors import expect
from eo_ssl.evaluation import BENCHMARKS, Task, load_benchmark
from eo_ssl.fingerprints import fingerprint

BOX = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True)
class AuditedTests:
    """Where test images lie."""

    name: str
    "what they are, in words"
    fingerprint: str
    boxes: npt.NDArray[np.float64]
    "xmin, ymin, xmax, ymax in degrees, float64 [m, 4]; NaN where the benchmark does not say"

    @property
    def placed(self) -> int:
        """Number of test images whose place is known."""
        return int(np.isfinite(self.boxes).all(axis=1).sum())


def open_tests(place: str, *, data: Path | None = None) -> AuditedTests:
    """Return the test images at ``place``: a benchmark by its name, or a corpus, of which the split test is meant.

    Args:
        place: name of a benchmark, or folder of a corpus.
        data: root folder of the benchmark.

    Raises:
        UserError: a benchmark without its folder, or a corpus without test tiles.
    """
    if place in BENCHMARKS:
        task = open_benchmark(place, data, option="audit_data")
        places = np.full((len(task.tested), 4), np.nan) if task.places is None else task.places[task.tested]
        key = fingerprint([source.fingerprint for source in task.sources])
        return AuditedTests(f"{len(places)} test images of {place}", key, places)
    corpus, found = Corpus.open(place), []
    for stream in corpus.streams:
        known = corpus.index(stream, columns=list(BOX), rows=select_rows(corpus, stream, ["split==test"]))
        found.append(np.stack([known[name].to_numpy().astype(np.float64) for name in BOX], axis=1))
    boxes = np.concatenate(found)
    expect(
        len(boxes),
        expected=f"tiles of the split test in {corpus.root}",
        got="none",
        remedy="ingest it with a share of test, or name a benchmark",
    )
    return AuditedTests(f"{len(boxes)} test tiles of {corpus.root}", corpus.fingerprint, boxes)


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

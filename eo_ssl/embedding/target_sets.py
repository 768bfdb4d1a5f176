"""Target sets that rows are selected towards: another corpus, a benchmark, or the tiles of some regions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eo_ssl.corpus import Corpus, find_tiles_within, read_regions, select_rows
from eo_ssl.embedding.audited_tests import list_comparable_streams, open_benchmark, take_images
from eo_ssl.errors import expect
from eo_ssl.evaluation import BENCHMARKS, ImageSource, open_corpus_source
from eo_ssl.evaluation.sources import Matrix, Rows
from eo_ssl.fingerprints import compute_sha256, fingerprint


@dataclass(frozen=True, slots=True)
class TargetSet:
    """Images whose like is wanted: of other sources, or some of those that are selected from."""

    notes: tuple[str, ...] = ()
    "what it is, for the report"
    fingerprint: str = ""
    sources: tuple[ImageSource, ...] = ()
    "images of its own"
    positions: Rows | None = None
    "places among the rows that are selected from, where it is made of these"

    @property
    def inputs(self) -> dict[str, str]:
        """What a manifest says of it; nothing where there is none."""
        return {"towards": self.fingerprint} if self.fingerprint else {}

    def embed(self, source: ImageSource, embed: Callable[[ImageSource], Matrix]) -> tuple[Matrix, Matrix | None]:
        """Return the embeddings of ``source``, which is selected from, and of the target set: float32 [n, d], [m, d].

        Images of its own come first, so that what an encoder cannot take is refused soon. None where there is no set.
        """
        target = np.concatenate([embed(own) for own in self.sources]) if self.sources else None
        embeddings = embed(source)
        return embeddings, target if self.positions is None else embeddings[self.positions]


def open_target(
    place: str | None, corpus: Corpus, stream: str, rows: Rows, *, split: str = "train", data: Path | None = None
) -> TargetSet:
    """Return the target set at ``place``, or none where that is None.

    Args:
        place: a GeoJSON file of regions (.geojson, .json), for those of ``rows`` whose bounding boxes reach into them;
            the name of a benchmark, for its training images; or a corpus, for the tiles of its stream of the same name
            or else of the same quantity and bands, in ``split``.
        corpus: that is selected from.
        stream: of it.
        rows: of the stream, that are selected from.
        split: of the other corpus; all for all.
        data: root folder of the benchmark.

    Raises:
        UserError: there is no such place, nothing of it can be compared with the stream, or it holds nothing.
    """
    expect(
        data is None or place in BENCHMARKS,
        expected="--towards_data with the name of a benchmark",
        got=place or "none",
        remedy=f"out of {', '.join(BENCHMARKS)}, or leave it out",
    )
    if place is None:
        return TargetSet()
    if place in BENCHMARKS:
        return _open_benchmark(place, data)
    if Path(place).suffix.lower() in (".geojson", ".json"):
        inside = find_tiles_within(read_regions(Path(place)), corpus, stream, rows)
        expect(
            len(inside),
            expected=f"tiles to select from within the regions of {place}",
            got=f"none of {len(rows)}",
            remedy="correct the regions, or select from other tiles",
        )
        words = f"the target set are {len(inside)} tiles within the regions of {Path(place).name}"
        return TargetSet((words,), compute_sha256(Path(place)), positions=inside)
    return _open_corpus(place, corpus, stream, split)


def _open_benchmark(name: str, data: Path | None) -> TargetSet:
    task = open_benchmark(name, data, option="towards_data")
    train = np.unique(np.concatenate([fold.train for fold in task.folds]))
    sources = take_images(task, train)
    words = f"the target set are {len(train)} training images of {name}"
    return TargetSet((words,), fingerprint([source.fingerprint for source in sources]), sources)


def _open_corpus(place: str, corpus: Corpus, stream: str, split: str) -> TargetSet:
    other = Corpus.open(place)
    alike = list_comparable_streams(other, corpus.streams[stream])
    name = stream if stream in alike else alike[0] if len(alike) == 1 else ""
    expect(
        name,
        expected=f"one stream of {other.root} with the quantity and bands of {stream}",
        got=", ".join(alike or other.streams),
        remedy="ingest the target set with the same bands",
    )
    rows = select_rows(other, name, [] if split == "all" else [f"split=={split}"])
    expect(
        len(rows),
        expected=f"tiles of {name} of {other.root} in split {split}",
        got="none",
        remedy="choose another split",
    )
    words = f"the target set are {len(rows)} tiles of {name} of {other.root}, split {split}"
    return TargetSet((words,), other.fingerprint, (open_corpus_source(other, name, rows=rows),))

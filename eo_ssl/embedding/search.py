"""The nearest of many embeddings: exact, one row group in memory at a time, whatever the size of the table."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eo_ssl.corpus import Corpus, open_parquet
from eo_ssl.embedding.table import Matrix, Rows, extract_vectors, read_provenance
from eo_ssl.embedding.tiles import EMBEDDINGS
from eo_ssl.encoder import Encoder
from eo_ssl.errors import UserError, expect
from eo_ssl.evaluation import knn
from eo_ssl.fingerprints import hash_file
from eo_ssl.manifest import Manifest, require

Distance = Literal["cosine", "l2"]


@dataclass(frozen=True)  # no slots: the file is opened once
class Embeddings:
    """A finished table of embeddings."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> Embeddings:
        """Return the table that ``eo-ssl embed`` made of a corpus.

        Raises:
            UserError: there is none, it is unfinished, or it holds maps of scenes.
        """
        manifest = require(folder, "embed")  # whose files are compared; version 0.1 named none of them
        expect(
            "files" not in manifest.summary,
            expected=f"a table of embeddings in {folder}",
            got="maps of scenes",
            remedy="search works on the tiles of a corpus, so embed one",
        )
        path = folder / EMBEDDINGS
        expect(
            manifest.files or not path.is_file() or hash_file(path) == manifest.fingerprint,
            expected=f"{path} as it was made",
            got="another content",
            remedy="remove the folder and embed the corpus again",
        )
        return cls(folder, manifest)

    @cached_property
    def _file(self) -> pq.ParquetFile:
        return open_parquet(self.folder / EMBEDDINGS, remedy="remove the folder and embed the corpus again")

    @cached_property
    def about(self) -> Mapping[str, Any]:
        """Provenance in the file: encoder, corpus, stream and licences."""
        return read_provenance(self._file.schema_arrow)

    @property
    def dim(self) -> int:
        """Numbers per tile."""
        return int(self._file.schema_arrow.field("embedding").type.list_size)

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def groups(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """Yield (position of its first row, some columns) of each row group."""
        first = 0
        for number in range(self._file.num_row_groups):
            part = self._file.read_row_group(number, columns=list(columns))
            yield first, part
            first += len(part)

    def take(self, positions: Rows, columns: Sequence[str]) -> list[dict[str, Any]]:
        """Return columns of the rows at ``positions``, in that order; only the row groups that hold them are read."""
        sizes = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        ends = np.cumsum(sizes)
        owner = np.searchsorted(ends, positions, side="right")
        lines: dict[int, dict[str, Any]] = {}
        for number in np.unique(owner).tolist():
            part = self._file.read_row_group(number, columns=list(columns))
            first = int(ends[number]) - sizes[number]
            inside = [int(p) for p in positions[owner == number]]
            lines |= dict(zip(inside, part.take([p - first for p in inside]).to_pylist(), strict=True))
        return [lines[int(position)] for position in positions]

    def vector(self, position: int) -> Matrix:
        """Return one embedding, float32 [D]."""
        (row,) = self.take(np.array([position]), ["embedding"])
        return np.asarray(row["embedding"], dtype=np.float32)

    def corpus(self, place: str | Path | None = None) -> Corpus:
        """Return the corpus that was embedded, at ``place`` or where it was then.

        Raises:
            UserError: it is not there, or has other tiles.
        """
        known = self.about["corpus"]
        where = str(place or self.manifest.summary["corpus"])
        try:
            corpus = Corpus.open(where, snapshot=known["snapshot"])
        except UserError as error:
            raise UserError(
                f"expected the corpus that was embedded at {where}, got none ({error}); give its place with --corpus"
            ) from error
        expect(
            corpus.fingerprint == known["fingerprint"],
            expected=f"the corpus that was embedded ({known['fingerprint'][:12]})",
            got=f"another at {where} ({corpus.fingerprint[:12]})",
            remedy="give its place with --corpus",
        )
        return corpus

    def check_encoder(self, encoder: Encoder) -> None:
        """Refuse another encoder than the one that made the table.

        Raises:
            UserError: naming both.
        """
        known = self.about["encoder"]
        expect(
            encoder.fingerprint == known["fingerprint"],
            expected=f"the encoder {known['name']} ({known['fingerprint'][:12]}) that made {self.folder}",
            got=f"{encoder.name} ({encoder.fingerprint[:12]})",
            remedy=(
                "embeddings of two encoders cannot be compared, so give that encoder or embed the corpus with this one"
            ),
        )


@dataclass(frozen=True, slots=True)
class Hits:
    """Neighbours, the nearest first, equal distances in the order of the table."""

    positions: Rows
    "int64 [k]"
    distance: np.ndarray[Any, np.dtype[np.float64]]
    "float64 [k]: 1 - cosine, or the Euclidean distance"


def find_nearest(
    table: Embeddings, query: Matrix, *, k: int, distance: Distance = "cosine", without: Collection[int] = ()
) -> Hits:
    """Return the ``k`` rows of ``table`` nearest to ``query``, fewer where it has no more.

    Exact: faiss proposes in float32 within each row group, float64 distances decide, and groups are merged by distance
    and position.

    Args:
        table: where to look.
        query: float32 [D].
        k: how many.
        distance: cosine (1 - cosine of the angle; a vector of zeros has distance 1 from all) or l2.
        without: positions that are no answer, such as the query's own.

    Raises:
        UserError: k below 1, or a query of another length.
    """
    expect(k >= 1, expected="k of at least 1 neighbour", got=k, remedy="give a larger --k")
    expect(
        query.shape == (table.dim,),
        expected=f"a query of {table.dim} numbers",
        got=list(query.shape),
        remedy="take it from the encoder that made the table",
    )
    wanted = k + len(without)
    position, value = np.empty(0, dtype=np.int64), np.empty(0)
    for first, part in table.groups(["embedding"]):
        inside, distances = _search_part(
            extract_vectors(part["embedding"], table.dim), query, k=wanted, distance=distance
        )
        position, value = np.concatenate([position, first + inside]), np.concatenate([value, distances])
        order = np.lexsort((position, value))[:wanted]
        position, value = position[order], value[order]
    kept = ~np.isin(position, np.fromiter(without, dtype=np.int64, count=len(without)))
    return Hits(position[kept][:k], value[kept][:k])


def _search_part(x: Matrix, query: Matrix, *, k: int, distance: Distance) -> tuple[Rows, np.ndarray[Any, Any]]:
    """Rows of ``x`` [n, D] nearest to ``query`` and their distances, float64."""
    if distance == "l2":
        rows = knn.find_neighbours(x, query[None], k=min(k, len(x)))[0]
        return rows, np.linalg.norm(x[rows].astype(np.float64) - query, axis=1)
    lengths = np.linalg.norm(x.astype(np.float64), axis=1)
    wide = query.astype(np.float64)
    length = float(np.linalg.norm(wide))
    some, none = np.flatnonzero(lengths > 0), np.flatnonzero(lengths == 0)
    if length == 0 or not len(some):
        return np.arange(min(k, len(x)), dtype=np.int64), np.ones(min(k, len(x)))
    unit = (x[some] / lengths[some, None]).astype(np.float32)
    aim = (wide / length).astype(np.float32)
    rows = knn.find_neighbours(unit, aim[None], k=min(k, len(unit)))[0]
    # Half the squared distance on the unit sphere is 1 - cosine, without the cancellation: copies are at exactly 0.
    distances = 0.5 * np.square(unit[rows].astype(np.float64) - aim).sum(axis=1)
    return np.concatenate([some[rows], none[:k]]), np.concatenate([distances, np.ones(len(none[:k]))])


def find_same_ground(table: Embeddings, position: int) -> list[int]:
    """Return the positions of all tiles at the location of one, itself among them: dates and copies of its ground."""
    (own,) = table.take(np.array([position]), ["location_id"])
    positions: list[int] = []
    for first, part in table.groups(["location_id"]):
        same = np.asarray(part["location_id"].to_pylist(), dtype=object) == own["location_id"]
        positions += (first + np.flatnonzero(same)).tolist()
    return positions

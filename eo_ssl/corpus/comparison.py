"""What differs between two corpora, or two snapshots of one: tiles, pixels, quality and settings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eo_ssl.corpus import index

if TYPE_CHECKING:
    from eo_ssl.corpus.corpus_view import Corpus

_COLUMNS = ["tile_id", "pixels_sha256", *index.QUALITY_COLUMNS]
_BATCH = 1_000_000  # rows of a stream compared at once: 100 bytes each, and as much again while they are sorted
_EXAMPLES = 10
Rows = npt.NDArray[Any]
_ROW = np.dtype([("id", "S16"), ("pixels", "S32"), ("content", "S32"), ("row", np.int64)])
"""Id, digest of the pixels, digest of pixels and quality, and row in its stream."""


def compare_corpora(first: Corpus, second: Corpus, *, batch: int = _BATCH) -> dict[str, Any]:
    """Return what differs between two corpora, as plain values.

    Tiles are matched by their id (product, stream and window). Memory stays at about ``batch`` rows of each side,
    however large they
    are: a larger stream is compared by ranges of the first byte of the id, its index read once per range.

    Returns:
        ``same`` (whether all tiles, pixels and qualities are equal), ``streams`` (name -> tiles that are equal, only in
        one or the other, of other pixels, of the same pixels but another quality; up to ten rows of each, counted in
        the corpus that has them) and ``settings`` (card -> what was configured differently).
    """
    streams = {}
    for name in sorted({*first.streams, *second.streams}):
        streams[name] = _compare_stream(first, second, name, batch)
    same = all(set(stream["tiles"]) <= {"equal"} for stream in streams.values())
    return {"same": same, "streams": streams, "settings": _settings(first, second)}


def _compare_stream(first: Corpus, second: Corpus, stream: str, batch: int) -> dict[str, Any]:
    counts: dict[str, int] = {}
    examples: dict[str, list[int]] = {}
    total = max(corpus.count(stream) if stream in corpus.streams else 0 for corpus in (first, second))
    ranges = np.linspace(0, 256, min(total // batch, 255) + 2).astype(int)
    for low, high in itertools.pairwise(ranges):
        left, right = (_rows(corpus, stream, (int(low), int(high))) for corpus in (first, second))
        _, at_left, at_right = np.intersect1d(left["id"], right["id"], return_indices=True)
        pixels = left["pixels"][at_left] != right["pixels"][at_right]
        quality = ~pixels & (left["content"][at_left] != right["content"][at_right])
        kinds = {
            "equal": left["row"][at_left][~pixels & ~quality],
            "only_in_first": np.delete(left["row"], at_left),
            "only_in_second": np.delete(right["row"], at_right),
            "other_pixels": left["row"][at_left][pixels],
            "other_quality": left["row"][at_left][quality],
        }
        for kind, rows in kinds.items():
            if len(rows):
                counts[kind] = counts.get(kind, 0) + len(rows)
                examples[kind] = sorted([*examples.get(kind, []), *rows.tolist()])[:_EXAMPLES]
    examples.pop("equal", None)
    return {"tiles": counts, "rows": examples}


def _rows(corpus: Corpus, stream: str, lead: tuple[int, int]) -> Rows:
    """Return id, digests and row of the tiles of a stream whose id begins with a byte in ``lead``."""
    if stream not in corpus.streams:
        return np.empty(0, dtype=_ROW)
    return np.concatenate([np.empty(0, dtype=_ROW), *_batches(corpus, stream, lead)])


def _batches(corpus: Corpus, stream: str, lead: tuple[int, int]) -> Iterator[Rows]:
    first = 0
    for batch in corpus.dataset(stream).scanner(columns=_COLUMNS, batch_size=131_072).to_batches():
        ids = np.frombuffer(b"".join(batch["tile_id"].to_pylist()), dtype=np.uint8).reshape(-1, 16)
        inside = np.flatnonzero((ids[:, 0] >= lead[0]) & (ids[:, 0] < lead[1]))
        if len(inside):
            part = batch.take(inside)
            rows = np.empty(len(inside), dtype=_ROW)
            rows["id"] = ids[inside].view("S16")[:, 0]
            rows["pixels"] = part["pixels_sha256"].to_pylist()
            rows["content"] = index.hash_rows(pa.Table.from_batches([part]))[:, 16:].copy().view("S32")[:, 0]
            rows["row"] = first + inside
            yield rows
        first += len(batch)


def _settings(first: Corpus, second: Corpus) -> dict[str, Any]:
    """Return the settings that differ by card: name -> (first, second).

    None for a card that one of them does not have.
    """
    left, right = first.settings(), second.settings()
    changes: dict[str, Any] = {}
    for card in sorted({*left, *right}):
        a, b = left.get(card), right.get(card)
        if a is None or b is None:
            changes[card] = {"card": [a is not None, b is not None]}
        elif a != b:
            changes[card] = {key: [a.get(key), b.get(key)] for key in sorted({*a, *b}) if a.get(key) != b.get(key)}
    return changes

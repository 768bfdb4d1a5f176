"""The rows of a stream that a selector chooses from, and what the index knows of them beside their pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eo_ssl.corpus import Corpus, select_rows
from eo_ssl.curation import (
    Context,
    Selector,
    choose_scaling,
    find_rows_alike,
    find_rows_near,
    measure_brightness,
    resolve_keep,
    take_rows,
    thin_strata,
)
from eo_ssl.embedding.audited_tests import BOX, AuditedTests
from eo_ssl.encoder import Encoder
from eo_ssl.errors import expect
from eo_ssl.evaluation import ImageSource
from eo_ssl.evaluation.sources import Matrix

NUISANCES = ("product_id", "month")
"""Columns of which a report says how far clusters follow them, beside brightness."""
NEAR_TEST, LIKE_TEST = "near test", "like test"
"""Why a tile near a test image, or with the features of one, is not kept."""
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CandidateRows:
    """A stream of a corpus, and those of its rows that are chosen from."""

    corpus: Corpus
    stream: str
    rows: Rows
    "int64 [n], ascending"
    notes: tuple[str, ...] = ()
    "what was left out before, in sentences"
    left_out: Mapping[str, Rows] = field(default_factory=dict)
    "rows that are not chosen from, by the reason that a subset gives for them"

    @classmethod
    def of(
        cls,
        corpus: Corpus,
        stream: str,
        *,
        split: str = "all",
        where: Sequence[str] = (),
        per_location: int | None = None,
        seed: int = 0,
    ) -> CandidateRows:
        """Those of one split that meet the conditions, at most so many of each place, drawn at random.

        Raises:
            UserError: a condition that is none, or nothing is left.
        """
        rows = select_rows(corpus, stream, [*([] if split == "all" else [f"split=={split}"]), *where])
        expect(
            len(rows),
            expected=f"tiles in the split {split} of {stream} that meet the conditions",
            got=f"none of {corpus.count(stream)}",
            remedy="choose another split or other conditions",
        )
        if per_location is None:
            return cls(corpus, stream, rows)
        places = corpus.index(stream, columns=["location_id"], rows=rows)
        kept = rows[thin_strata(places, per_location, np.random.default_rng([seed, per_location]))]
        note = f"{len(rows) - len(kept)} tiles above {per_location} of a place were left out before"
        return cls(corpus, stream, kept, (note,))

    def keep_away(self, tests: AuditedTests, *, distance_m: float) -> CandidateRows:
        """Those that lie farther from test images, if there are some, than a distance, in metres from edge to edge.

        Raises:
            UserError: nothing is left.
        """
        if not len(tests.boxes):
            return self
        if not tests.placed:
            note = f"the {tests.name} have no places: which tiles lie near them cannot be told"
            return replace(self, notes=(*self.notes, note))
        known = self.corpus.index(self.stream, columns=list(BOX), rows=self.rows)
        boxes = np.stack([known[name].to_numpy().astype(np.float64) for name in BOX], axis=1)
        near = find_rows_near(boxes, tests.boxes, distance_m=distance_m)
        expect(
            not near.all(),
            expected=f"tiles farther than {distance_m:g} m from the {tests.name}",
            got="none",
            remedy="lower the distance",
        )
        unplaced = int((~np.isfinite(boxes).all(axis=1)).sum())
        notes = [f"{int(near.sum())} tiles within {distance_m:g} m of the {tests.name} were left out"]
        if unplaced or tests.placed < len(tests.boxes):
            notes.append(f"{unplaced} tiles and {len(tests.boxes) - tests.placed} test images have no place to compare")
        left_out = {**self.left_out, NEAR_TEST: self.rows[near]}
        return replace(self, rows=self.rows[~near], notes=(*self.notes, *notes), left_out=left_out)

    def keep_unlike(
        self, tests: AuditedTests, features: Matrix, embed: Callable[[ImageSource], Matrix], *, encoder: Encoder
    ) -> tuple[CandidateRows, Matrix]:
        """Those that look less like any test image than the similarity that counts, if one does, and their features.

        Args:
            tests: the test images.
            features: of these rows, [n, d].
            embed: gives those of the test images.
            encoder: that makes both.

        Raises:
            UserError: as `find_rows_alike`, or nothing is left.
        """
        cosine = tests.similarity
        if cosine is None:
            return self, features
        scale = choose_scaling(encoder.name, self.corpus.streams[self.stream].quantity)
        alike = find_rows_alike(features, tests.embed(embed), scale=scale, cosine=cosine)
        expect(
            not alike.all(),
            expected=f"tiles less like the {tests.name} than a cosine of {cosine:g}",
            got="none",
            remedy="raise the similarity",
        )
        note = f"{int(alike.sum())} tiles with a cosine of {cosine:g} or more to one of the {tests.name} were left out"
        left_out = {**self.left_out, LIKE_TEST: self.rows[alike]}
        fewer = replace(self, rows=self.rows[~alike], notes=(*self.notes, note), left_out=left_out)
        return fewer, take_rows(features, np.flatnonzero(~alike)) if alike.any() else features

    def check(self, method: Selector, keep: float, *, targeted: bool) -> None:
        """Refuse, before anything is embedded, what cannot be chosen.

        Args:
            method: the selector.
            keep: fraction or number of the rows.
            targeted: whether there is a target set to select towards.

        Raises:
            UserError: the selector lacks a column or a target set, or there are not so many rows.
        """
        columns = self.corpus.index(self.stream, columns=list(method.columns), rows=self.rows)
        method.check(columns, targeted=targeted)
        resolve_keep(keep, len(self.rows))

    def describe(self, encoder: Encoder, method: Selector, *, duplicates: bool) -> Context:
        """What is told of the rows when they are chosen from.

        Args:
            encoder: that embeds them.
            method: whose columns are read.
            duplicates: whether rows of equal pixels are to be recognised.
        """
        names = dict.fromkeys(["label", "pixels_sha256", *method.columns])
        known = self.corpus.index(self.stream, columns=list(names), rows=self.rows)
        return Context(
            identities=known["pixels_sha256"] if duplicates else None,
            labels=known["label"].to_numpy(),
            columns=known,
            corpus_fingerprint=self.corpus.fingerprint,
            encoder_fingerprint=encoder.fingerprint,
            scaling=choose_scaling(encoder.name, self.corpus.streams[self.stream].quantity),
            notes=self.notes,
        )

    def measure_nuisances(self, *, seed: int) -> pa.Table:
        """Product and month of all rows, and the brightness of a sample of them, drawn from a seed."""
        known = self.corpus.index(self.stream, columns=list(NUISANCES), rows=self.rows)
        rng = np.random.default_rng([seed, len(self.rows)])
        brightness = measure_brightness(self.corpus.stream(self.stream), self.rows, rng=rng)
        shared = {name.removesuffix("_id"): known[name] for name in NUISANCES}
        return pa.table(shared | {"brightness": pa.array(brightness, from_pandas=True)})

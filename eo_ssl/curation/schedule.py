"""Dynamic curation as a pure schedule: when to prune, what to keep, and a state that resumes to the same events.

Kerdreux et al. 2025 (arXiv 2504.06962) train on everything for a warm-up, then redraw a balanced subset from the full
set at fixed intervals. Their code and constants are not public; the spelling-out here (time in sample presentations,
the readiness gate, always redrawing from all rows, never from the previous pool) is ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from eo_ssl.curation.cluster_selectors import Hierarchical
from eo_ssl.curation.embeddings import Floats, Rows, check_embeddings, derive_generator
from eo_ssl.curation.packing import pack, unpack
from eo_ssl.curation.readiness import Readiness, judge_readiness
from eo_ssl.curation.report import CurationReport, Gate, to_plain
from eo_ssl.curation.report_builder import Context
from eo_ssl.curation.selectors import Selector
from eo_ssl.curation.subset_selection import Selection, curate, resolve_keep
from eo_ssl.errors import expect


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class DynamicConfig:
    """A dynamic schedule; time is counted in sample presentations, since epochs change length with the pool."""

    warmup: int
    "presentations on the full set before the first event (T_w)"
    interval: int
    "presentations between events (T_s)"
    keep: float = 0.5
    "fraction (up to 1) or number of rows of the full set per pool (rho): those kept, or those effective under weights"
    method: Selector = field(default_factory=lambda: Hierarchical(n_resample=3, fit_rows=20_000))
    "selector of every event"
    readiness: Readiness = field(default_factory=Readiness)
    "how far events trust the features"
    swing: float = 0.0
    """part of keep that events add and take off in turn, beginning with more: few rows regularise, many cover (PODS,
    arXiv 2605.14773, whose formula was not seen); 0 for a constant keep"""
    last: float = 0.0
    "share of the run at its end that sees the full set again, without weights"
    features: Literal["every_event", "first"] = "every_event"
    "embed the full set at every event, or at the first alone and redraw from what was found then"
    seed: int = 0

    def __post_init__(self) -> None:
        # An encoder in training is compared by the cosine, and configurations say so as they did before auto was there.
        object.__setattr__(self, "method", replace(self.method, scaling=self.method.scale("l2")))  # type: ignore[type-var]
        expect(
            self.warmup >= 0 and self.interval >= 1,
            expected="warmup >= 0 and interval >= 1 sample presentations",
            got=f"{self.warmup} and {self.interval}",
            remedy="count presentations",
        )
        expect(
            self.keep > 0,
            expected="keep to be a fraction in (0, 1] or a number of rows",
            got=self.keep,
            remedy="1 switches pruning off",
        )
        expect(
            0 <= self.swing < 1 and 0 <= self.last < 1,
            expected="swing and last in [0, 1)",
            got=f"{self.swing} and {self.last}",
            remedy="0 switches them off",
        )
        expect(
            self.keep > 1 or self.keep == 1 or self.keep * (1 + self.swing) <= 1,
            expected="keep and what swing adds to it to be at most all rows",
            got=f"{self.keep:g} and {self.keep * self.swing:g}",
            remedy="keep less, or swing less",
        )

    def keep_at(self, event: int) -> float:
        """Return what the event numbered ``event`` from 1 keeps, as a fraction (up to 1) or a number of rows."""
        if self.keep == 1 or not self.swing:
            return self.keep
        swung = self.keep * (1 + self.swing * (1 if event % 2 else -1))
        return swung if self.keep < 1 else max(2.0, round(swung))


class DynamicSchedule:
    """The times at which the pool is redrawn, and the pool; embeddings come in, rows go out.

    Attributes:
        config: What was asked.
        event: Number of pools drawn so far.
        gate: How far the last event trusted its features; None where nobody asked.
        released: Whether the last part of the run has begun, which sees the full set.
        next_at: Presentations at which the next event is due.
        pool: The ids in use, int64 sorted; None until the first update, when everything is in use.
        weights: How often each of them comes up, in times the mean, float32; None for equally often.
        usage: In how many pools every row of the full set was, where they are weighted how often it was to come up in a
            pass, added up: float32 [N]; None until the first update.
        last: The fate of every row at the last event; not kept across a resume.
        log: One plain dict per event.
    """

    def __init__(self, config: DynamicConfig) -> None:
        """Start before the warm-up."""
        self.config = config
        self.event = 0
        self.released = False
        self.gate: Gate | None = None
        self.next_at = config.warmup
        self.pool: Rows | None = None
        self.weights: Floats | None = None
        self.usage: Floats | None = None
        self.last: Selection | None = None
        self.centroids: Floats | None = None
        self.log: list[dict[str, Any]] = []
        self._ids_sha256 = ""
        self._rng = np.random.default_rng(config.seed)

    def due(self, presentations: int, total: int | None = None) -> bool:
        """Return whether an event is due after ``presentations`` samples: past the mark, until ``update``.

        None is in the last part of a run of ``total`` samples, for which `ends` says that `release` is due.
        """
        return presentations >= self.next_at and not self.released and not self.ends(presentations, total)

    def ends(self, presentations: int, total: int | None) -> bool:
        """Return whether the last part of a run of ``total`` samples has come, and the full set is not released yet."""
        begun = total is not None and self.config.last > 0 and presentations >= (1 - self.config.last) * total
        return begun and not self.released and self.event > 0

    def release(self, ids: Rows) -> Rows:
        """Go back to the full set for good: return it, int64 sorted."""
        self.released, self.pool, self.weights = True, np.sort(ids), None
        return self.pool

    def update(
        self,
        embeddings: ArrayLike,
        ids: Rows | None = None,
        *,
        presentations: int | None = None,
        context: Context | None = None,
    ) -> tuple[Rows, CurationReport]:
        """Prune: redraw the pool from the full set, the less of it left out the less the embeddings can be trusted.

        Args:
            embeddings: float [N, d], one row per sample of the full set, always the same samples in the same order.
            ids: What the rows are called outside, unique int64 [N]; 0..N-1 when absent.
            presentations: Samples presented so far; the next event falls on the first mark after it. One mark on when
                absent.
            context: Identities for the duplicate filter, two looks at some rows for the readiness gate, which is not
                asked without, fingerprints and labels for the report.

        Returns:
            The ids of the pool to train on from now, int64 sorted, and the report.

        Raises:
            UserError: the full set is not the one of the last event, or what ``curate`` refuses.
        """
        raw = check_embeddings(embeddings)
        ids = self._check_same_set(ids, len(raw))
        at = self.next_at if presentations is None else presentations
        context = replace(context or Context(), **self._recall(ids))
        gate = self.gate = self._ask_gate(context)
        keep = resolve_keep(self.config.keep_at(self.event + 1), len(raw)) / len(raw)
        selection = curate(
            raw,
            keep if gate is None else keep**gate.trust,
            derive_generator(self._rng),
            method=self.config.method,
            context=context,
        )
        self.event += 1
        eager = gate is not None and not gate.ready
        self._advance(at, self.config.readiness.retry or self.config.interval if eager else self.config.interval)
        order = np.argsort(ids[selection.rows])
        self.pool = ids[selection.rows][order]
        self.weights = None if selection.weights is None else selection.weights[order]
        usage = np.zeros(len(raw), dtype=np.float32) if self.usage is None else self.usage
        usage[selection.rows] += np.ones(1, np.float32) if selection.weights is None else selection.weights
        self.usage = usage
        self.centroids = selection.centroids
        report = selection.report.renamed(ids)
        report = replace(report, seed=self.config.seed, event=self.event, presentations=at, gate=gate)
        self.last = replace(selection, report=report)
        self._write_log(report)
        return self.pool, report

    def _check_same_set(self, ids: Rows | None, n: int) -> Rows:
        ids = np.arange(n, dtype=np.int64) if ids is None else np.ascontiguousarray(ids, dtype=np.int64)
        distinct = len(np.unique(ids))
        expect(
            ids.shape == (n,) and distinct == n,
            expected=f"{n} different ids, one per embedding",
            got=f"{distinct} different of {ids.size}",
            remedy="pass the rows embedded",
        )
        ids_sha256 = hashlib.sha256(ids.tobytes()).hexdigest()
        expect(
            self._ids_sha256 in ("", ids_sha256),
            expected="the full set of the earlier events",
            got=f"another one ({n} rows)",
            remedy="every event redraws from the same full set",
        )
        self._ids_sha256 = ids_sha256
        return ids

    def _recall(self, ids: Rows) -> dict[str, Any]:
        """The previous pool as places in ``ids``, and its weights in their order."""
        if self.pool is None:
            return {}
        held = np.flatnonzero(np.isin(ids, self.pool))
        weights = None if self.weights is None else self.weights[np.searchsorted(self.pool, ids[held])]
        return {"previous": held, "previous_weights": weights}

    def _ask_gate(self, context: Context) -> Gate | None:
        # keep = 1 is no curation at all, so there is nothing to be ready for.
        if self.config.keep == 1 or self.config.readiness.full <= 0:
            return None
        if self.config.features == "first" and self.event:
            return self.gate  # the features are those it judged
        return None if context.looks is None else judge_readiness(*context.looks, self.config.readiness)

    def _advance(self, at: int, step: int) -> None:
        self.next_at += step * (max(0, at - self.next_at) // step + 1)

    def _write_log(self, report: CurationReport) -> None:
        self.log.append(
            {
                "event": report.event,
                "presentations": report.presentations,
                "agreement": None if report.gate is None else report.gate.agreement,
                "kept": report.n_kept,
                "effective_rows": report.effective_rows,
                "turnover": report.turnover,
                "entropy_before": report.before.cluster_entropy,
                "entropy_after": report.after.cluster_entropy,
                "top_entropy_before": report.before.top_entropy,
                "top_entropy_after": report.after.top_entropy,
                "never_drawn": None if self.usage is None else int((self.usage == 0).sum()),
            }
        )

    def state_dict(self) -> dict[str, Any]:
        """Return everything a resume needs as plain values; arrays are packed into text."""
        return {
            "config": self._write_config(),
            "event": self.event,
            "next_at": self.next_at,
            "released": self.released,
            "gate": None if self.gate is None else asdict(self.gate),
            "pool": pack(self.pool),
            "weights": pack(self.weights),
            "usage": pack(self.usage),
            "centroids": pack(self.centroids),
            "ids_sha256": self._ids_sha256,
            "rng": to_plain(self._rng.bit_generator.state),
            "log": [dict(entry) for entry in self.log],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken: every later event is the one that would have come.

        Raises:
            UserError: the state belongs to another configuration.
        """
        mine = self._write_config()
        changed = sorted(key for key in {*mine, *state["config"]} if mine.get(key) != state["config"].get(key))
        expect(
            not changed,
            expected="the dynamic schedule of the checkpoint",
            got=f"another {', '.join(changed)}",
            remedy="resume with the same configuration",
        )
        self.event, self.next_at = int(state["event"]), int(state["next_at"])
        self.released = bool(state.get("released", False))  # not in checkpoints of earlier versions
        self.gate = None if state.get("gate") is None else Gate(**state["gate"])
        pool, usage, centroids = unpack(state["pool"]), unpack(state["usage"]), unpack(state["centroids"])
        self.pool = None if pool is None else pool.astype(np.int64)
        self.weights = unpack(state.get("weights"))  # none in checkpoints of earlier versions
        self.usage = None if usage is None else usage.astype(np.float32)
        self.centroids = None if centroids is None else centroids.astype(np.float32)
        self._ids_sha256 = str(state["ids_sha256"])
        self._rng.bit_generator.state = dict(state["rng"])
        self.log = [dict(entry) for entry in state["log"]]
        self.last = None

    def _write_config(self) -> dict[str, Any]:
        plain: dict[str, Any] = to_plain({**asdict(self.config), "method": self.config.method.parameters})
        return {**plain, "selector": self.config.method.name}

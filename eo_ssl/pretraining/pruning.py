"""The bridge from curation to training: a callback that redraws the pool of tiles from the features of the moment."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from eo_ssl.commits import replace
from eo_ssl.curation import Context, DynamicSchedule, resolve_keep, tabulate_selection
from eo_ssl.documents import measure_file
from eo_ssl.encoder import hash_tensors
from eo_ssl.errors import UserError, expect
from eo_ssl.fingerprints import fingerprint
from eo_ssl.objectives import Batch, derive_seed
from eo_ssl.pretraining.checkpoints import put_aside
from eo_ssl.pretraining.loader import ItemLoader
from eo_ssl.pretraining.module import Pretraining, require_pretraining
from eo_ssl.pretraining.monitors import embed_rows
from eo_ssl.pretraining.run_log import RunLog
from eo_ssl.pretraining.sampler import Rows
from eo_ssl.pretraining.training_data import TrainingData
from eo_ssl.pretraining.two_looks import Looks, embed_two_looks
from eo_ssl.pretraining.view_spread import ViewSpread

FIRST_FEATURES = "first_features.npy"
"""Features of the full set at the first event, where later ones redraw from them: float16 [N, D]"""
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pruning:
    """A schedule, and what is known about all N tiles of the source beside their pixels."""

    schedule: DynamicSchedule
    """When and how."""
    identities: Rows | None = None
    """[N], equal for rows whose pixels are the same: of those an event keeps the first; None recognises none."""
    classes: npt.NDArray[np.int64] | None = None
    """int64 [N], -1 without label; for the report, never used to choose."""
    columns: pa.Table | None = None
    """What the index says of each, N lines, for selectors that read it."""
    corpus_fingerprint: str = ""
    """Of what the tiles come from."""

    @classmethod
    def over(cls, data: TrainingData, schedule: DynamicSchedule) -> Pruning:
        """Prune what `open_training_data` opened."""
        return cls(schedule, data.identities, data.classes, data.columns, fingerprint(data.inputs))

    def context(self, rows: Rows) -> Context:
        """What an event is told about `rows`; keep = 1 is no curation at all, so not even duplicates leave then."""
        return Context(
            identities=None if self.identities is None or self.schedule.config.keep == 1 else self.identities[rows],
            labels=None if self.classes is None else self.classes[rows],
            columns=None if self.columns is None else self.columns.take(pa.array(rows)),
            corpus_fingerprint=self.corpus_fingerprint,
        )


class DynamicPruning(pl.Callback):
    """Runs the events of a `DynamicSchedule` during any training, whatever its objective.

    An event embeds the full set, never the last pool, with the objective's embedder (its EMA teacher where it has
    one) in evaluation mode and without augmentation, and hands the new pool to the sampler in this process. All of
    its state is in the checkpoint. With keep = 1 the pool never changes, and neither does any byte of the weights.
    """

    def __init__(
        self, pruning: Pruning, loader: ItemLoader, run_log: RunLog, spread: ViewSpread, *, folder: Path
    ) -> None:
        """Prune the pool of `loader`, whose present one is the full set.

        Args:
            pruning: when, how, and what is known of the tiles.
            loader: whose sampler is changed.
            run_log: where time spent here does not count as training.
            spread: how far apart two views of each row lie.
            folder: for `event_0001.parquet` (`tabulate_selection`) and `events.json` (reports).

        Raises:
            UserError: if an event would leave less than a batch, or its selector lacks what it selects by, which is
                better said before the warm-up than after it.
        """
        self.schedule, self.loader, self.run_log, self.folder = pruning.schedule, loader, run_log, folder
        self.spread, self.redraws = spread, self.schedule.config.features == "first"
        self.everything: Rows = loader.sampler.pool
        self.reports: list[dict[str, Any]] = []
        self.files: dict[str, dict[str, Any]] = {}  # size and sha256 of the events' tables
        self.before = (0, 0.0)  # passes and seconds of a run on other data that this one goes on from
        self.context = pruning.context(self.everything)
        self.schedule.config.method.check(self.context.columns, targeted=self.context.towards is not None)
        identities, kept = self.context.identities, resolve_keep(self.schedule.config.keep, len(self.everything))
        different = len(self.everything) if identities is None else len(np.unique(identities))
        if min(kept, different) < loader.sampler.global_batch:
            raise UserError(
                f"expected pruning to leave at least one batch of {loader.sampler.global_batch} tiles, got"
                f" {min(kept, different)} of {len(self.everything)}: keep more, or choose a smaller batch_size"
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at what a resumed run has written, and prune where an event is due before the first step."""
        if self.reports and trainer.is_global_zero:
            self._check_written(trainer.global_step)
        self._prune(trainer, require_pretraining(pl_module))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Prune where an event is due after this step; none after the last, which nothing would be trained on."""
        module = require_pretraining(pl_module)
        if module.stepped and trainer.global_step < module.steps:
            self._prune(trainer, module)

    @property
    def passes(self) -> int:
        """Forward passes spent on embeddings so far; known to the first process alone."""
        return self.before[0] + sum(int(report["cost"]["forward_equivalents"]) for report in self.reports)

    @property
    def clustering_s(self) -> float:
        """Wall seconds of clustering and drawing so far; known to the first process alone."""
        return self.before[1] + sum(float(report["cost"]["select_s"]) for report in self.reports)

    def state_dict(self) -> dict[str, Any]:
        """The schedule's state, the reports so far, and what their tables are, plain values."""
        reports = [json.dumps(report) for report in self.reports]
        written = {"reports": reports, "files": dict(self.files), "before": list(self.before)}
        return {"schedule": self.schedule.state_dict(), **written}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the schedule, or begin one after a run on other data; the pool comes back with the sampler."""
        passes, seconds = state_dict.get("before", (0, 0.0))  # neither in those of earlier versions
        self.before = int(passes), float(seconds)
        if "schedule" not in state_dict:
            return
        self.schedule.load_state_dict(state_dict["schedule"])
        self.reports = [json.loads(report) for report in state_dict["reports"]]
        self.files = dict(state_dict.get("files", {}))  # none in those of earlier versions

    def _prune(self, trainer: pl.Trainer, module: Pretraining) -> None:
        """Embed on all ranks, redraw on rank 0, tell all ranks, change the sampler, write the event down."""
        presentations, total = trainer.global_step * self.loader.presented, module.steps * self.loader.presented
        if self.schedule.ends(presentations, total):
            self.loader.sampler.replace_pool(self.schedule.release(self.everything))
        if not self.schedule.due(presentations, total):
            return
        with self.run_log.paused():
            pool, weights = self.loader.sampler.pool, self.loader.sampler.weights
            embeddings, looks = self._embed(module), self._look(module)
            if trainer.is_global_zero:
                context = changed(
                    self.context,
                    spread=self.spread.read(self.everything),
                    looks=looks,
                    forward_passes=self._count_passes(embeddings, looks),
                    encoder_fingerprint=fingerprint_embedders(module),
                )
                features = embeddings
                if self.redraws or features is None:
                    features = self._first_features(embeddings)
                pool, report = self.schedule.update(
                    features, self.everything, presentations=presentations, context=context
                )
                weights = self.schedule.weights
                self.reports.append(report.to_json())
                self._write()
            told = trainer.strategy.broadcast((pool, weights, self.schedule.next_at, self.schedule.event))
            pool, weights, self.schedule.next_at, self.schedule.event = told
            self.loader.sampler.replace_pool(pool, weights)

    def _count_passes(self, embeddings: Floats | None, looks: Looks | None) -> int:
        """Images that went through the encoder for an event: all of each item, and two of those looked at twice."""
        images = self.loader.items.dates * len(self.loader.items.contracts)
        return (0 if embeddings is None else images * len(embeddings)) + (2 * len(looks[0]) if looks else 0)

    def _embed(self, module: Pretraining) -> Floats | None:
        """Features of the full set; None where those of the first event serve again."""
        if self.redraws and self.schedule.event:
            return None
        return embed_rows(module, self.loader, self.everything, title="pruning")

    def _look(self, module: Pretraining) -> Looks | None:
        """Features of two looks at some rows; None where nobody asks how far features are to be trusted."""
        gate = self.schedule.config.readiness
        if gate.full <= 0 or self.schedule.config.keep == 1 or (self.redraws and self.schedule.event):
            return None
        rng = np.random.default_rng([self.schedule.config.seed, self.schedule.event])
        rows = np.sort(rng.permutation(self.everything)[: gate.rows])
        seed = derive_seed(self.schedule.config.seed, self.schedule.event)
        return embed_two_looks(module, self.loader, rows, seed=seed)

    def _first_features(self, embeddings: Floats | None) -> Floats:
        """Features of the first event, rounded to half precision: kept when it comes, read at later ones.

        Raises:
            UserError: the file is not what was kept.
        """
        path = self.folder / FIRST_FEATURES
        if embeddings is not None:
            data = io.BytesIO()
            np.save(data, embeddings.astype(np.float16), allow_pickle=False)
            self.folder.mkdir(parents=True, exist_ok=True)
            replace(path, data.getvalue())
            self.files[path.name] = measure_file(path)
        expect(
            path.exists() and measure_file(path) == self.files.get(path.name),
            expected=f"the features of the first event in {path}",
            got="others" if path.exists() else "none",
            remedy="begin the run again",
        )
        first: Floats = np.load(path, allow_pickle=False).astype(np.float32)
        return first

    def _check_written(self, step: int) -> None:
        """Write the reports again, which the checkpoint holds, and put tables aside that are not as they were."""
        replace(self.folder / "events.json", json.dumps(self.reports, indent=1).encode())
        for name, mark in self.files.items():
            path = self.folder / name
            if not path.exists() or measure_file(path) != mark:
                put_aside(path, self.folder.parent / "checkpoints", step=step)

    def _write(self) -> None:
        """Write the latest event; a resumed run writes the same bytes again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        event, last = self.reports[-1]["event"], self.schedule.last
        if event is not None and last is not None:
            data = io.BytesIO()
            pq.write_table(tabulate_selection(last, self.everything), data)
            path = self.folder / f"event_{event:04d}.parquet"
            replace(path, data.getvalue())
            self.files[path.name] = measure_file(path)
        replace(self.folder / "events.json", json.dumps(self.reports, indent=1).encode())


def keep_cost_alone(state: dict[str, Any]) -> dict[str, Any]:
    """The state of a `DynamicPruning` that begins anew on other data, and has spent what that of ``state`` had."""
    costs = [json.loads(report)["cost"] for report in state["reports"]]
    passes, seconds = state.get("before", (0, 0.0))
    passes += sum(int(cost["forward_equivalents"]) for cost in costs)
    return {"before": [passes, seconds + sum(float(cost["select_s"]) for cost in costs)]}


def fingerprint_embedders(module: Pretraining) -> str:
    """Sha256 (hex) over the weights that embed at this moment, which no file holds."""
    embedders = module.objective.embedders
    tensors = {
        name if len(embedders) == 1 else f"{stream}.{name}": tensor
        for stream, embedder in embedders.items()
        for name, tensor in embedder.network.state_dict().items()
    }
    return hash_tensors(tensors, {"embedder": type(module.objective).__name__})

"""Is the encoder learning or collapsing? Rank, spread and nearest-neighbour accuracy of its features, and a guard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track
from torch import Tensor

from eo_ssl.errors import expect
from eo_ssl.evaluation import knn
from eo_ssl.models import View
from eo_ssl.objectives import Batch
from eo_ssl.pretraining.collapse_guard import CollapseGuard
from eo_ssl.pretraining.loader import ItemLoader
from eo_ssl.pretraining.module import Pretraining, require_pretraining
from eo_ssl.pretraining.run_log import RunLog
from eo_ssl.pretraining.sampler import Rows
from eo_ssl.printable import make_console

EPSILON = 1e-7  # added to each share of the spectrum (Garrido et al. 2023, equation 1)
FEWEST_HELD_OUT = 10  # labelled tiles below which an accuracy says nothing
MOST_PROBED = (1000, 500)  # labelled tiles of the pool and of the held-out rows, so that a look stays short
LONG_ROWS = 4096  # rows from which embedding shows its progress


@dataclass(frozen=True, slots=True)
class LabelledProbe:
    """Labelled tiles for the online nearest-neighbour accuracy."""

    train_rows: Rows
    """int64 [n], rows of the training split."""
    train_labels: npt.NDArray[np.int64]
    """int64 [n], classes >= 0."""
    test_rows: Rows
    """int64 [m], rows of the validation split."""
    test_labels: npt.NDArray[np.int64]
    """int64 [m]."""
    k: int = 5
    """Neighbours."""

    def __len__(self) -> int:
        """Tiles that are judged."""
        return len(self.test_rows)


def make_probe(pool: Rows, held_out: Rows, classes: npt.NDArray[np.int64]) -> LabelledProbe | None:
    """A probe of labelled tiles spread evenly over the pool and the held-out rows, or None where labels do not suffice.

    Args:
        pool: int64 [n], rows trained on.
        held_out: int64 [m], rows of the validation split; those of the pool are not used.
        classes: int64 [N], class of every row, -1 without label.
    """
    train = pool[classes[pool] >= 0]
    test = np.setdiff1d(held_out[classes[held_out] >= 0], pool)
    if len(np.unique(classes[train])) < 2 or len(test) < FEWEST_HELD_OUT:
        return None
    train, test = (
        rows[np.linspace(0, len(rows) - 1, min(len(rows), n)).astype(np.int64)]
        for rows, n in ((train, MOST_PROBED[0]), (test, MOST_PROBED[1]))
    )
    return LabelledProbe(train, classes[train], test, classes[test])


class Monitors(pl.Callback):
    """Notes what is watched in the log every N steps and at the last, and lets the guard judge it.

    These are `rankme`, `feature_std` and `uniformity` of the features; `projection_std` of what the loss compares, for
    a method with a projector, and `projection_rank`, where the loss asks its channels to differ; and, given a probe,
    `knn_accuracy`. `collapsing` is noted as 1 in a line at which the guard gave a warning.
    """

    def __init__(
        self,
        loader: ItemLoader,
        run_log: RunLog,
        *,
        rows: Rows,
        every: int,
        guard: CollapseGuard,
        probe: LabelledProbe | None = None,
    ) -> None:
        """Watch the features of fixed tiles.

        Args:
            loader: reads and normalises them.
            run_log: receives the values.
            rows: int64 [n], the tiles of rank and spread.
            every: steps between looks.
            guard: judges each look.
            probe: labelled tiles, if there are any.
        """
        self.loader, self.run_log, self.rows, self.every = loader, run_log, rows, every
        self.guard, self.probe = guard, probe

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Look, where a look is due."""
        module, step = require_pretraining(pl_module), trainer.global_step
        if not module.stepped or not (step % self.every == 0 or step == module.steps):
            return
        with self.run_log.paused():
            values = self._measure(module)
        tiles = None if self.probe is None else len(self.probe)
        chance = None if self.probe is None else float(np.bincount(self.probe.test_labels).max() / len(self.probe))
        logged = {name: float(value) for name, value in module.last.items()}
        sentence = self.guard.judge({**logged, **values}, step=step, chance=chance, tiles=tiles)
        if sentence is not None:
            values["collapsing"] = 1.0
            trainer.should_stop = trainer.should_stop or self.guard.stops
            if trainer.is_global_zero and not self.guard.stops:
                make_console(stderr=True).print(f"warning: {sentence}", soft_wrap=True, highlight=False)
        self.run_log.note(**values)

    def state_dict(self) -> dict[str, Any]:
        """That of the guard."""
        return self.guard.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the guard's counts."""
        self.guard.load_state_dict(state_dict)

    def _measure(self, module: Pretraining) -> dict[str, float]:
        features = embed_rows(module, self.loader, self.rows)
        values = {
            "rankme": rank_me(features),
            "feature_std": measure_feature_std(features),
            "uniformity": measure_uniformity(features),
        }
        projection = module.project(torch.from_numpy(features))
        if projection is not None:
            values["projection_std"] = measure_feature_std(projection.numpy())
            if module.objective.channels_differ:
                values["projection_rank"] = count_different_channels(projection.numpy())
        if self.probe is not None:
            values["knn_accuracy"] = self._accuracy(module, self.probe)
        return values

    def _accuracy(self, module: Pretraining, probe: LabelledProbe) -> float:
        train = embed_rows(module, self.loader, probe.train_rows)
        test = embed_rows(module, self.loader, probe.test_rows)
        predicted = knn.predict(train, probe.train_labels, test, k=min(probe.k, len(train)))
        return float((predicted == probe.test_labels).mean())


def embed_rows(
    module: Pretraining, loader: ItemLoader, rows: Rows, *, title: str = "embedding"
) -> npt.NDArray[np.float32]:
    """Features of items without augmentation, in the order of `rows`: float32 [n, D], on every process.

    Batches have a fixed size, so that the same rows give the same bits at any time of a run; processes share them.

    Raises:
        UserError: some are not finite.
    """
    size, world, rank = loader.sampler.batch_size, loader.sampler.world, loader.sampler.rank
    starts = range(0, len(rows), size)
    shown = track(
        starts[rank::world],
        description=title,
        console=make_console(stderr=True),
        transient=True,
        disable=len(rows) < LONG_ROWS or rank > 0,
    )
    mine = [module.embed(make_whole_views(loader, rows[at : at + size], module.device)) for at in shown]
    device = module.device
    features = torch.cat(mine) if world == 1 else _gather_batches(mine, starts, size=size, n=len(rows), device=device)
    expect(
        bool(features.isfinite().all()),
        expected="finite features of the tiles that are looked at",
        got="others, for the training has diverged",
        remedy="lower lr, or clip the gradient",
    )
    return features.numpy()


def _gather_batches(mine: list[Tensor], starts: range, *, size: int, n: int, device: torch.device) -> Tensor:
    """Features of all rows [n, D] on every process, of which process r embedded the batches r, r + world, ..."""
    world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    width = torch.tensor([mine[0].shape[1] if mine else 0], device=device)
    torch.distributed.all_reduce(width, op=torch.distributed.ReduceOp.MAX)
    whole = torch.zeros(len(starts) * size, int(width), device=device)
    for index, features in zip(range(rank, len(starts), world), mine, strict=True):
        whole[index * size : index * size + len(features)] = features.to(device)
    torch.distributed.all_reduce(whole)  # each row is of one process and zero in the others
    return whole[:n].cpu()


def make_whole_views(loader: ItemLoader, rows: Rows, device: torch.device) -> list[View]:
    """Items as they are, without augmentation: a view of each date of each stream."""
    return [
        View(image[:, date].to(device), valid[:, date].to(device), loader.items.contracts[stream].bands, stream)
        for stream, (image, valid) in loader.normalised(rows).items()
        for date in range(image.shape[1])
    ]


def rank_me(features: npt.NDArray[np.float32]) -> float:
    """Effective rank of features [n, D]: exp of the entropy of their normalised singular values.

    RankMe, Garrido et al. 2023 (arXiv 2210.02885), equations 1 and 2; between 1 (collapsed to a line) and min(n, D).
    """
    values = torch.linalg.svdvals(torch.from_numpy(features).double())  # [min(n, D)]
    share = values / values.sum().clamp(min=torch.finfo(torch.float64).tiny) + EPSILON
    return float(torch.exp(-(share * share.log()).sum()))


def measure_feature_std(features: npt.NDArray[np.float32]) -> float:
    """Mean standard deviation of the channels of features [n, D] on the unit sphere, times sqrt(D).

    0 when all tiles have one feature, near 1 when features spread evenly (Chen and He 2021, section 4.1).
    """
    unit: Tensor = torch.nn.functional.normalize(torch.from_numpy(features).double(), dim=1)
    return float(unit.std(dim=0).mean() * unit.shape[1] ** 0.5)


def measure_uniformity(features: npt.NDArray[np.float32]) -> float:
    """Uniformity of features [n, D] on the unit sphere: log of the mean over pairs of exp(-2 d^2), d their distance.

    Wang and Isola 2020 (arXiv 2005.10242), equation 2, t = 2; 0 when all tiles have one feature, -4 where the mean
    squared distance is that of independent directions and varies little. Pairs of a tile with itself do not count.
    """
    unit: Tensor = torch.nn.functional.normalize(torch.from_numpy(features).double(), dim=1)
    return float(torch.pdist(unit).square().mul(-2).exp().mean().log()) if len(unit) > 1 else 0.0


def count_different_channels(projection: npt.NDArray[np.float32]) -> float:
    """How many channels of [n, d] are no copies of each other: exp of the entropy of their correlation's spectrum.

    The effective rank of Roy and Vetterli 2007, equations 2 and 3, of the correlation matrix; 1 when every channel is
    the same up to scale and sign, d when none is correlated with another. Constant channels do not count; 0 where all
    are.
    """
    x = torch.from_numpy(projection).double()
    spread = x.std(dim=0, correction=0)
    moving = spread > EPSILON * x.abs().max()
    if not moving.any():
        return 0.0
    standard = ((x - x.mean(dim=0)) / spread.clamp(min=torch.finfo(torch.float64).tiny))[:, moving]  # [n, d']
    share = torch.linalg.svdvals(standard).square()
    return float(torch.special.entr(share / share.sum()).sum().exp())

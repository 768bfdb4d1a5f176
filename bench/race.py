"""`train/data2vec2-vs-data2vec`: in what part of data2vec's time data2vec 2.0 is where data2vec ends, on data2vec's own loss.

Each method regresses the features of a teacher of its own, so their losses are of different things. Here both are asked what data2vec asks: on held-out
tiles with data2vec's masks, the smooth-L1 distance of the hidden patches from the targets of the teacher that a finished run of data2vec ended with. A
network's prediction is brought to the coordinates of that teacher by one linear map, fitted on training tiles for each network alike, data2vec included.
Masks, teacher and loss are data2vec's, so what data2vec 2.0 reaches here it reaches away from home.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml
from torch import Tensor

from bench.study_objectives import FIRST_ARCHIVE, ROOT
from eo_ssl.cards import load_card
from eo_ssl.corpus import IngestConfig, ingest
from eo_ssl.models import View, Vit
from eo_ssl.objectives import Data2Vec, Data2Vec2, Objective
from eo_ssl.objectives.base import Method
from eo_ssl.objectives.data2vec import Data2VecObjective
from eo_ssl.objectives.data2vec2 import Data2Vec2Objective
from eo_ssl.pretraining import (
    FitConfig,
    ItemLoader,
    ItemSampler,
    OptimizerConfig,
    Pretraining,
    Processes,
    ViewMaker,
    fit,
)
from eo_ssl.pretraining.collapse_guard import GuardConfig
from eo_ssl.pretraining.monitors import make_whole_views
from eo_ssl.pretraining.training_data import DataSelection, TrainingData, open_training_data
from eo_ssl.sample import ArchiveSpec, make_archive
from eo_ssl.scene import list_products

STEPS, SEEDS, BATCH, DEPTH = 300, 3, 16, 4
SHARES = (1 / 12, 1 / 6, 1 / 3)
"""Parts of data2vec's time that data2vec 2.0 is given, each with a whole schedule of its own."""
LOOKED_AT = 256  # tiles of the pool for the linear map, and of those held out for the loss
RIDGE = 1e-3  # of the linear map, in variances of a standardised channel
CONFIGS: Mapping[type[Method], str] = {Data2Vec: "data2vec_small", Data2Vec2: "data2vec2_small"}


@dataclass(frozen=True)
class Trained:
    """A finished run."""

    objective: Objective
    seconds: float
    steps: int


@dataclass(frozen=True)
class Reached:
    """What data2vec 2.0 came to in a part of data2vec's time, by seed."""

    ratios: tuple[float, ...]
    """Its time as a part of data2vec's."""
    losses: tuple[float, ...]


def run() -> Iterator[dict[str, Any]]:
    """The one row."""
    with tempfile.TemporaryDirectory(prefix="eo_ssl-bench-") as home:
        data = open_archive(Path(home), ArchiveSpec())
        yield compare(data, steps=STEPS, seeds=SEEDS)


def open_archive(home: Path, spec: ArchiveSpec) -> TrainingData:
    """Optical tiles of a sample archive on which no setting was chosen; three tenths are held out."""
    make_archive(home / "archive", seed=FIRST_ARCHIVE, spec=spec)
    products = list_products(load_card("sample_s2_l2a"), home / "archive").products
    config = IngestConfig(size_px=64, codec="lz4", min_valid=0.9, shares=(0.7, 0.3, 0.0))
    ingest(products, out=home / "corpus", config=config, client="synchronous")
    return open_training_data(DataSelection((home / "corpus",)))


def compare(data: TrainingData, *, steps: int, seeds: int) -> dict[str, Any]:
    """The row: data2vec with several seeds, and data2vec 2.0 with the same in parts of its time."""
    step = _seconds_per_step(train(Data2Vec2, data, steps=4, seed=0))
    own, times, found = [], [], {share: ([], []) for share in SHARES}  # type: ignore[var-annotated]
    for seed in range(seeds):
        whole = train(Data2Vec, data, steps=steps, seed=seed)
        ruler = cast(Data2VecObjective, whole.objective)
        own.append(measure_loss(whole.objective, ruler, data))
        times.append(whole.seconds)
        for share, (ratios, losses) in found.items():
            part = train(Data2Vec2, data, steps=max(2, round(share * whole.seconds / step)), seed=seed)
            step = _seconds_per_step(part)
            ratios.append(part.seconds / whole.seconds)
            losses.append(measure_loss(part.objective, ruler, data))
    parts = [Reached(tuple(ratios), tuple(losses)) for ratios, losses in found.values()]
    return describe(parts, own, seconds=statistics.median(times), steps=steps)


def describe(parts: Sequence[Reached], own: Sequence[float], *, seconds: float, steps: int) -> dict[str, Any]:
    """The row; its ratio is that of the smallest part in which the mean loss is data2vec's or lower, None where none is."""
    enough = [part for part in parts if statistics.mean(part.losses) <= statistics.mean(own)]
    ratio = min((statistics.median(part.ratios) for part in enough), default=None)
    said = "; ".join(
        f"{statistics.median(part.ratios):.2f} of the time: {_join(part.losses)}"
        for part in sorted(parts, key=lambda part: part.ratios)
    )
    return {
        "name": "train/data2vec2-vs-data2vec",
        "value": None if ratio is None else ratio * seconds,
        "unit": "s to data2vec's loss",
        "reference": "data2vec, its small configuration",
        "reference_value": seconds,
        "ratio": ratio,
        "pairs": len(own),
        "note": f"smooth-L1 from the last targets of data2vec's teacher at hidden patches of held-out tiles, through a fitted linear map on both sides;"
        f" by seed, data2vec: {_join(own)}; data2vec 2.0 in {said}; ViT-Ti/8 of {DEPTH} blocks, sample archive {FIRST_ARCHIVE}, batch {BATCH},"
        f" {steps} steps of data2vec, {torch.get_num_threads()} threads",
    }


def train(method: type[Method], data: TrainingData, *, steps: int, seed: int) -> Trained:
    """A run of the method's small configuration, warm-up and schedule brought to ``steps``; its time is that of its steps alone."""
    options = yaml.safe_load((ROOT / "configs" / "pretrain" / f"{CONFIGS[method]}.yaml").read_text())
    built = method(**options["objective"][method.__name__])
    warmup = options["optimizer"]["warmup_steps"] * steps // options["steps"]
    optimizer = OptimizerConfig(**{**options["optimizer"], "warmup_steps": warmup})
    contracts = data.items.contracts
    encoder = Vit(patch_size=8, depth=DEPTH).build(contracts["tile"].bands, contracts["tile"].size_px, seed)
    objective = built.build({"tile": encoder}, seed + 1)
    module = Pretraining(objective, lr=options["lr"], steps=steps, optimizer=optimizer)
    loader = ItemLoader(data.items, ItemSampler(data.pool, batch_size=BATCH, seed=seed), steps=steps)
    quiet = FitConfig(log_every=steps, monitor_every=steps, monitor_tiles=2, checkpoint_every=steps)
    with tempfile.TemporaryDirectory(prefix="eo_ssl-bench-") as folder:
        found = fit(
            module,
            loader,
            views=ViewMaker(built.views, contracts),
            folder=Path(folder),
            config=quiet,
            processes=Processes(device="cpu", precision="float32"),
            guard=GuardConfig(action="ignore"),
        )
    assert found is not None
    return Trained(objective.eval(), steps * BATCH / found["images_per_s"], steps)


def measure_loss(objective: Objective, ruler: Data2VecObjective, data: TrainingData) -> float:
    """data2vec's loss at hidden patches of held-out tiles, from the targets of ``ruler``, after a linear map fitted on the pool."""
    loader = ItemLoader(data.items, ItemSampler(data.pool, batch_size=BATCH, seed=0), steps=1)
    (x, y), (seen, wanted) = (
        gather(
            objective, ruler, loader, rows[np.linspace(0, len(rows) - 1, min(len(rows), LOOKED_AT)).astype(np.int64)]
        )
        for rows in (data.pool, data.held_out)
    )
    mapped = fit_map(x, y)(seen)
    loss = torch.nn.functional.smooth_l1_loss(mapped, wanted, beta=ruler.method.beta)
    return float(loss)


@torch.no_grad()
def gather(
    objective: Objective, ruler: Data2VecObjective, loader: ItemLoader, rows: np.ndarray[Any, Any]
) -> tuple[Tensor, Tensor]:
    """What the method says of hidden patches, and what the ruler's teacher makes of them: [n, D] float64 each."""
    said, wanted = [], []
    for at in range(0, len(rows), 64):
        (view,) = make_whole_views(loader, rows[at : at + 64], torch.device("cpu"))
        hidden = ruler.draw_hidden(len(view), torch.Generator().manual_seed(at))  # [B, N]
        said.append(predict(objective, view, hidden)[hidden].double())
        wanted.append(ruler.compute_targets(view, torch.ones_like(hidden))[hidden].double())
    return torch.cat(said), torch.cat(wanted)


def predict(objective: Objective, view: View, hidden: Tensor) -> Tensor:
    """The method's own answer for every patch [B, N, D], of which those that are ``hidden`` [B, N] were not shown."""
    if isinstance(objective, Data2VecObjective):
        answer: Tensor = objective.head(objective.encoder.masked(view, hidden, objective.mask_token).patches)
        return answer
    assert isinstance(objective, Data2Vec2Objective)
    shown = int((~hidden[0]).sum())  # of each tile alike
    keep = hidden.float().argsort(dim=1, stable=True)[:, None, :shown]  # [B, 1, K]
    return objective.fill_in(objective.encoder.visible(view, keep), keep, torch.Generator().manual_seed(0))[:, 0]


def fit_map(x: Tensor, y: Tensor) -> Any:
    """The ridge regression from rows of ``x`` [n, D] to ``y`` [n, E]: a function of rows."""
    mean, scale = x.mean(dim=0), x.std(dim=0).clamp(min=torch.finfo(x.dtype).tiny)
    z, level = (x - mean) / scale, y.mean(dim=0)
    gram = z.T @ z / len(z) + RIDGE * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(gram, z.T @ (y - level) / len(z))
    return lambda rows: (rows - mean) / scale @ weight + level


def _seconds_per_step(run: Trained) -> float:
    return run.seconds / run.steps


def _join(losses: Sequence[float]) -> str:
    return ", ".join(f"{loss:.4f}" for loss in losses)

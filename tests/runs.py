"""A tiny pretraining run on tiles in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from eo_ssl.curation import DynamicConfig, DynamicSchedule, Hierarchical, Readiness, Selector
from eo_ssl.fingerprints import fingerprint
from eo_ssl.models import Vit
from eo_ssl.objectives import Dino, DinoV2, IJepa, ISogClr, Mae, Method, MocoV2, Objective, SimClr
from eo_ssl.objectives.hard_patches import HardPatches
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.pretraining import (
    FitConfig,
    ItemLoader,
    ItemSampler,
    OptimizerConfig,
    Pretraining,
    Processes,
    Pruning,
    Tiles,
    TileSource,
    ViewMaker,
    fit,
    parse_limit,
)
from eo_ssl.sensors import Quantity

METHODS: dict[str, Method] = {
    "mae": Mae(),
    "mae_hard": Mae(decoder="cross", predicted=0.5, decoder_dim=32, hard=HardPatches(share=0.5, momentum=(0.9, 0.99))),
    "ijepa": IJepa(),
    "simclr": SimClr(),
    "mocov2": MocoV2(queue=32, hidden_dim=32, output_dim=16),
    "dino": Dino(prototypes=32, hidden_dim=32, bottleneck_dim=16),
    "isogclr": ISogClr(),
    "dinov2": DinoV2(prototypes=32, hidden_dim=32, bottleneck_dim=16),
}
TILES, BATCH, STEPS = 96, 8, 60


@dataclass(frozen=True)
class FakeStream:
    bands: tuple[str, ...] = ("B02", "B03", "B04")
    gsd_m: float = 10.0
    size_px: int = 16
    sensor: str = "sentinel2_l2a"
    quantity: Quantity = Quantity.BOA_REFLECTANCE
    name: str = "fake"


@dataclass
class FakeReader:
    """Reflectances that say which tile and band they are of, with a hole of missing pixels in every fifth tile."""

    n: int = TILES
    stream: FakeStream = field(default_factory=FakeStream)
    base: int = 0
    reads: list[np.ndarray] = field(default_factory=list)

    def __len__(self) -> int:
        return self.n

    def tile(self, row: int) -> np.ndarray:
        rng = np.random.default_rng([self.base, row])
        kind = (self.base + row) % 4
        y, x = np.mgrid[0:1:16j, 0:1:16j]
        pattern = [x, y, 1 - x, 1 - y][kind]
        codes = np.array([int(band[1:3]) for band in self.stream.bands])[:, None, None]
        image = 0.1 + 0.01 * codes + 0.05 * pattern + 0.005 * rng.normal(size=(len(codes), 16, 16))
        if row % 5 == 0:
            image[:, 2:5, 3:9] = np.nan
        return image.astype(np.float32)

    def read(self, rows: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
        assert rows.dtype == np.int64 and rows.min() >= 0 and rows.max() < self.n
        self.reads.append(rows.copy())
        got = np.stack([self.tile(int(row)) for row in rows])
        if out is None:
            return got
        np.copyto(out, got)
        return out


def preprocessing(stream: FakeStream = FakeStream()) -> Preprocessing:
    class Stats:
        quantity = stream.quantity
        mean, std = np.array([0.15, 0.16, 0.17]), np.array([0.03, 0.03, 0.03])

    return Preprocessing.of_stream(stream, Stats())


def make_objective(name: str = "mae", *, seed: int = 0) -> Objective:
    encoder = Vit(patch_size=4, depth=1).build(FakeStream().bands, 16, seed)
    return METHODS[name].build({"tile": encoder}, seed + 1)


def make_loader(
    *, steps: int = STEPS, seed: int = 3, ahead: bool = True, reader: FakeReader | None = None
) -> ItemLoader:
    source = TileSource([reader or FakeReader()])
    sampler = ItemSampler(np.arange(len(source)), batch_size=BATCH, seed=seed)
    return ItemLoader(Tiles(source, preprocessing()), sampler, steps=steps, ahead=ahead)


BALANCED = Hierarchical(levels=(4,), n_resample=1)


def schedule(keep: float, method: Selector = BALANCED, **options: Any) -> DynamicSchedule:
    options = {"readiness": Readiness(full=0.0), **options}
    config = DynamicConfig(warmup=100, interval=160, keep=keep, method=method, **options)
    return DynamicSchedule(config)


def run(
    folder: Path,
    *,
    name: str = "mae",
    keep: float | None = None,
    method: Selector = BALANCED,
    every: int = 7,
    ahead: bool = True,
    spoil: int | None = None,
    identities: np.ndarray | None = None,
    max_time: str | None = None,
    **options: Any,
) -> tuple[Objective, ItemLoader]:
    """Train, or continue in, `folder`; `spoil` breaks the run at that step."""
    loader = make_loader(ahead=ahead)
    objective = make_objective(name)
    if spoil is not None:
        objective.forward = Spoiled(objective.forward, spoil, loader)
    module = Pretraining(
        objective, lr=2e-3, steps=STEPS, optimizer=OptimizerConfig(warmup_steps=5, weight_decay_end=0.2)
    )
    table = METHODS[name].views
    specs = {group: replace(spec, crop=(0.5, 1.0), flips=True, gain=0.1, noise=0.05) for group, spec in table.items()}
    views = ViewMaker(specs, loader.items.contracts)
    fit(
        module,
        loader,
        views=views,
        folder=folder,
        config=FitConfig(log_every=4, monitor_every=15, monitor_tiles=32, checkpoint_every=every),
        processes=Processes(precision="float32"),
        max_time=parse_limit(max_time),
        pruning=None if keep is None else Pruning(schedule(keep, method, **options), identities),
    )
    return objective, loader


class Spoiled:
    """A forward pass that fails once a step is reached."""

    def __init__(self, forward, step, loader) -> None:
        self.forward, self.step, self.loader = forward, step, loader

    def __call__(self, batch):
        if self.loader.step > self.step:
            raise RuntimeError("spoiled on purpose")
        return self.forward(batch)


def weights(objective: Objective) -> str:
    """Fingerprint of every weight, bit by bit."""
    return fingerprint({key: value.numpy().tobytes().hex() for key, value in objective.state_dict().items()})

"""Tasks with planted answers, and tiny networks to learn them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch

from eo_ssl.encoder import EncoderBase, TrainedEncoder
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import Task
from eo_ssl.models import Vit, seed_weights
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import Quantity

BANDS = ("B02", "B03", "B04")
TOA = Quantity.TOA_REFLECTANCE
EMPTY = np.empty(0, dtype=np.int64)


def contract(size_px: int = 32, **changes: object) -> Preprocessing:
    fields = dict(  # noqa: C408
        sensor="sentinel2_l1c",
        quantity=TOA,
        bands=BANDS,
        convert=(),
        range=TOA.plausible,
        clip=None,
        mean=(0.1, 0.1, 0.1),
        std=(0.05, 0.05, 0.05),
        size_px=size_px,
        gsd_m=(10.0, 10.0),
        resize="to_size",
        interpolation="bilinear",
        antialias=True,
        missing="refuse",
    )
    return Preprocessing(**{**fields, **changes})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Planted:
    """Images in memory, masks with them where there are some."""

    x: np.ndarray
    masks: np.ndarray | None = None
    bands: tuple[str, ...] = BANDS
    sensor: str = "sentinel2_l1c"
    quantity: Quantity = TOA
    gsd_m: float = 10.0
    fingerprint: str = "planted"

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(self.x.shape[1:])

    def __len__(self) -> int:
        return len(self.x)

    def read(self, positions: np.ndarray, out: np.ndarray) -> None:
        out[...] = self.x[positions]

    def read_masks(self, positions: np.ndarray, out: np.ndarray) -> None:
        assert self.masks is not None
        out[...] = self.masks[positions]


class TinyCnn(EncoderBase):
    """timm's four-stage residual network for tests."""

    def __init__(self, preprocessing: Preprocessing, *, seed: int = 0) -> None:
        super().__init__("tiny_cnn", preprocessing, {})
        with seed_weights(seed):
            self.model = timm.create_model("test_resnet", in_chans=len(preprocessing.bands), num_classes=0)
        self.eval()

    @property
    def dim(self) -> int:
        return int(self.model.num_features)

    def features(self, x: torch.Tensor, *, valid: torch.Tensor | None = None) -> torch.Tensor:
        return self.model(x)

    def tokens(self, x: torch.Tensor, *, valid: torch.Tensor | None = None) -> torch.Tensor:
        return self.model.forward_features(x).flatten(2).transpose(1, 2)


def vit(size: int = 32, *, depth: int = 2, patch: int = 8, seed: int = 0, **changes: Any) -> TrainedEncoder:
    """A transformer of width 64."""
    backbone = Vit("test_vit", patch_size=patch, depth=depth).build(BANDS, size, seed)
    return TrainedEncoder(backbone, contract(size, **changes), name="tiny_vit")


def images(n: int, size: int = 32, *, seed: int = 0) -> np.ndarray:
    """Noise around a reflectance of 0.1."""
    noise = np.random.default_rng(seed).normal(0.1, 0.02, (n, len(BANDS), size, size))
    return np.clip(noise, 0.001, None).astype(np.float32)


def fold_of(n: int, *, test: int, validation: int = 0) -> Fold:
    rows = np.arange(n, dtype=np.int64)
    return Fold(rows[: n - test - validation], rows[n - test :], rows[n - test - validation : n - test])


def task_of(source: Any, labels: np.ndarray, fold: Fold, kind: str, **changes: Any) -> Task:
    """One source, one fold; blocks of four images."""
    metric = {"classification": "accuracy", "multilabel": "micro_ap", "regression": "r2", "segmentation": "miou"}[kind]
    names = {"classification": ("low", "middle", "high"), "multilabel": ("green", "red"), "regression": ()}
    given: dict[str, Any] = {
        "name": f"planted {kind}",
        "sources": (source,),
        "labels": labels,
        "class_names": names.get(kind, ("dark", "bright")),
        "blocks": np.arange(len(labels)) // 4,
        "folds": (fold,),
        "split": "planted",
        "metric": metric,
        "kind": kind,
    }
    return Task(**{**given, **changes})


def classes(n: int = 96, *, test: int = 32, validation: int = 0, seed: int = 0) -> Task:
    """The mean of B03 tells one of three classes."""
    x, labels = images(n, seed=seed), np.random.default_rng(seed + 1).integers(0, 3, n)
    x[:, 1] += (0.04 * (labels - 1))[:, None, None].astype(np.float32)
    return task_of(Planted(x), labels, fold_of(n, test=test, validation=validation), "classification")


def labels_of_bands(n: int = 96, *, test: int = 32) -> Task:
    """Bright B03 and bright B04 are labels of their own."""
    x, labels = images(n), np.random.default_rng(5).integers(0, 2, (n, 2)).astype(np.uint8)
    x[:, 1:] += (0.05 * labels)[:, :, None, None].astype(np.float32)
    return task_of(Planted(x), labels, fold_of(n, test=test), "multilabel")


def means(n: int = 128, *, test: int = 32) -> Task:
    """The value is the mean of B04, in thousands."""
    level = np.random.default_rng(6).uniform(-0.06, 0.06, n)
    x = images(n)
    x[:, 2] += level[:, None, None].astype(np.float32)
    values = (1000 * x[:, 2].mean(axis=(1, 2))).astype(np.float32)
    return task_of(Planted(x), values, fold_of(n, test=test), "regression")


def masked(n: int = 64, *, size: int = 32, cell: int = 8, test: int = 16, validation: int = 0) -> Task:
    """Square cells, bright in B03 or not: the mask. The first row of pixels is not asked about."""
    bright = np.random.default_rng(7).integers(0, 2, (n, size // cell, size // cell))
    mask = np.kron(bright, np.ones((cell, cell), dtype=np.int64)).astype(np.int64)
    x = images(n, size)
    x[:, 1] += (0.08 * (mask - 0.5)).astype(np.float32)
    mask = mask.copy()
    mask[:, 0] = -1
    source = Planted(np.clip(x, 0.001, None), mask)
    fold = fold_of(n, test=test, validation=validation)
    return task_of(source, np.empty((n, 0), dtype=np.int64), fold, "segmentation")

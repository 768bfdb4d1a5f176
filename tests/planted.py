"""Small tasks in memory whose answers are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eo_ssl.encoder import TrainedEncoder
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import Task
from eo_ssl.models import Vit
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import Quantity

TOA, GAMMA0 = Quantity.TOA_REFLECTANCE, Quantity.GAMMA0
BANDS = ("B02", "B03", "B04", "B08")


@dataclass(frozen=True)
class Images:
    """Images in memory."""

    x: np.ndarray
    bands: tuple[str, ...] = BANDS
    sensor: str = "sentinel2_l1c"
    quantity: Quantity = TOA
    gsd_m: float = 10.0

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.x.shape[1:]  # type: ignore[return-value]

    @property
    def fingerprint(self) -> str:
        return str(hash(self.x.tobytes()))

    def __len__(self) -> int:
        return len(self.x)

    def read(self, positions: np.ndarray, out: np.ndarray) -> None:
        out[...] = self.x[positions]


def planted(rng: np.random.Generator, n: int = 120, size: int = 16) -> Task:
    """Two classes that differ in the near infrared alone."""
    labels = np.arange(n) % 2
    x = 0.2 + 0.03 * rng.normal(size=(n, 4, size, size)) + 0.02 * rng.normal(size=(n, 4, 1, 1))
    x[:, 3] += 0.1 * labels[:, None, None]
    rows = np.arange(n)
    fold = Fold(rows[: n // 2], rows[n // 2 :], rows[:0])
    source = Images(x.astype(np.float32))
    return Task("planted", (source,), labels, ("a", "b"), rows, (fold,), "halves", "accuracy")


def contract(**changes: object) -> Preprocessing:
    fields = {
        "sensor": "sentinel2_l1c",
        "quantity": TOA,
        "bands": BANDS,
        "convert": (),
        "range": TOA.plausible,
        "clip": None,
        "mean": (0.2,) * 4,
        "std": (0.1,) * 4,
        "size_px": 16,
        "gsd_m": (10.0, 10.0),
        "resize": "to_size",
        "interpolation": "bilinear",
        "antialias": True,
        "missing": "refuse",
    }
    return Preprocessing(**{**fields, **changes})  # type: ignore[arg-type]


def vit(size: int = 16) -> TrainedEncoder:
    return TrainedEncoder(Vit(patch_size=8, depth=1).build(BANDS, size, 0), contract(size_px=size), name="ours")

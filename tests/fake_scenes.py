"""Products made of arrays in memory, with every pixel known: what the tests of the corpus ingest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from eo_ssl.cards import Card, Labels
from eo_ssl.errors import UserError
from eo_ssl.scene import Acquisition, Chip
from eo_ssl.sensors import Quantity

UTM = {"crs": "EPSG:32632", "transform": (10.0, 0.0, 500000.0, 0.0, -10.0, 5000000.0)}
FACTS = Acquisition("2020-07-15T10:00:00Z", "03.01", "22", 0.0)
UNKNOWN = Acquisition("", "", "", 0.0)


def card(name: str = "fake", **changes: Any) -> Card:
    base = {
        "name": name,
        "title": "fake",
        "sensor": "sentinel2_l2a",
        "reader": "raster",
        "files": "*.tif",
        "bands": ("B02", "B03", "B04"),
        "quantity": "boa_reflectance",
        "gsd_m": 10.0,
        "licence": "CC0",
        "attribution": "nobody",
        "source": "memory",
        "labels": Labels(source="label", classes={0: "water", 1: "forest", 2: "crop"}, purity=0.6),
    }
    merged = {**base, **changes}
    return Card(**{**merged, "quantity": Quantity(merged["quantity"])})


@dataclass(frozen=True, eq=False)
class FakeProduct:
    """A cube of given arrays; every pixel read is counted in ``reads`` (threads and synchronous only)."""

    product_id: str
    card: Card
    image: np.ndarray
    layers: dict[str, np.ndarray] = field(default_factory=dict)
    where: dict[str, Any] = field(default_factory=lambda: dict(UTM))
    acquisition: Acquisition = FACTS
    kind: str = "cube"
    is_described_by_card: bool = True
    error: str = ""
    blocks: tuple[int, int] | None = None

    @property
    def bands(self) -> tuple[str, ...]:
        return self.card.bands

    @property
    def paths(self) -> tuple[Path, ...]:
        return (Path(f"{self.product_id}.tif"),)

    @property
    def nbytes(self) -> int:
        return self.image.nbytes

    def checksum(self) -> str:
        parts = [self.image.tobytes(), *(layer.tobytes() for layer in self.layers.values()), repr(self.where).encode()]
        return hashlib.sha256(b"".join(parts)).hexdigest()

    def open(self) -> xr.Dataset:
        if self.error == "user":
            raise UserError(f"expected the band B8A in {self.product_id}, got none; fetch it again")
        if self.error == "damage":
            raise RuntimeError("strip 7 is rotten")
        variables = {"image": (("band", "y", "x"), self.image)} | {k: (("y", "x"), v) for k, v in self.layers.items()}
        attrs = {
            "sensor": self.card.sensor,
            "quantity": self.card.quantity.value,
            "product_id": self.product_id,
            "datetime": self.acquisition.datetime,
            "processing_baseline": self.acquisition.processing_baseline,
            "orbit": self.acquisition.orbit,
            "gsd_m": self.card.gsd_m,
            "licence": "CC0",
            "attribution": "nobody",
            "source": f"{self.product_id}.tif",
            **self.where,
        }
        cube = xr.Dataset(variables, coords={"band": list(self.card.bands)}, attrs=attrs)
        if self.blocks:
            cube["image"].encoding["preferred_chunks"] = {"y": self.blocks[0], "x": self.blocks[1]}
        return cube


@dataclass(frozen=True, eq=False)
class FakeChips:
    """A batch of chips of given 8-bit images."""

    product_id: str
    card: Card
    images: np.ndarray
    names: tuple[str, ...]
    labels: tuple[int, ...]
    splits: tuple[str, ...]
    acquisition: Acquisition = UNKNOWN
    kind: str = "chips"
    is_described_by_card: bool = True

    @property
    def bands(self) -> tuple[str, ...]:
        return self.card.bands

    @property
    def paths(self) -> tuple[Path, ...]:
        return (Path("chips.tar"),)

    @property
    def offset(self) -> float:
        return self.acquisition.offset or 0.0

    @property
    def entries(self) -> tuple[str, ...]:
        return self.names

    @property
    def nbytes(self) -> int:
        return self.images.nbytes

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.images.shape[1:]

    def checksum(self) -> str:
        return hashlib.sha256(self.images.tobytes() + repr(self.names).encode()).hexdigest()

    def open_chips(self) -> Iterator[Chip]:
        for image, name, label, split in zip(self.images, self.names, self.labels, self.splits, strict=True):
            values = image.astype(np.float32) * np.float32(self.card.scale)
            values[:, image[0] == 255] = np.nan
            size = image.shape[-1]
            yield Chip(
                image=values,
                valid=np.isfinite(values).all(axis=0),
                name=name,
                sha256=hashlib.sha256(image.tobytes()).hexdigest(),
                label=label,
                label_name=f"class{label}",
                split=split,
                width_px=size + 9,
                height_px=size + 3,
                row_off=1,
                col_off=4,
            )


def reflectance(rng: np.random.Generator, *, height: int, width: int, bands: int = 3) -> np.ndarray:
    """Smooth reflectance with a few invalid pixels and a few beyond the stored range."""
    image = rng.normal(0.2, 0.1, (bands, height, width)).astype(np.float32)
    image[:, :3, :5] = np.nan
    image[1, -1, -1] = 3.9
    return image


def scenes(rng: np.random.Generator, count: int = 3, **changes: Any) -> list[FakeProduct]:
    """Products of neighbouring places, about a dozen tiles of 16 px each."""
    found = []
    for number in range(count):
        where = {"crs": "EPSG:32632", "transform": (10.0, 0.0, 500000.0 + 1000 * number, 0.0, -10.0, 5000000.0)}
        image = reflectance(rng, height=64, width=55)
        layers = {"cloud": rng.random((64, 55)) < 0.3, "label": rng.integers(0, 3, (64, 55)).astype(np.int16)}
        found.append(FakeProduct(f"fake/{number}", changes.get("card", card()), image, layers, where))
    return found

"""From cut tiles and chips to stored pixels and index rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from eo_ssl.cards import Labels
from eo_ssl.corpus.config import IngestConfig
from eo_ssl.corpus.cutting import Cut, Raster, cut
from eo_ssl.corpus.places import Places, epsg_of, locate, split_of
from eo_ssl.corpus.quality import Quality, assess, majority
from eo_ssl.corpus.shards import Layout
from eo_ssl.scene import Chip, Product
from eo_ssl.tiling import tile_id

Slot = Callable[[], npt.NDArray[Any]]
Outcome = tuple[str, dict[str, Any] | None]
"""kept (with its row), invalid or cloudy."""
Context = tuple[Layout, IngestConfig, Labels | None, dict[str, Any]]
"""How to store, what to keep, how to label, and the facts of the product."""


def cube_rows(
    raster: Raster, regions: Sequence[npt.NDArray[np.intp]], context: Context, slot: Slot
) -> Iterator[Outcome]:
    """Yield what became of each tile of ``regions``; a kept tile's pixels have been encoded into ``slot()``."""
    layout, config, labels, facts = context
    size = layout.stream.size_px
    epsg = epsg_of(raster.frame.crs) if raster.frame.crs else 0
    shared = _product_columns(layout, facts) | {
        "epsg": epsg,
        "source_height_px": raster.shape[0],
        "source_width_px": raster.shape[1],
    }
    for region in regions:
        places = locate(raster.windows[region], raster.frame)
        for k, tile in enumerate(cut(raster, region, size_px=size)):
            quality = assess(tile.valid, tile.layers, size_px=size)
            outcome = _judge(quality, config)
            if outcome != "kept":
                yield outcome, None
                continue
            quality = _labelled(quality, tile, labels, size_px=size)
            stored = slot()
            clipped = layout.encoding.encode(tile.image, stored)
            height, width = tile.valid.shape
            saturated = tile.layers.get("saturated", np.zeros_like(tile.valid)) | clipped[:height, :width]
            seen = np.count_nonzero(tile.valid)
            share = float(np.count_nonzero(saturated & tile.valid) / seen) if seen else 0.0
            place = raster.places[tile.number].tolist()
            window = raster.windows[tile.number].tolist()
            row = shared | _place_columns(places, k, config) | _quality_columns(quality, labels)
            row |= {
                "tile_id": tile_id(facts["product_id"], layout.stream.name, place),
                "row_off": window[0] if config.tiling == "native" else -(place[0] + 1) * size,
                "col_off": window[1] if config.tiling == "native" else place[1] * size,
                "height": height,
                "width": width,
                "saturated_fraction": share,
                "pixels_sha256": hashlib.sha256(stored.data).digest(),
            }
            yield "kept", row


def chip_rows(product: Product, layout: Layout, config: IngestConfig, slot: Slot) -> Iterator[Outcome]:
    """Yield what became of each chip of a batch. A chip is its own product and location; a benchmark's test chips stay in ``test``."""
    card = product.card
    facts = {
        "datetime": product.facts.datetime, "orbit": product.facts.orbit, "processing_baseline": product.facts.processing_baseline,
        "licence": card.licence, "attribution": card.attribution,
    }  # fmt: skip
    shared = _product_columns(layout, facts | {"product_id": "", "source": "", "source_sha256": ""})
    size = layout.stream.size_px
    for chip in product.open_chips():
        quality = assess(chip.valid, {}, size_px=size)
        outcome = _judge(quality, config)
        if outcome != "kept":
            yield outcome, None
            continue
        stored = slot()
        layout.encoding.encode(chip.image, stored)
        name = f"{card.name}/{chip.name}"
        split = split_of(name, shares=config.shares, seed=config.seed)
        known = chip.label >= 0
        yield (
            "kept",
            shared
            | _quality_columns(quality, None)
            | _chip_columns(chip, name, size)
            | {
                "tile_id": tile_id(name, layout.stream.name, (chip.row_off, chip.col_off, size, size)),
                "split": "test" if chip.split == "test" else split,
                "label": chip.label,
                "label_name": chip.label_name if known else "",
                "label_fraction": 1.0 if known else 0.0,
                "pixels_sha256": hashlib.sha256(stored.data).digest(),
            },
        )


def _chip_columns(chip: Chip, name: str, size: int) -> dict[str, Any]:
    return {
        "product_id": name, "location_id": name, "source": chip.name, "source_sha256": chip.sha256,
        "epsg": 0, "xmin": None, "ymin": None, "xmax": None, "ymax": None, "geometry": None,
        "row_off": chip.row_off, "col_off": chip.col_off, "height": size, "width": size,
        "benchmark_split": chip.split, "source_width_px": chip.width_px, "source_height_px": chip.height_px,
    }  # fmt: skip


def _judge(quality: Quality, config: IngestConfig) -> str:
    if quality.valid < config.min_valid or quality.valid == 0:
        return "invalid"
    if quality.cloud is not None and quality.cloud > config.max_cloud:
        return "cloudy"
    return "kept"


def _labelled(quality: Quality, tile: Cut, labels: Labels | None, *, size_px: int) -> Quality:
    if "label" not in tile.layers or labels is None:
        return quality
    label, share = majority(tile.layers["label"], size_px=size_px, purity=labels.purity)
    return Quality(quality.valid, quality.cloud, quality.shadow, quality.snow, quality.saturated, label, share)


def _product_columns(layout: Layout, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the columns that all tiles of a product share."""
    when = facts["datetime"]
    names = (
        "product_id",
        "datetime",
        "orbit",
        "processing_baseline",
        "licence",
        "attribution",
        "source",
        "source_sha256",
    )
    return {name: facts[name] for name in names} | {
        "stream": layout.stream.name,
        "sensor": layout.stream.sensor,
        "gsd_m": layout.stream.gsd_m,
        "month": int(when[5:7]) if len(when) >= 7 else 0,
        "benchmark_split": "",
    }


def _place_columns(places: Places, k: int, config: IngestConfig) -> dict[str, Any]:
    bounds = [None if np.isnan(value) else float(value) for value in places.bbox[k]]
    location = places.location[k]
    return dict(zip(("xmin", "ymin", "xmax", "ymax"), bounds, strict=True)) | {
        "geometry": places.geometry[k],
        "location_id": location,
        "split": split_of(location, shares=config.shares, seed=config.seed),
    }


def _quality_columns(quality: Quality, labels: Labels | None) -> dict[str, Any]:
    return {
        "valid_fraction": quality.valid,
        "cloud_fraction": quality.cloud,
        "shadow_fraction": quality.shadow,
        "snow_fraction": quality.snow,
        "saturated_fraction": quality.saturated,
        "label": quality.label,
        "label_name": labels.classes.get(quality.label, "") if labels else "",
        "label_fraction": quality.label_fraction,
    }

"""From cut tiles and chips to stored pixels and index rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from eo_ssl.cards import Labels
from eo_ssl.corpus.config import IngestConfig
from eo_ssl.corpus.cutting import CutTile, Raster, cut_tiles
from eo_ssl.corpus.shards import Layout
from eo_ssl.corpus.spectral_entropy import measure_spectral_entropy
from eo_ssl.corpus.tile_locations import TileLocations, assign_split, locate, locate_footprint, resolve_epsg
from eo_ssl.corpus.tile_quality import TileQuality, assess, estimate_enl, judge, vote_majority
from eo_ssl.scene import Chip, Product, UnreadableChip
from eo_ssl.sensors import convert
from eo_ssl.tiling import tile_id

Slot = Callable[[], npt.NDArray[Any]]
Outcome = tuple[str, dict[str, Any] | None]
"""kept (with its row), or why not: damaged, invalid or a reason of ``quality.LIMITS``."""
Context = tuple[Layout, IngestConfig, Labels | None, dict[str, Any]]
"""How to store, what to keep, how to label, and the facts of the product."""
_ACQUISITION = ("platform", "mode", "relative_orbit", "sun_zenith_deg", "view_zenith_deg", "incidence_deg", "remarks")


def extract_tiles(
    raster: Raster, regions: Sequence[npt.NDArray[np.intp]], context: Context, slot: Slot
) -> Iterator[Outcome]:
    """Yield what became of each tile of ``regions``; a kept tile's pixels have been encoded into ``slot()``."""
    layout, config, labels, facts = context
    size, windows, names = layout.stream.size_px, raster.tiles.windows, raster.tiles.places
    epsg = resolve_epsg(raster.grid.crs) if raster.grid.crs else 0
    shared = _product_columns(layout, facts) | {
        "epsg": epsg,
        "source_height_px": raster.tiles.shape[0],
        "source_width_px": raster.tiles.shape[1],
    }
    for region in regions:
        places = locate(windows[region], raster.grid)
        for k, tile in enumerate(cut_tiles(raster, region, size_px=size)):
            quality = assess(tile.valid, tile.layers, size_px=size)
            outcome = judge(quality, config)
            if outcome == "kept":
                stored = slot()
                quality = _encode_tile(quality, tile.image, tile.valid, (layout, stored), tile.layers.get("saturated"))
                outcome = judge(quality, config)
            if outcome != "kept":
                yield outcome, None
                continue
            quality = _label_tile(quality, tile, labels, size_px=size)
            height, width = tile.valid.shape
            place, window = names[tile.number].tolist(), windows[tile.number].tolist()
            row = shared | _place_columns(places, k, config) | _quality_columns(quality, labels, facts)
            row |= {
                "tile_id": tile_id(facts["product_id"], layout.stream.name, place),
                "row_off": window[0] if config.tiling == "native" else -(place[0] + 1) * size,
                "col_off": window[1] if config.tiling == "native" else place[1] * size,
                "height": height,
                "width": width,
                "pixels_sha256": hashlib.sha256(stored.data).digest(),
            }
            yield "kept", row


def extract_chips(
    product: Product, layout: Layout, config: IngestConfig, slot: Slot, *, refused: list[tuple[str, str]]
) -> Iterator[Outcome]:
    """Yield what became of each chip of a batch. A chip is its own product; a benchmark's test chips stay in ``test``.

    A chip that says where it lies is at that place; any other is a place of its own. Name and reason of one that cannot
    be read are appended to ``refused``.
    """
    card, size = product.card, layout.stream.size_px
    for chip in product.open_chips():
        if isinstance(chip, UnreadableChip):
            refused.append((chip.name, chip.reason))
            yield "damaged", None
            continue
        quality = assess(chip.valid, chip.masks, size_px=size)
        outcome = judge(quality, config)
        if outcome == "kept":
            stored = slot()
            image = convert(chip.image, source=card.quantity, target=layout.stream.quantity)
            quality = _encode_tile(quality, image, chip.valid, (layout, stored), chip.masks.get("saturated"))
            outcome = judge(quality, config)
        if outcome != "kept":
            yield outcome, None
            continue
        facts = _chip_facts(product, chip)
        quality = replace(quality, label=chip.label, label_fraction=1.0 if chip.label >= 0 else 0.0)
        row = _product_columns(layout, facts) | _quality_columns(quality, None, facts) | _chip_columns(chip, size)
        row |= _chip_place(chip, facts["product_id"], layout, config)
        row |= {
            "tile_id": tile_id(facts["product_id"], layout.stream.name, (chip.row_off, chip.col_off, size, size)),
            "label_name": chip.label_name if chip.label >= 0 else "",
            "pixels_sha256": hashlib.sha256(stored.data).digest(),
        }
        yield "kept", row


def _encode_tile(
    quality: TileQuality,
    image: npt.NDArray[np.float32],
    valid: npt.NDArray[np.bool_],
    target: tuple[Layout, npt.NDArray[Any]],
    flagged: npt.NDArray[np.bool_] | None,
) -> TileQuality:
    """Encode a tile and return its quality with what that and its values tell.

    Saturation (flagged, or clipped here), looks and spectral entropy.
    """
    layout, stored = target
    clipped = layout.encoding.encode(image, stored)
    height, width = valid.shape
    enl = estimate_enl(image[0, :height, :width]) if layout.stream.quantity.is_power else None
    entropy = measure_spectral_entropy(stored, layout.stream, layout.encoding)
    quality = replace(quality, enl=enl, spectral_entropy=entropy)
    if layout.encoding.extra_channels:  # 8-bit chips are refused, not clipped
        return quality
    saturated = clipped[:height, :width] if flagged is None else flagged | clipped[:height, :width]
    share = int(np.count_nonzero(saturated & valid)) / max(int(np.count_nonzero(valid)), 1)
    return replace(quality, saturated=share)


def _label_tile(quality: TileQuality, tile: CutTile, labels: Labels | None, *, size_px: int) -> TileQuality:
    if "label" not in tile.layers or labels is None:
        return quality
    label, share = vote_majority(tile.layers["label"], size_px=size_px, purity=labels.purity)
    return replace(quality, label=label, label_fraction=share)


def _chip_facts(product: Product, chip: Chip) -> dict[str, Any]:
    """Return the facts of a chip: its own where it has them, else those of its product."""
    card, facts = product.card, product.acquisition
    return {
        **{name: getattr(facts, name) for name in ("orbit", "processing_baseline", *_ACQUISITION)},
        "product_id": f"{card.name}/{chip.name}",
        "source": chip.name,
        "source_sha256": chip.sha256,
        "licence": card.licence,
        "attribution": card.attribution,
        "datetime": chip.datetime or facts.datetime,
        "mode": chip.mode or facts.mode,
        "incidence_deg": facts.incidence_deg if chip.incidence_deg is None else chip.incidence_deg,
    }


def _chip_columns(chip: Chip, size: int) -> dict[str, Any]:
    return {
        "epsg": 0,
        "row_off": chip.row_off,
        "col_off": chip.col_off,
        "height": size,
        "width": size,
        "benchmark_split": chip.split,
        "source_width_px": chip.width_px,
        "source_height_px": chip.height_px,
    }


def _chip_place(chip: Chip, name: str, layout: Layout, config: IngestConfig) -> dict[str, Any]:
    if chip.footprint:
        places = locate_footprint(chip.footprint, cell_m=layout.stream.size_px * layout.stream.gsd_m)
    else:
        places = TileLocations(np.full((1, 4), np.nan), [None], [name])
    columns = _place_columns(places, 0, config)
    return columns | {"split": "test"} if chip.split == "test" else columns


def _product_columns(layout: Layout, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that all tiles of a product share."""
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
        "month": parse_month(facts["datetime"]),
        "benchmark_split": "",
        **{
            name: facts.get(name) or None for name in ("platform", "mode", "remarks")
        },  # null where unknown, as in older fragments
        **{name: facts.get(name) for name in ("relative_orbit", "sun_zenith_deg", "view_zenith_deg")},
    }


def parse_month(datetime: str) -> int:
    """Return the month of an ISO 8601 date, 1 to 12, or 0 where it is unknown."""
    return int(datetime[5:7]) if len(datetime) >= 7 else 0


def _place_columns(places: TileLocations, k: int, config: IngestConfig) -> dict[str, Any]:
    bounds = [None if np.isnan(value) else float(value) for value in places.bbox[k]]
    location = places.location[k]
    return dict(zip(("xmin", "ymin", "xmax", "ymax"), bounds, strict=True)) | {
        "geometry": places.geometry[k],
        "location_id": location,
        "split": assign_split(location, shares=config.shares, seed=config.seed),
    }


def _quality_columns(quality: TileQuality, labels: Labels | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "valid_fraction": quality.valid,
        "cloud_fraction": quality.cloud,
        "shadow_fraction": quality.shadow,
        "snow_fraction": quality.snow,
        "saturated_fraction": quality.saturated,
        "border_noise_fraction": quality.border_noise,
        "cloud_probability": quality.cloud_probability,
        "incidence_deg": facts.get("incidence_deg") if quality.incidence_deg is None else quality.incidence_deg,
        "enl": quality.enl,
        "spectral_entropy": quality.spectral_entropy,
        "label": quality.label,
        "label_name": labels.classes.get(quality.label, "") if labels else "",
        "label_fraction": quality.label_fraction,
    }

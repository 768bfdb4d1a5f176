"""Sentinel-2 products: one tile each, of the card's level, the newest processing of each sensing.

``reflectance = (DN + offset) / quantification``, with the offset of each band (``RADIO_ADD_OFFSET``,
``BOA_ADD_OFFSET``) and the quantification value out of the product's own metadata (Products Specification Document,
Product_Image_Characteristics).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from odc.geo.geobox import GeoBox

from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.fingerprints import fingerprint
from eo_ssl.scene import gdal_files
from eo_ssl.scene.acquisition import name_acquisition
from eo_ssl.scene.band_stack import BandFile, BandStack, choose_common_grid, choose_method
from eo_ssl.scene.layers import ClassFlag, Layers
from eo_ssl.scene.product import Dropped, Listing, Product, make_damaged_product
from eo_ssl.scene.product_source import ProductSource
from eo_ssl.scene.radiometry import Radiometry
from eo_ssl.scene.resampling import Method
from eo_ssl.scene.safe_container import MANIFEST, Container, list_containers_below
from eo_ssl.scene.sentinel2 import cloudless, masks
from eo_ssl.scene.sentinel2.tile_metadata import USER_BASELINE, TileMetadata, is_multi_tile, read_metadata
from eo_ssl.sensors import sensor

_LEVELS = {"sentinel2_l1c": "L1C", "sentinel2_l2a": "L2A"}


@dataclass(frozen=True, slots=True)
class _Tile:
    safe: Container
    metadata: TileMetadata


def list_products(card: Card, root: Path) -> Listing:
    """Return the products of a card below ``root``, and what was left out with the reason.

    A product that is damaged stays in the list and says so when it is opened.

    Raises:
        UserError: the card states what only the products may, or all that was found is of another kind.
    """
    _check(card)
    tiles: list[_Tile] = []
    here, damaged, dropped = list_containers_below(card, root, mark="GRANULE")
    for safe in here:
        _sort_in(card, safe, tiles=tiles, damaged=damaged, dropped=dropped)
    kept, older = _keep_newest(tiles)
    dropped += [(f"{card.name}/{name}", reason) for name, reason in older]
    products: dict[str, Product] = {}
    for item in kept:
        name = item.safe.name
        if name in products:
            dropped.append((f"{card.name}/{name}", f"{item.safe.archive.path} has the name of another product"))
            continue
        source = SafeTileSource(card, item.safe, item.metadata)
        remarks, key = masks.describe_absent(item.safe, item.metadata), _name_sensing(item.metadata)
        acquisition = replace(item.metadata.acquisition, remarks=remarks, key=key)
        products[name] = Product(f"{card.name}/{name}", card, "cube", acquisition, source)
    names = {item.safe.name for item in tiles}
    for name, reason in damaged.items():
        if name in names:  # a second, damaged copy
            dropped.append((f"{card.name}/{name}", reason))
        else:
            products[name] = make_damaged_product(card, name, reason, file=f"{name}.SAFE")
    if dropped and not products:
        name, reason = dropped[0]
        raise UserError(
            f"expected Sentinel-2 products for card {card.name} as {card.files!r} below {root}, got {len(dropped)} "
            f"that do not fit, {name} first: {reason}"
        )
    return list(products.values()), dropped


def _check(card: Card) -> None:
    """Refuse a card that states what the products themselves state: two sources of one fact can disagree."""
    given = card.list_stated(
        "scale",
        "offset",
        "offset_by_file",
        "nodata",
        "dtype_max",
        "mask",
        "metadata",
        "labels",
        "grid_from",
        "crs",
        "transform",
        "datetime",
        "processing_baseline",
        "orbit",
    )
    if given:
        raise UserError(
            f"expected card {card.name} to leave {', '.join(given)} to the metadata of its SAFE products, got values; "
            "remove them from the card"
        )
    if card.sensor not in _LEVELS or not card.quantity.is_reflectance or not isinstance(card.files, str):
        raise UserError(
            f"expected card {card.name} with reader sentinel2_safe to have a sensor out of {', '.join(_LEVELS)}, a "
            "reflectance and one pattern in `files`, "
            f"got {card.sensor}, {card.quantity.value} and {card.files!r}; correct it"
        )


def _sort_in(card: Card, safe: Container, *, tiles: list[_Tile], damaged: dict[str, str], dropped: Dropped) -> None:
    product_id = f"{card.name}/{safe.name}"
    if is_multi_tile(safe):
        reason = (
            "several tiles in one product, the format before November 2016: fetch its tiles as single products "
            "(processing baseline 05.00)"
        )
        dropped.append((product_id, reason))
        return
    try:
        metadata = read_metadata(safe)
    except UserError as error:
        damaged.setdefault(safe.name, str(error))
        return
    if metadata.level != _LEVELS[card.sensor]:
        reason = f"Level-{metadata.level[1:]}, and the card is of {card.sensor}: ingest it with a card of its own level"
        dropped.append((product_id, reason))
        return
    tiles.append(_Tile(safe, metadata))


def _keep_newest(tiles: list[_Tile]) -> tuple[list[_Tile], Dropped]:
    """Return the newest processing of each sensing of a tile, and the others with the reason.

    ESA's own go before a user's (99.xx).

    Where a datatake changes datastrip within a tile, that tile comes as two products of one baseline, each with a part
    of it: both stay.
    """
    groups: dict[tuple[str, str, str], list[_Tile]] = {}
    for item in tiles:
        about = item.metadata
        groups.setdefault((about.acquisition.platform, about.sensing_start, about.tile), []).append(item)
    kept: list[_Tile] = []
    dropped: Dropped = []
    for group in groups.values():
        group.sort(key=lambda item: _rank_age(item.metadata), reverse=True)
        first = group[0]
        parts: dict[str, _Tile] = {}
        for item in group:
            if item.metadata.baseline == first.metadata.baseline:
                better = parts.setdefault(item.metadata.datastrip, item)
            else:
                better = first
            if better is not item:
                dropped.append((item.safe.name, _explain_older(item, better)))
        kept += parts.values()
    return kept, dropped


def _name_sensing(metadata: TileMetadata) -> str:
    """Return the key of the acquisition: products of two datastrips of one sensing are parts of a tile, no copies."""
    what = (metadata.acquisition.platform, metadata.tile, metadata.sensing_start)
    start = metadata.datastrip or metadata.sensing_start
    return name_acquisition(what, start=start, stop=start)


def _rank_age(metadata: TileMetadata) -> tuple[bool, str, str]:
    """What is larger is newer; a user's baseline says nothing of when its software was made."""
    return metadata.baseline < USER_BASELINE, metadata.baseline, metadata.generated


def _explain_older(item: _Tile, better: _Tile) -> str:
    """Say why a product is left out for another one of the same sensing and tile."""
    name, mine, its = better.safe.name, item.metadata, better.metadata
    if item.safe.name == name:
        return f"a second copy, in {item.safe.archive.path}; the one in {better.safe.archive.path} is taken"
    if mine.baseline != its.baseline:
        return f"processing baseline {mine.baseline} of a sensing that {name} has in {its.baseline}"
    if mine.generated == its.generated:
        return f"the same product as {better.safe.archive.path}, under another name"
    return f"generated {mine.generated}, and {name} of the same sensing and baseline {its.generated}"


@dataclass(frozen=True, slots=True)
class SafeTileSource(ProductSource):
    """A SAFE product and its metadata."""

    card: Card
    safe: Container
    metadata: TileMetadata

    @property
    def name(self) -> str:
        """Name of the product's folder, whatever it is packed in."""
        return f"{self.safe.name}.SAFE"

    @property
    def nbytes(self) -> int:
        """Unpacked bytes of the files that the card's bands and the masks need."""
        return sum(self.safe.size(name) for name in self.files())

    def checksum(self) -> str:
        """Return a sha256 over names and contents of the files in use, each compared with the manifest's checksum.

        Raises:
            UserError: a file is absent, damaged, or not the one the manifest lists.
        """
        return fingerprint([[name, self.safe.sha256(name)] for name in self.files()])

    def layers(self, bands: tuple[str, ...]) -> Layers:
        """Return the bands in reflectance on the common grid, with flags and cloud probability of the product.

        Raises:
            UserError: a file is absent, damaged or of another tile, or the card asks for pixels that the product lacks.
        """
        tiled = tuple(grid for _, grid in self.metadata.grids)
        image = self._stack(bands)
        present = masks.find_masks(self.safe, self.metadata)
        fields = masks.open_fields(self.safe, present, grid=image.grid, grids=tiled)
        if self.card.cloud_model:
            cloudless.load_detector()  # refuses in words where it is not installed
            coarse = self._stack(cloudless.BANDS, grid=dict(self.metadata.grids)[cloudless.GSD_M], method="average")
            fields["cloud_probability"] = cloudless.ModelledProbability(coarse, image.grid)
        scene = masks.open_mask(self.safe, present["SCL"], grid=image.grid, grids=tiled) if "SCL" in present else None
        return Layers(
            image,
            invalid=None if scene is None else ClassFlag(scene, (masks.SCL_NODATA,)),
            flags=masks.open_flags(self.safe, present, grid=image.grid, grids=tiled),
            fields=fields,
        )

    def files(self) -> list[str]:
        """Return the files in use, relative to the product: metadata, manifest, images of the card's bands, masks."""
        tile = f"{self.metadata.granule}/MTD_TL.xml"
        main = f"MTD_MSI{self.metadata.level}.xml"
        extra = [MANIFEST] if self.safe.has(MANIFEST) else []
        wanted = (*self.card.bands, *(cloudless.BANDS if self.card.cloud_model else ()))
        images = [self._image(band) for band in wanted]
        return sorted({main, tile, *extra, *images, *masks.find_masks(self.safe, self.metadata).values()})

    def _image(self, band: str) -> str:
        """Return the file of a band: at the sensor's own resolution, else the finest with the card's detail."""
        own = sensor(self.card.sensor).band(band).gsd_m
        images = {metres or own: name for role, metres, name in self.metadata.images if role == band}
        fit = [metres for metres in images if metres == own] or [
            metres for metres in images if metres <= self.card.gsd_m
        ]
        if not fit:
            raise UserError(
                f"expected an image of {band} at {own:g} m in {self.name}, got "
                f"{', '.join(f'{metres:g} m' for metres in images) or 'none'}; "
                f"leave the band out of card {self.card.name}, set its gsd_m to what there is, or fetch the product "
                "again"
            )
        return images[min(fit)]

    def _stack(self, bands: Sequence[str], *, grid: GeoBox | None = None, method: Method | None = None) -> BandStack:
        """Return bands on ``grid`` by ``method``, by default on the card's grid by its methods."""
        tiled = tuple(known for _, known in self.metadata.grids)
        files = {band: self.safe.file(self._image(band)) for band in bands}
        own = {band: masks.place_on_tile(path, tiled) for band, path in files.items()}
        target = grid or choose_common_grid(self.card, list(own.values()))
        stack = []
        for band, path in files.items():
            how = method or ("nearest" if own[band] == target else choose_method(self.card, band))
            masks_of = gdal_files.list_masks(path, 1)  # JPEG 2000 has none, images stored again as GeoTIFF may
            stack.append(BandFile(path, 1, own[band], how, self._radiometry(band, path), masks_of))
        return BandStack(target, tuple(stack), self.metadata.saturated)

    def _radiometry(self, band: str, path: Path) -> Radiometry:
        file, facts = gdal_files.open_raster(path), self.metadata
        if (file.count, file.dtypes[0]) != (1, "uint16"):
            raise UserError(
                f"expected one band of uint16 in {path}, got {file.count} of {file.dtypes[0]}; the file is damaged, "
                "fetch the product again"
            )
        special = (facts.nodata, facts.saturated)
        return Radiometry(self.card.quantity, 1.0 / facts.quantification, facts.offset(band), special)

"""Sentinel-1 GRD products below a folder: which there are, which a card wants, and each as a source of layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.fingerprints import fingerprint, hash_file
from eo_ssl.scene.acquisition import Acquisition, is_same_acquisition
from eo_ssl.scene.gdal_files import find_mask_file
from eo_ssl.scene.layers import Layers
from eo_ssl.scene.product import Listing, Product, make_damaged_product
from eo_ssl.scene.product_source import ProductSource
from eo_ssl.scene.safe_container import MANIFEST, Container, list_containers_below
from eo_ssl.scene.sentinel1.geocoding import geocode, open_geolocation
from eo_ssl.scene.sentinel1.geolocation import choose_crs
from eo_ssl.scene.sentinel1.heights import open_elevation
from eo_ssl.scene.sentinel1.power import RadarImage
from eo_ssl.scene.sentinel1.product_manifest import Safe, SafeImage, open_safe


@dataclass(frozen=True, slots=True)
class GrdSource(ProductSource):
    """One GRD product in SAFE, folder or zip. Pickles; opens files only when asked."""

    card: Card
    container: Container
    root: Path
    "folder that the card's elevation raster is relative to"

    @property
    def name(self) -> str:
        """Name of the product, the same for folder and zip."""
        return self.container.name

    @property
    def nbytes(self) -> int:
        """Unpacked bytes of the files of the card's polarisations, of those that are there."""
        wanted, present = _wanted(open_safe(self.container), self.card.bands), self.container.names()
        return sum(self.container.size(name) for image in wanted for name in image.files if name in present)

    def checksum(self) -> str:
        """Return a sha256 (hex) that stands for all files of the product and the elevation raster, if one is used.

        Raises:
            UserError: a file differs from its checksum in the manifest, or is absent.
        """
        product = open_safe(self.container).checksum()
        if self.card.radar is None or self.card.radar.geocoding != "terrain":
            return product
        dem = self.root / self.card.radar.dem
        mask = find_mask_file(dem)
        return fingerprint([product, *(hash_file(path) for path in (dem, mask) if path)])

    def layers(self, bands: tuple[str, ...]) -> Layers:
        """Return the polarisations ``bands`` on the map, border noise and incidence angle.

        Raises:
            UserError: the product is incomplete or damaged, or does not hold what the card wants.
        """
        safe, radar = open_safe(self.container), self.card.radar
        removes_noise = radar is None or radar.remove_noise
        images = tuple(RadarImage(safe, image, self.card.quantity, removes_noise) for image in _wanted(safe, bands))
        if radar is not None and radar.geocoding == "terrain":
            from eo_ssl.scene.sentinel1 import terrain  # needs the optional sarsen

            return terrain.correct_terrain(images, open_elevation(self.card, self.root))
        return geocode(images, gsd_m=self.card.gsd_m)


def list_grd_products(card: Card, root: Path) -> Listing:
    """Return the GRD products of a card below ``root``, and what was left out with the reason.

    See :func:`collect_products`.
    """

    def examine(safe: Safe) -> str | Product:
        reason = _unwanted(card, safe)
        source = GrdSource(card, safe.container, root)
        return reason or Product(f"{card.name}/{safe.name}", card, "cube", _read_acquisition(card, safe), source)

    return collect_products(card, root, kind="cube", examine=examine)


def collect_products(
    card: Card, root: Path, *, kind: Literal["cube", "chips"], examine: Callable[[Safe], str | Product]
) -> Listing:
    """Return the Sentinel-1 products of a card below ``root``, and what was left out with the reason.

    Of several products of one acquisition the one by the newest processor is kept, and the form in which ESA made it
    before the cloud-optimised one; what they are is read in their metadata, never in their names. A product that cannot
    be read stays in the list and says so when it is opened.

    Args:
        card: which products, and what of them.
        root: folder that the card's pattern counts from.
        kind: of the products.
        examine: gives the product, or why it is not wanted.

    Raises:
        UserError: the card states what only the products can state.
    """
    check_card(card)
    here, damaged, dropped = list_containers_below(card, root, mark=MANIFEST)
    products: dict[str, Product] = {}
    kept: dict[str, list[tuple[str, Safe]]] = {}
    for container in here:
        product_id = f"{card.name}/{container.name}"
        try:
            safe = open_safe(container)
            verdict = examine(safe)
            spacing = _read_spacing(card, safe) if isinstance(verdict, Product) and kind == "cube" else 0
            key = safe.name_acquisition(spacing_m=spacing)
        except UserError as error:
            damaged.setdefault(container.name, str(error))
            continue
        if isinstance(verdict, str):
            dropped.append((product_id, verdict))
        elif product_id in products:
            dropped.append((product_id, f"a second copy, in {container.archive.path.name}"))
        else:
            products[product_id] = replace(verdict, acquisition=replace(verdict.acquisition, key=key))
            group = kept.setdefault(key.partition(" ")[0], [])
            at = next((at for at, (known, _) in enumerate(group) if is_same_acquisition(known, key)), None)
            if at is None:
                group.append((key, safe))
                continue
            older, newer = sorted((group[at][1], safe), key=_rank_age)
            group[at] = (key, newer)
            dropped.append((f"{card.name}/{older.name}", _explain_older(older, newer)))
            del products[f"{card.name}/{older.name}"]
    for name, reason in damaged.items():
        if f"{card.name}/{name}" in products:
            dropped.append((f"{card.name}/{name}", f"a second copy, which cannot be read: {reason}"))
        else:
            products[f"{card.name}/{name}"] = make_damaged_product(card, name, reason, kind=kind)
    return list(products.values()), dropped


def _rank_age(safe: Safe) -> tuple[str, bool, bool, str]:
    """What is larger is preferred: a newer processor, then a product that has all files, then the form of ESA."""
    complete = all(safe.container.has(name) for image in safe.images for name in image.files)
    return safe.processor, complete, not safe.is_cloud_optimised, safe.name


def _explain_older(older: Safe, newer: Safe) -> str:
    """Say why a product is left out for another one of the same acquisition."""
    if older.processor == newer.processor:
        return f"the same acquisition as {newer.name}, by the same processor {newer.processor}"
    return f"processed again as {newer.name} by processor {newer.processor} (this one: {older.processor})"


def _read_spacing(card: Card, safe: Safe) -> int:
    """Return the spacing of pixels in metres: products of high and of medium resolution are no copies of each other."""
    return round(safe.annotation(_wanted(safe, card.bands)[0]).range_spacing_m)


def check_card(card: Card) -> None:
    """Refuse a card that states what only the products can state.

    Raises:
        UserError: naming what it states.
    """
    given = card.list_stated(
        "scale",
        "offset",
        "offset_by_file",
        "nodata",
        "metadata",
        "mask",
        "datetime",
        "orbit",
        "processing_baseline",
        "crs",
        "transform",
    )
    if given or not card.quantity.is_power or not isinstance(card.files, str):
        raise UserError(
            f"expected card {card.name} with reader {card.reader} to name sigma0, beta0 or gamma0 and one pattern in "
            "`files`, and to leave the rest to "
            f"the products, got {card.quantity.value}{' and ' if given else ''}{', '.join(given)}; correct it"
        )


def _unwanted(card: Card, safe: Safe) -> str:
    """Why a product is not of the card; empty when it is."""
    if safe.product_type != "GRD":
        return f"a product of type {safe.product_type}, not GRD"
    held = {image.polarisation for image in safe.images}
    missing = [band for band in card.bands if band not in held]
    return f"has {', '.join(sorted(held))}, and card {card.name} wants {', '.join(card.bands)}" if missing else ""


def _wanted(safe: Safe, bands: tuple[str, ...]) -> tuple[SafeImage, ...]:
    """The image of each band."""
    held = {image.polarisation: image for image in safe.images}
    missing = [band for band in bands if band not in held]
    if missing or len(held) != len(safe.images):
        raise UserError(
            f"expected one image of {', '.join(bands)} each in {safe.name}, got "
            f"{', '.join(image.polarisation for image in safe.images)}; "
            "give a GRD product with these polarisations"
        )
    return tuple(held[band] for band in bands)


def _read_acquisition(card: Card, safe: Safe) -> Acquisition:
    """What manifest and annotation say of the acquisition; the incidence angle is that of the image's centre."""
    image = _wanted(safe, card.bands)[0]
    about = safe.annotation(image)
    centre = np.array([(about.lines - 1) / 2]), np.array([(about.samples - 1) / 2])
    way = open_geolocation(safe, image, choose_crs(about.grid))
    return replace(safe.acquisition, incidence_deg=float(way.incidence(*centre)[0]))

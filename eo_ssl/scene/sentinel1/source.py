"""Sentinel-1 GRD products below a folder: which there are, which a card wants, and each as a source of layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.manifest import fingerprint
from eo_ssl.scene.chips import Chip
from eo_ssl.scene.cube import Layers
from eo_ssl.scene.facts import Facts, iso
from eo_ssl.scene.product import Product
from eo_ssl.scene.sentinel1.geolocation import target_crs
from eo_ssl.scene.sentinel1.grd import geocoded, geolocation
from eo_ssl.scene.sentinel1.heights import elevation_sha256, open_elevation
from eo_ssl.scene.sentinel1.power import RadarImage
from eo_ssl.scene.sentinel1.safe import Safe, SafeImage, open_safe

Dropped = list[tuple[str, str]]
_UNKNOWN = Facts(datetime="", processing_baseline="", orbit="", offset=0.0)


@dataclass(frozen=True, slots=True)
class GrdSource:
    """One GRD product in SAFE, folder or zip. Pickles; opens files only when asked."""

    card: Card
    path: Path
    "folder or zip of the product"
    root: Path
    "folder that the card's elevation raster is relative to"

    @property
    def name(self) -> str:
        """Name of the product, the same for folder and zip."""
        return product_name(self.path)

    @property
    def nbytes(self) -> int:
        """Unpacked bytes of the files of the card's polarisations; 0 for a product that cannot be read."""
        try:
            safe = open_safe(self.path)
            return sum(safe.archive.size(name) for name in safe.files(_wanted(safe, self.card.bands)))
        except UserError:
            return 0

    def checksum(self) -> str:
        """Return a sha256 (hex) that stands for all files of the product (see :meth:`Safe.checksum`) and the elevation raster, if one is used.

        Raises:
            UserError: a file differs from its MD5 in the manifest, or is absent.
        """
        product = open_safe(self.path).checksum()
        if self.card.radar is None or self.card.radar.geocoding != "terrain":
            return product
        return fingerprint([product, elevation_sha256(self.card, self.root)])

    def layers(self, bands: tuple[str, ...]) -> Layers:
        """Return the polarisations ``bands`` on the map, border noise and incidence angle.

        Raises:
            UserError: the product is incomplete or damaged, or does not hold what the card wants.
        """
        safe, radar = open_safe(self.path), self.card.radar
        removes_noise = radar is None or radar.remove_noise
        images = tuple(RadarImage(safe, image, self.card.quantity, removes_noise) for image in _wanted(safe, bands))
        if radar is not None and radar.geocoding == "terrain":
            from eo_ssl.scene.sentinel1 import terrain  # needs the optional sarsen

            return terrain.layers(images, open_elevation(self.card, self.root))
        return geocoded(images, gsd_m=self.card.gsd_m)

    def open_chips(self) -> Iterator[Chip]:
        """Refused: the product is an image."""
        raise UserError(f"expected chips in {self.name}, got an image; call open() for it")


def listing(card: Card, root: Path) -> tuple[list[Product], Dropped]:
    """Return the GRD products of a card below ``root``, and what was left out with the reason.

    Of several processings of one acquisition the one by the newest processor is kept. A product that cannot be read stays in the list and
    says so when it is opened.

    Raises:
        UserError: the card states what only the products can state.
    """
    check_card(card)
    found: dict[str, list[Safe]] = {}
    products: dict[str, Product] = {}
    dropped: Dropped = []
    for path in safes_below(card, root):
        product_id = f"{card.name}/{product_name(path)}"
        try:
            safe = open_safe(path)
            reason = _unwanted(card, safe)
            if reason:
                dropped.append((product_id, reason))
                continue
            facts = _facts(card, safe)
        except UserError:
            products[product_id] = Product(product_id, card, "cube", (), _UNKNOWN, source=GrdSource(card, path, root))
            continue
        if product_id in products:
            dropped.append((product_id, f"a second copy, in {path.name}"))
            continue
        products[product_id] = Product(product_id, card, "cube", (), facts, source=GrdSource(card, path, root))
        found.setdefault(safe.name.rpartition("_")[0], []).append(safe)  # names end in a checksum of the processing
    for versions in found.values():
        versions.sort(key=lambda safe: (safe.processor, safe.name))
        for safe in versions[:-1]:
            reason = f"processed again as {versions[-1].name} by processor {versions[-1].processor} (this one: {safe.processor})"
            dropped.append((f"{card.name}/{safe.name}", reason))
            del products[f"{card.name}/{safe.name}"]
    return list(products.values()), dropped


def product_name(path: Path) -> str:
    """Return the name of a product without the suffixes of its folder or zip."""
    return path.name.removesuffix(".zip").removesuffix(".SAFE")


def check_card(card: Card) -> None:
    """Refuse a card that states what only the products can state.

    Raises:
        UserError: naming what it states.
    """
    stated = {
        "scale": card.scale != 1.0, "offset": card.offset != 0.0, "offset_by_file": bool(card.offset_by_file), "nodata": card.nodata is not None,
        "metadata": card.metadata is not None, "mask": card.mask is not None, "datetime": bool(card.datetime), "orbit": bool(card.orbit),
        "processing_baseline": bool(card.processing_baseline), "crs": bool(card.crs), "transform": card.transform is not None,
    }  # fmt: skip
    given = [name for name, is_given in stated.items() if is_given]
    if given or not card.quantity.is_power or not isinstance(card.files, str):
        raise UserError(
            f"expected card {card.name} with reader {card.reader} to name sigma0, beta0 or gamma0 and one pattern in `files`, and to leave the rest to "
            f"the products, got {card.quantity.value}{' and ' if given else ''}{', '.join(given)}; correct it"
        )


def safes_below(card: Card, root: Path) -> Iterator[Path]:
    """Folders with a manifest and zip files that the card's pattern matches."""
    for path in sorted(root.glob(str(card.files))):
        if (
            (path.is_file() and path.suffix.lower() == ".zip")
            or (path / "manifest.safe").is_file()
            or path.suffix == ".SAFE"
        ):
            yield path


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
            f"expected one image of {', '.join(bands)} each in {safe.archive.path}, got {', '.join(image.polarisation for image in safe.images)}; "
            "give a GRD product with these polarisations"
        )
    return tuple(held[band] for band in bands)


def _facts(card: Card, safe: Safe) -> Facts:
    """What manifest and annotation say of the acquisition; the incidence angle is that of the image's centre."""
    image = _wanted(safe, card.bands)[0]
    about = safe.annotation(image)
    centre = np.array([(about.lines - 1) / 2]), np.array([(about.samples - 1) / 2])
    way = geolocation(safe, image, target_crs(about.grid))
    return Facts(
        datetime=iso(safe.start), processing_baseline=safe.processor, orbit=safe.orbit_pass, offset=0.0, platform=safe.platform,
        mode=safe.mode, relative_orbit=safe.relative_orbit, incidence_deg=float(way.incidence(*centre)[0]),
    )  # fmt: skip

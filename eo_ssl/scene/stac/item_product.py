"""A STAC item as a product: bands in physical units on the card's grid, flags of its scene classification.

The item is kept as canonical JSON without its links, so that it pickles, is the same from whichever catalogue it came,
and holds no signature that expires: links are signed when they are opened.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

from eo_ssl.cards import Card
from eo_ssl.fingerprints import fingerprint
from eo_ssl.scene.band_stack import choose_common_grid, choose_method
from eo_ssl.scene.layers import ClassFlag, Layers, flag_classes
from eo_ssl.scene.product_source import ProductSource
from eo_ssl.scene.raster_facts import check_called
from eo_ssl.scene.stac import assets
from eo_ssl.scene.stac.asset_pixels import AssetBand, AssetPixels, ItemImage, SceneClasses
from eo_ssl.scene.stac.assets import Asset
from eo_ssl.scene.stac.conventions import Json, decide_radiometry

# ESA, Sentinel-2 L2A: scene classification classes
SCL_NODATA = 0
SCL_FLAGS = {"cloud": (8, 9, 10), "shadow": (3,), "snow": (11,), "saturated": (1,)}


@dataclass(frozen=True, slots=True)
class StacItem(ProductSource):
    """One item and the card that reads it."""

    card: Card
    text: str
    "the item's canonical JSON, without links"
    base: str
    "link or absolute path of the document that holds the item; empty for an item of an API"
    root: str = ""
    "folder that local assets have to lie in; empty for anywhere"

    @property
    def name(self) -> str:
        """The item's id."""
        return str(_parsed(self.text)["id"])

    @property
    def nbytes(self) -> int:
        """Stored bytes of the assets of the card's bands and the scene classification."""
        return sum(asset.nbytes() for asset in self._assets().values())

    def checksum(self) -> str:
        """Return a sha256 over what the item says and the identity of each asset in use.

        The identity of an asset is its ``file:checksum`` (compared with the bytes of a local file), else the sha256 of
        a local file, or size and ETag of a link, whose bytes are not fetched for it. Where the files lie does not
        enter.

        Raises:
            UserError: an asset is absent, unreachable, or not the one the item's checksum means.
        """
        item = _parsed(self.text)
        said = {"id": item["id"], "collection": item.get("collection"), "properties": item["properties"]}
        used = {}
        for role, asset in self._assets().items():
            entry = {key: value for key, value in asset.content.items() if key != "href"}
            used[role] = [entry, asset.identity()]
        return fingerprint({"item": said, "assets": used})

    def layers(self, bands: tuple[str, ...]) -> Layers:
        """Return the bands on the common grid, with the flags of the scene classification where the item has one.

        Raises:
            UserError: an asset is missing, absent, damaged or not as the item says, or its radiometric offset is
                unknown.
        """
        item = _parsed(self.text)
        chosen = {band: self._find(band) for band in bands}
        headers = {band: asset.header() for band, asset in chosen.items()}
        for band, header in headers.items():
            check_called(self.card, header.description, band=band, name=chosen[band].place)
        grid = choose_common_grid(self.card, [header.grid for header in headers.values()])
        read = tuple(
            AssetBand(
                self._pixels(asset),
                "nearest" if headers[band].grid == grid else choose_method(self.card, band),
                decide_radiometry(self.card, item, asset.content, file_nodata=headers[band].nodata),
            )
            for band, asset in chosen.items()
        )
        scene = self._find_scene_classes()
        classes = SceneClasses(grid, self._pixels(scene)) if scene else None
        invalid = ClassFlag(classes, (SCL_NODATA,)) if classes else None
        return Layers(ItemImage(grid, read), invalid=invalid, flags=flag_classes(classes, SCL_FLAGS))

    def _assets(self) -> dict[str, Asset]:
        bands = {band: self._find(band) for band in self.card.bands}
        scene = self._find_scene_classes()
        return bands | ({"scene classification": scene} if scene else {})

    def _find(self, band: str) -> Asset:
        return assets.find_asset(self.card, _parsed(self.text), self.base, band=band, root=self.root)

    def _find_scene_classes(self) -> Asset | None:
        return assets.find_scene_classes(self.card, _parsed(self.text), self.base, root=self.root)

    def _pixels(self, asset: Asset) -> AssetPixels:
        header, ignored = asset.header(), self.card.ignores_masks
        return AssetPixels(asset.place, asset.sign, header, () if ignored else header.masks)


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Json:
    """The item; shared between calls, so nobody changes it."""
    item: Json = json.loads(text)
    return item

"""A Sentinel-2 product as a source of cubes: bands in reflectance on the card's grid, flags and cloud probability.

``reflectance = (DN + offset) / quantification``, with the offset of each band (``RADIO_ADD_OFFSET``, ``BOA_ADD_OFFSET``) and the
quantification value out of the product's own metadata (Products Specification Document, Product_Image_Characteristics).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.fingerprints import fingerprint
from eo_ssl.scene import handles
from eo_ssl.scene.chips import Chip
from eo_ssl.scene.cube import Layers
from eo_ssl.scene.grid import Grid, Method
from eo_ssl.scene.radiometry import Radiometry
from eo_ssl.scene.rasters import BandFile, RasterClasses, RasterImage, common_grid
from eo_ssl.scene.safe import MANIFEST, Container
from eo_ssl.scene.sentinel2 import cloudless, masks
from eo_ssl.scene.sentinel2.metadata import Metadata
from eo_ssl.sensors import sensor

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class SafeSource:
    """A SAFE product and its metadata."""

    card: Card
    safe: Container
    metadata: Metadata

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
        """Return the bands on the common grid in reflectance, with the flags and the cloud probability that the product has.

        Raises:
            UserError: a file is absent, damaged or of another tile, or the card asks for pixels that the product lacks.
        """
        tiled = tuple(grid for _, grid in self.metadata.grids)
        image = self._stack(bands)
        present = masks.files(self.safe, self.metadata)
        fields = masks.fields(self.safe, present, grid=image.grid, grids=tiled)
        if self.card.cloud_model:
            cloudless.detector()  # refuses in words where it is not installed
            coarse = self._stack(cloudless.BANDS, grid=dict(self.metadata.grids)[cloudless.GSD_M], method="average")
            fields["cloud_probability"] = cloudless.ModelledProbability(coarse, image.grid)
        scene = masks.raster(self.safe, present["SCL"], grid=image.grid, grids=tiled) if "SCL" in present else None
        return Layers(
            image if scene is None else SceneImage(image, scene),
            has_saturation=True,
            flags=masks.flags(self.safe, present, grid=image.grid, grids=tiled),
            fields=fields,
        )

    def open_chips(self) -> Iterator[Chip]:
        """Refuse: a tile is a cube."""
        raise UserError(f"expected a product of chips, got the tile {self.name}; call open() for it")

    def files(self) -> list[str]:
        """Return the files in use, relative to the product: metadata, manifest, the images of the card's bands, masks."""
        tile = f"{self.metadata.granule}/MTD_TL.xml"
        main = f"MTD_MSI{self.metadata.level}.xml"
        extra = [MANIFEST] if self.safe.has(MANIFEST) else []
        wanted = (*self.card.bands, *(cloudless.BANDS if self.card.cloud_model else ()))
        images = [self._image(band) for band in wanted]
        return sorted({main, tile, *extra, *images, *masks.files(self.safe, self.metadata).values()})

    def _image(self, band: str) -> str:
        """Return the file of a band: at the sensor's own resolution, else the finest that still has the card's detail."""
        own = sensor(self.card.sensor).band(band).gsd_m
        found = {metres or own: name for role, metres, name in self.metadata.images if role == band}
        fit = [metres for metres in found if metres == own] or [metres for metres in found if metres <= self.card.gsd_m]
        if not fit:
            raise UserError(
                f"expected an image of {band} at {own:g} m in {self.name}, got {', '.join(f'{metres:g} m' for metres in found) or 'none'}; "
                f"leave the band out of card {self.card.name}, set its gsd_m to what there is, or fetch the product again"
            )
        return found[min(fit)]

    def _stack(self, bands: Sequence[str], *, grid: Grid | None = None, method: Method | None = None) -> RasterImage:
        """Return bands on ``grid`` by ``method``, by default on the card's grid by its methods."""
        tiled = tuple(known for _, known in self.metadata.grids)
        files = {band: self.safe.file(self._image(band)) for band in bands}
        own = {band: masks.placed(path, tiled) for band, path in files.items()}
        target = grid or common_grid(self.card, list(own.values()))
        stack = []
        for band, path in files.items():
            how = method or (self._method(band) if own[band] != target else "nearest")
            stack.append(BandFile(path, 1, own[band], how, self._radiometry(band, path)))
        return RasterImage(target, tuple(stack), self.metadata.saturated)

    def _method(self, band: str) -> Method:
        declared = self.card.resampling
        known = {sensor(self.card.sensor).resolve(name): how for name, how in declared.items() if name != "default"}
        if band not in known and "default" not in declared:
            raise UserError(
                f"expected card {self.card.name} to name a resampling method for {band}, got none; add it or `default`"
            )
        return known.get(band) or declared["default"]

    def _radiometry(self, band: str, path: Path) -> Radiometry:
        file, facts = handles.opened(path), self.metadata
        if (file.count, file.dtypes[0]) != (1, "uint16"):
            raise UserError(
                f"expected one band of uint16 in {path}, got {file.count} of {file.dtypes[0]}; the file is damaged, fetch the product again"
            )
        special = (facts.nodata, facts.saturated)
        return Radiometry(self.card.quantity, 1.0 / facts.quantification, facts.offset(band), special)


@dataclass(frozen=True, slots=True)
class SceneImage:
    """Bands of a Level-2A product, invalid where its scene classification says no data."""

    image: RasterImage
    scene: RasterClasses

    @property
    def grid(self) -> Grid:
        """The common grid."""
        return self.image.grid

    @property
    def block_height(self) -> int:
        """Natural strip height in rows."""
        return self.image.block_height

    @property
    def block_width(self) -> int:
        """Natural width of what is read at once, in columns."""
        return self.image.block_width

    @property
    def block_period(self) -> tuple[int, int]:
        """Rows and columns after which blocks of the bands begin anew together."""
        return self.image.block_period

    def read(self, bands: Sequence[int], *, rows: Range, columns: Range) -> npt.NDArray[np.float32]:
        """Return reflectance [band, y, x], NaN invalid."""
        values = self.image.read(bands, rows=rows, columns=columns)
        values[:, self.scene.read(rows=rows, columns=columns) == masks.SCL_NODATA] = np.nan
        return values

    def saturated(self, *, rows: Range, columns: Range) -> npt.NDArray[np.bool_]:
        """Return whether any band is stored as the saturation value, [y, x]."""
        return self.image.saturated(rows=rows, columns=columns)

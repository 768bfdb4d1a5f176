"""SSL4EO-S12 v1.0: ``{s1,s2a,s2c}/<id>/<scene id>/<band>.tif``, each band at its native resolution."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from odc.geo.geobox import GeoBox

from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.fingerprints import fingerprint, hash_file, identify_file
from eo_ssl.scene.acquisition import Acquisition, format_iso
from eo_ssl.scene.band_stack import stack_files
from eo_ssl.scene.chip import Chip
from eo_ssl.scene.grids import read_crs
from eo_ssl.scene.product import Listing, Product
from eo_ssl.scene.product_source import ProductSource
from eo_ssl.scene.ssl4eo.sample_chips import (
    choose_seasons,
    crop_sample,
    get_settings,
    group_ids,
    locate_corners,
    make_radiometry,
    read_void_ids,
)

# Scene ids: 20200110T100401_20200110T100359_T33TWN, or S1A_IW_GRDH_1SDV_20200110T050000_...
_TIMES = {"s1": re.compile(r"^S1._.{2}_.{9}_(?P<time>\d{8}T\d{6})"), "s2": re.compile(r"^(?P<time>\d{8}T\d{6})")}


def list_folders(card: Card, root: Path) -> Listing:
    """Return batches of 64 ids and the void ids left out. Only the folder of ids is listed, not what lies in it.

    Raises:
        UserError: an id is no number, or the modality is unknown.
    """
    settings, void = get_settings(card), read_void_ids(card, root)
    if settings.modality not in ("s1", "s2a", "s2c"):
        raise UserError(
            f"expected the modality s1, s2a or s2c in card {card.name}, got {settings.modality!r}; correct it"
        )
    folders = {path.name: path for path in sorted(root.glob(str(card.files))) if path.is_dir()}
    dropped = [(f"{card.name}/{name}", "listed in void_ids") for name in sorted(folders) if name in void]
    kept = [name for name in folders if name not in void]
    acquisition = Acquisition("", card.processing_baseline, card.orbit, card.offset)
    products = [
        Product(
            f"{card.name}/{name}",
            card,
            "chips",
            acquisition,
            FolderBatch(card, tuple(folders[member] for member in members)),
        )
        for name, members in group_ids(kept)
    ]
    return products, dropped


@dataclass(frozen=True, slots=True)
class FolderBatch(ProductSource):
    """Up to 64 folders of one id each."""

    card: Card
    folders: tuple[Path, ...]

    @property
    def name(self) -> str:
        """First and last id."""
        return f"{self.folders[0].name}-{self.folders[-1].name}"

    @property
    def nbytes(self) -> int:
        """Bytes of the band files that are read."""
        return sum(identify_file(path)[2] for _, files in self._scenes() for path in files.values())

    def checksum(self) -> str:
        """Sha256 over the names and bytes of the band files that are read."""
        return fingerprint(
            {
                f"{scene.parent.name}/{scene.name}/{band}": hash_file(path)
                for scene, files in self._scenes()
                for band, path in files.items()
            }
        )

    def open_chips(self) -> Iterator[Chip]:
        """Yield a chip per id and season, bands brought to 10 m as the card says, physical units.

        Raises:
            UserError: a band file is absent or damaged, or a scene's name holds no time.
        """
        for scene, files in self._scenes():
            image = stack_files(self.card, files, radiometry=make_radiometry(self.card), default="bilinear")
            values = image.read(range(len(files)), (0, image.grid.height), (0, image.grid.width))
            digest = hashlib.sha256("".join(hash_file(path) for path in files.values()).encode()).hexdigest()
            yield crop_sample(
                values,
                self.card,
                f"{scene.parent.name}/{scene.name}",
                physical=True,
                sha256=digest,
                datetime=self._time(scene),
                footprint=self._footprint(image.grid),
            )

    def _scenes(self) -> Iterator[tuple[Path, dict[str, Path]]]:
        """Scenes of each id that the card wants, in the order of time, with their band files."""
        for folder in self.folders:
            scenes = sorted(path for path in folder.iterdir() if path.is_dir())
            for position in choose_seasons(self.card, [self._time(scene) for scene in scenes]):
                yield scenes[position], {band: _band_file(scenes[position], band) for band in self.card.bands}

    def _time(self, scene: Path) -> str:
        match = _TIMES[get_settings(self.card).modality[:2]].match(scene.name)
        if match is None:
            raise UserError(
                f"expected a scene id with its time as folder name, got {scene}; the layout of SSL4EO-S12 v1.0 is "
                "<id>/<scene id>/<band>.tif"
            )
        return format_iso(datetime.strptime(match["time"], "%Y%m%dT%H%M%S").isoformat())

    def _footprint(self, grid: GeoBox) -> tuple[tuple[float, float], ...]:
        """Corners of the crop."""
        crs = read_crs(grid)
        if not crs.startswith("EPSG:"):
            return ()
        size = get_settings(self.card).crop_px
        a, _, c, _, e, f = tuple(grid.affine)[:6]
        top, left = (grid.height - size) // 2, (grid.width - size) // 2
        return locate_corners(int(crs[5:]), (c + a * left, c + a * (left + size)), (f + e * top, f + e * (top + size)))


def _band_file(scene: Path, band: str) -> Path:
    """The file of a band; the corpus writes B1 where the canonical name is B01."""
    names = (f"{band}.tif", f"{band[0]}{band[1:].lstrip('0')}.tif")
    return next((scene / name for name in names if (scene / name).is_file()), scene / names[-1])

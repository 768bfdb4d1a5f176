"""Writing a Sentinel-2 SAFE product, one image at a time, and the truth of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime as Moment
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eo_ssl.sample.fields import average_blocks
from worlds.safe.container import Draft, open_draft, write_raster
from worlds.safe.s2_metadata import get_view_angles, render_clouds, render_manifest, render_product, render_tile
from worlds.safe.s2_scene import (
    Bools,
    Reflectance,
    classify_60m,
    classify_scene,
    draw_cloud_probability,
    draw_swath_edge,
    measure_sun,
    place_saturated,
    quantise_band,
)
from worlds.safe.s2_spec import GSD_M, S2SafeSpec

_BLOCKS = {10: 1.0, 20: 5 / 8, 60: 3 / 16}  # side of a JPEG 2000 tile relative to that at 10 m
# Bands of an L2A product by resolution, in the order in which real ones list them.
_L2A_COPIES = {
    10: (),
    20: ("B01", "B02", "B03", "B04"),
    60: ("B02", "B03", "B04", "B05", "B06", "B07", "B8A", "B11", "B12"),
}
_PILOT = ("CLD", "SNW")  # masks that pilot products list among their images
AOT_DN, WVP_DN = 115, 1850  # aerosol optical thickness and water vapour (cm) x 1000, the same everywhere


@dataclass(frozen=True)
class S2SafeTruth:
    """What is true of a product; pixels are computed when asked for, so that a full-size product needs no memory."""

    path: Path
    "the .SAFE folder or the zip file"
    spec: S2SafeSpec

    @property
    def name(self) -> str:
        """Name of the product with ``.SAFE``."""
        return self.spec.name

    @property
    def reflectance(self) -> Reflectance:
        """Band -> exact reflectance before rounding, float32 [y, x] own resolution, NaN without data or saturated.

        What a reader gets differs by at most 0.00005 (the format's quantization).
        """
        return Reflectance(self.spec)

    def dn(self, band: str, gsd_m: int | None = None) -> npt.NDArray[np.uint16]:
        """Return the numbers stored for a band, uint16 [y, x], at its own or another resolution."""
        return quantise_band(self.spec, band, gsd_m)

    def nodata(self, gsd_m: int = 10) -> Bools:
        """Return where the swath ends, bool [y, x]."""
        return draw_swath_edge(self.spec, gsd_m)

    def saturated(self, gsd_m: int = 10) -> Bools:
        """Return where blue to near infrared are saturated, bool [y, x] at 10 or 20 m; areas beyond the swath count."""
        return place_saturated(self.spec, gsd_m)

    @cached_property
    def scl(self) -> npt.NDArray[np.uint8]:
        """Scene classification at 20 m (codes of Sen2Cor), uint8 [y, x]."""
        return classify_scene(self.spec)

    @cached_property
    def cloud_probability(self) -> npt.NDArray[np.uint8]:
        """Percent at 20 m, uint8 [y, x]."""
        return draw_cloud_probability(self.spec)

    @cached_property
    def opaque(self) -> Bools:
        """Opaque cloud at 60 m as the masks of L1C have it, bool [y, x]."""
        return np.asarray(classify_60m(self.spec)[0], dtype=bool)

    @cached_property
    def cirrus(self) -> Bools:
        """Cirrus at 60 m as the masks of L1C have it, bool [y, x]."""
        return np.asarray(classify_60m(self.spec)[1], dtype=bool)

    @cached_property
    def cloud(self) -> Bools:
        """Opaque cloud or cirrus at 60 m, bool [y, x]."""
        return self.opaque | self.cirrus

    @property
    def sun(self) -> tuple[float, float]:
        """Mean zenith and azimuth of the sun, degrees."""
        return measure_sun(self.spec)

    def view(self, band: str) -> tuple[float, float]:
        """Return mean zenith and azimuth under which a band sees the product, degrees."""
        return get_view_angles(band)

    @property
    def datetime(self) -> Moment:
        """Start of the datatake as the metadata have it."""
        return self.spec.stamped_start


def make_s2_safe(folder: Path, spec: S2SafeSpec, *, zipped: bool = False) -> S2SafeTruth:
    """Write a Sentinel-2 Level-1C or Level-2A product in SAFE format (compact naming) and return what is true of it.

    Lossless JPEG 2000 with 16 bits, so that the saturated value 65535 that the metadata declare can occur. Equal specs
    give equal bytes.

    Args:
        folder: where the product appears; created.
        spec: what to write.
        zipped: write ``<name>.zip`` with the .SAFE folder inside instead of the folder.

    Raises:
        UserError: the product exists already or cannot be written.
    """
    with open_draft(Path(folder), spec.name, zipped=zipped) as (draft, final):
        images = _images(draft, spec)
        masks = _masks(draft, spec)
        images += [name.removesuffix(spec.suffix) for kind, name in masks if kind in _PILOT]
        masks = [(kind, name) for kind, name in masks if kind not in _PILOT]
        cover = float(np.isin(classify_scene(spec), (8, 9, 10)).mean() * 100)
        level = spec.level
        place = f"GRANULE/{spec.granule}/MTD_TL.xml"
        xml = render_tile(spec, masks, cover)
        draft.add(place, xml, identifier=f"S2_Level-{level[1:]}_Tile1_Metadata", mime="application/xml")
        xml = render_product(spec, images, cover)
        draft.add(f"MTD_MSI{level}.xml", xml, identifier=f"S2_Level-{level[1:]}_Product_Metadata", mime="text/xml")
        (draft.root / "manifest.safe").write_text(render_manifest(spec, draft))
    return S2SafeTruth(final, spec)


def _images(draft: Draft, spec: S2SafeSpec) -> list[str]:
    """Write the images and return their names without suffix, in the order of the metadata."""
    if spec.level == "L1C":
        names = [_image(draft, spec, band, GSD_M[band], quantise_band(spec, band)) for band in spec.bands]
        return [*names, _image(draft, spec, "TCI", 10, _true_colour(spec, 10))] if spec.complete else names
    names = []
    for gsd in (10, 20, 60):
        copies = _L2A_COPIES[gsd] if spec.complete else ()
        if not spec.offset:
            copies = tuple(band for band in copies if gsd == 60 or band != "B01")  # B01 at 20 m came with 04.00
        bands = [band for band in spec.bands if GSD_M[band] == gsd or band in copies]
        names += [_image(draft, spec, band, gsd, quantise_band(spec, band, gsd)) for band in bands]
        if spec.complete:
            names += _companions(draft, spec, gsd)
        if gsd > 10:
            scl = classify_scene(spec) if gsd == 20 else classify_scene(spec)[1::3, 1::3]
            names.append(_image(draft, spec, "SCL", gsd, scl))
    return names


def _companions(draft: Draft, spec: S2SafeSpec, gsd: int) -> list[str]:
    """Write true colour, aerosol and water vapour of one resolution."""
    names = [_image(draft, spec, "TCI", gsd, _true_colour(spec, gsd))]
    for kind, value in (("AOT", AOT_DN), ("WVP", WVP_DN)):
        constant = np.where(draw_swath_edge(spec, gsd), 0, value).astype(np.uint16)
        names.append(_image(draft, spec, kind, gsd, constant))
    return names


def _true_colour(spec: S2SafeSpec, gsd: int) -> npt.NDArray[np.uint8]:
    """Return red, green and blue, uint8 [3, y, x]: 1-255 for reflectance 0-0.35, 0 without data."""
    image = np.zeros((3, *(2 * (spec.size_px * 10 // gsd,))), dtype=np.uint8)
    colour = np.clip((np.arange(65_536) + spec.offset) * (255 / 3500), 1, 255).astype(np.uint8)
    colour[0] = 0
    for index, band in enumerate(("B04", "B03", "B02")):
        image[index] = colour[quantise_band(spec, band, gsd)]
    return image


def _image(draft: Draft, spec: S2SafeSpec, kind: str, gsd: int, image: npt.NDArray[Any]) -> str:
    folder = f"GRANULE/{spec.granule}/IMG_DATA"
    name = f"{folder}/{spec.stem}_{kind}" if spec.level == "L1C" else f"{folder}/R{gsd}m/{spec.stem}_{kind}_{gsd}m"
    suffix = "" if spec.level == "L1C" else f"_{gsd}m"
    _store(draft, spec, f"{name}{spec.suffix}", image, gsd=gsd, identifier=f"IMG_DATA_Band_{kind}{suffix}_Tile1_Data")
    return name


def _store(draft: Draft, spec: S2SafeSpec, name: str, image: npt.NDArray[Any], *, gsd: int, identifier: str) -> None:
    block = round(spec.block_px * _BLOCKS[gsd])
    place = {"crs": f"EPSG:{spec.epsg}", "transform": spec.transform(gsd)}
    if spec.image_format == "GeoTIFF":
        target = draft.reserve(name, identifier=identifier, mime="image/tiff")
        write_raster(target, image, driver="COG", BLOCKSIZE=512, **place)
        return
    write_raster(
        draft.reserve(name, identifier=identifier, mime="application/octet-stream"),
        image,
        driver="JP2OpenJPEG",
        **place,
        blockxsize=block,  # in capitals rasterio drops them
        blockysize=block,
        QUALITY="100",
        REVERSIBLE="YES",
        YCBCR420="NO",
        GeoJP2="NO",  # real products are placed by GML alone
        GMLJP2="YES",
    )


def _masks(draft: Draft, spec: S2SafeSpec) -> list[tuple[str, str]]:
    """Write the masks and return type and name of each."""
    folder = f"GRANULE/{spec.granule}/QI_DATA"
    classes = classify_60m(spec)
    if spec.offset:
        kind, name = "MSK_CLASSI", f"{folder}/MSK_CLASSI_B00{spec.suffix}"
        _store(draft, spec, name, classes, gsd=60, identifier="ClassiPixelsMask_Band_00m_0_Tile1_Data")
    else:
        kind, name = "MSK_CLOUDS", f"{folder}/MSK_CLOUDS_B00.gml"
        draft.add(name, render_clouds(spec, classes), identifier="FineCloudMask_Tile1_Data", mime="application/xml")
    masks = [(kind, name)]
    if spec.level == "L2A":
        snow = np.where(classify_scene(spec) == 11, 97, 0).astype(np.uint8)
        for kind, percent, identifier in (
            ("CLD" if spec.pilot else "MSK_CLDPRB", draw_cloud_probability(spec), "CloudPrbMask"),
            ("SNW" if spec.pilot else "MSK_SNWPRB", snow, "SnowPrbMask"),
        ):
            for gsd, suffix in ((20, ""), (60, "_1")):
                image = percent if gsd == 20 else np.rint(average_blocks(percent, 3)).astype(np.uint8)
                name = f"{folder}/{f'{spec.stem}_' if spec.pilot else ''}{kind}_{gsd}m{spec.suffix}"
                _store(draft, spec, name, image, gsd=gsd, identifier=f"{identifier}{suffix}_Tile1_Data")
                masks.append((kind, name))
    return masks

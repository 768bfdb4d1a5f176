"""New pixels under the real annotation of a Sentinel-1 ground-range product: not everything has the same author."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element

import defusedxml.ElementTree
import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.windows import Window

from eo_ssl.errors import UserError, expect
from eo_ssl.sample.fields import Floats
from worlds.safe.container import Draft, open_draft
from worlds.safe.s1_luts import AzimuthBlock, Doubles, Ints, Vector
from worlds.safe.s1_scene import Tables, detect, draw_backscatter


@dataclass(frozen=True)
class S1RealTruth:
    """What is true of a product with real annotation; pixels are known in a window and 0 elsewhere."""

    path: Path
    name: str
    shape: tuple[int, int]
    "lines and samples of the image"
    origin: tuple[int, int]
    "first line and sample of the window"
    sigma0: dict[str, Floats]
    "polarisation -> backscatter in the window, linear power float32 [line, sample]"
    noise: dict[str, Doubles]
    "polarisation -> noise in the window, DN^2"
    dn: dict[str, npt.NDArray[np.uint16]]
    "polarisation -> stored numbers in the window"


def make_s1_grd_from_annotation(
    folder: Path,
    archive: Path,
    *,
    window: tuple[int, int] = (512, 512),
    origin: tuple[int, int] | None = None,
    looks: float | None = None,
    seed: int = 0,
) -> S1RealTruth:
    """Write a product whose metadata are those of ``archive``, byte for byte, and whose measurement is new.

    The measurement has the size that the annotation says but is sparse: a window is filled, the rest is 0 and takes no
    space. Only the entries of the measurements in the manifest (size and checksum) are changed.

    Args:
        folder: where the product appears; created.
        archive: zip file of a real GRD product, with or without its measurement.
        window: lines and samples to fill.
        origin: first line and sample of the window; None for the middle of the image.
        looks: equivalent number of looks of the speckle; None for no speckle.
        seed: seed of land and speckle.

    Raises:
        UserError: the archive is no such product, or the product exists already.
    """
    members, name = _members(archive)
    annotations = {key: data for key, data in members.items() if re.fullmatch(r"annotation/[^/]+\.xml", key)}
    usable = annotations and "manifest.safe" in members
    wanted = f"the annotation of a Sentinel-1 product in {archive}"
    expect(usable, expected=wanted, got="none", remedy="give another zip file")
    sigma0: dict[str, Floats] = {}
    noise: dict[str, Doubles] = {}
    numbers: dict[str, npt.NDArray[np.uint16]] = {}
    shape, start = (0, 0), (0, 0)
    text = members["manifest.safe"].decode()
    with open_draft(Path(folder), name, zipped=False) as (draft, final):
        for key, data in members.items():
            (draft.root / key).parent.mkdir(parents=True, exist_ok=True)
            (draft.root / key).write_bytes(data)
        for key, data in sorted(annotations.items()):
            product, stem = defusedxml.ElementTree.fromstring(data), PurePosixPath(key).stem
            polarisation = _text(product, "adsHeader/polarisation")
            shape = (_number(product, "numberOfLines"), _number(product, "numberOfSamples"))
            start = origin or ((shape[0] - window[0]) // 2, (shape[1] - window[1]) // 2)
            tables = _tables(members, stem)
            land = sigma0[polarisation] = draw_backscatter(window, polarisation, seed=seed)
            noise[polarisation] = tables.noise_at(start[0] + np.arange(window[0]), start[1] + np.arange(window[1]))
            key_of = [seed, len(numbers)]
            whole = np.zeros(window, dtype=bool)
            stored = detect(land, tables, whole, looks=looks, key=key_of, empty_border=True, origin=start)
            numbers[polarisation] = stored
            measured = f"measurement/{stem}.tiff"
            _write_sparse(draft.root / measured, stored, start, shape, _tie_points(product))
            text = _with_measurement(text, draft, measured)
        (draft.root / "manifest.safe").write_text(text)
    return S1RealTruth(final, name, shape, start, sigma0, noise, numbers)


def _members(archive: Path) -> tuple[dict[str, bytes], str]:
    """Return the files of the product but its measurement, by name within it, and the name of the product."""
    try:
        with zipfile.ZipFile(archive) as packed:
            files = {info.filename: packed.read(info) for info in packed.infolist() if not info.is_dir()}
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"expected a zip file in {archive}, got: {error}; give the zip file of a product") from error
    roots = {PurePosixPath(name).parts[0] for name in files}
    parts = {part for name in files for part in PurePosixPath(name).parts}
    if len(roots) != 1 or ".." in parts or "/" in roots:
        raise UserError(f"expected one .SAFE folder in {archive}, got {sorted(roots)}; give the zip file of a product")
    root = roots.pop()
    inner = {PurePosixPath(name).relative_to(root).as_posix(): data for name, data in files.items()}
    return {name: data for name, data in inner.items() if not name.startswith("measurement/")}, root


def _text(element: Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise UserError(f"expected {path} in <{element.tag}>, got none; the annotation is incomplete")
    return text


def _number(product: Element, name: str) -> int:
    return int(_text(product, f"imageAnnotation/imageInformation/{name}"))


def _tables(members: dict[str, bytes], stem: str) -> Tables:
    calibration = defusedxml.ElementTree.fromstring(members[f"annotation/calibration/calibration-{stem}.xml"])
    noise = defusedxml.ElementTree.fromstring(members[f"annotation/calibration/noise-{stem}.xml"])
    names = ("sigmaNought", "betaNought", "gamma", "dn")
    vectors = calibration.findall("calibrationVectorList/calibrationVector")
    tables = {name: [_vector(vector, name) for vector in vectors] for name in names}
    old = [_vector(vector, "noiseLut") for vector in noise.iter("noiseVector")]
    new = [_vector(vector, "noiseRangeLut") for vector in noise.iter("noiseRangeVector")]
    blocks = [_block(block) for block in noise.iter("noiseAzimuthVector")]
    return Tables(tables, old or new, blocks)


def _vector(element: Element, name: str) -> Vector:
    return Vector(int(_text(element, "line")), _whole(element, "pixel"), _floats(element, name))


def _block(element: Element) -> AzimuthBlock:
    first, last, left, right = (
        int(_text(element, name))
        for name in ("firstAzimuthLine", "lastAzimuthLine", "firstRangeSample", "lastRangeSample")
    )
    swath, at = _text(element, "swath"), _whole(element, "line")
    return AzimuthBlock(swath, (first, last), (left, right), at, _floats(element, "noiseAzimuthLut"))


def _floats(element: Element, name: str) -> Doubles:
    return np.array(_text(element, name).split(), dtype=np.float64)


def _whole(element: Element, name: str) -> Ints:
    return np.array(_text(element, name).split(), dtype=np.int64)


def _tie_points(product: Element) -> list[GroundControlPoint]:
    names = ("line", "pixel", "longitude", "latitude", "height")
    points = product.iter("geolocationGridPoint")
    return [GroundControlPoint(*(float(_text(point, name)) for name in names)) for point in points]


def _write_sparse(
    path: Path,
    numbers: npt.NDArray[np.uint16],
    origin: tuple[int, int],
    shape: tuple[int, int],
    points: list[GroundControlPoint],
) -> None:
    """Write a tiled, deflated GeoTIFF of which only the blocks of the window exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=shape[0],
        width=shape[1],
        count=1,
        dtype="uint16",
        gcps=points,
        crs="EPSG:4326",
        tiled=True,
        blockxsize=512,
        blockysize=512,
        compress="deflate",
        sparse_ok=True,
    ) as file:
        file.write(numbers, 1, window=Window(origin[1], origin[0], numbers.shape[1], numbers.shape[0]))


def _with_measurement(text: str, draft: Draft, name: str) -> str:
    """Return the manifest with size and checksum of a measurement replaced."""
    size, digest = (draft.root / name).stat().st_size, draft.digest(name, "MD5")
    pattern = (
        rf'size="\d+">(\s*<fileLocation [^>]*href="\./{re.escape(name)}"/>\s*<checksum checksumName="MD5">)[0-9a-f]+<'
    )
    changed, count = re.subn(pattern, rf'size="{size}">\g<1>{digest}<', text)
    entry = f"one entry of {name} in the manifest"
    expect(count == 1, expected=entry, got=count, remedy="give the zip file of a GRD product")
    return changed

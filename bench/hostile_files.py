"""Hostile contents: XML, JSON, Zarr metadata and rasters that are well made and meant ill. Each function rewrites one sound file."""

from __future__ import annotations

import json
import re
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil

Rng = np.random.Generator
NUMBERS = (
    "1e308",
    "-1e308",
    "NaN",
    "inf",
    "-1",
    "0",
    "",
    "9" * 5000,
    "\u00b2",
    "\uff11\uff12",
    "0x10",
    "1,5",
    "twelve",
    "1e-320",
    "2147483648",
)
_JSON_VALUES = (1e308, -1, 0, None, "", "twelve", [], {}, True, 10**400, "9" * 5000, [[[]]], 2**31, 1e-320)
_USED = re.compile(  # what readers calculate with
    r"QUANTIFICATION|ADD_OFFSET|SPECIAL_VALUE_INDEX|NROWS|NCOLS|UL[XY]|[XY]DIM|^(ZENITH|AZIMUTH)_ANGLE|ORBIT_NUMBER|rbitNumber|^band_?[iI]d"
    r"|^resolution|numberOf(Lines|Samples)|PixelSpacing|TimeInterval|incidenceAngle|^l(atitude|ongitude)|^line|^pixel|slantRangeTime|^count|^size"
    r"|Nought|^(first|last)(Azimuth|Range)|elevationAngle|^height"
)
SET, EXECUTED = "set", "EXECUTED"


def trial_folder(path: Path) -> Path:
    """The folder around the copy of the set, where nothing of the set may reach."""
    return next(parent for parent in path.parents if parent.name == SET).parent


# XML


def entities(rng: Rng, path: Path) -> str:
    """A billion laughs."""
    lines = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(9))
    return _with_prologue(path, f'<!DOCTYPE x [<!ENTITY l0 "lol">{lines}]>', "&l9;")


def external(rng: Rng, path: Path) -> str:
    return _with_prologue(path, '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hostname">]>', "&e;")


def doctype(rng: Rng, path: Path) -> str:
    return _with_prologue(path, '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd">', "")


def _with_prologue(path: Path, prologue: str, reference: str) -> str:
    text = re.sub(r"^\s*<\?xml[^>]*\?>", "", path.read_text(encoding="utf-8"))
    path.write_text(prologue + text.replace("</", f"{reference}</", 1), encoding="utf-8")
    return prologue[:40]


def encoding(rng: Rng, path: Path) -> str:
    """Another encoding declared than used, one that does not exist, or bytes of none."""
    text = re.sub(r"^\s*<\?xml[^>]*\?>", "", path.read_text(encoding="utf-8"))
    lie = ("utf-16", "utf-7", "no-such", "shift_jis", "ascii")[rng.integers(5)]
    data = text.encode().replace(b"</", b"\xff\xfe\xe9</", 1) if lie == "ascii" else text.encode()
    path.write_bytes(f'<?xml version="1.0" encoding="{lie}"?>'.encode() + data)
    return f"declared as {lie}"


def wide(rng: Rng, path: Path) -> str:
    """The same content in UTF-16, which is no damage: to be read as before or refused."""
    text = re.sub(r"^\s*<\?xml[^>]*\?>", "", path.read_text(encoding="utf-8"))
    path.write_bytes(('<?xml version="1.0" encoding="UTF-16"?>' + text).encode("utf-16"))
    return "in UTF-16"


def nested(rng: Rng, path: Path) -> str:
    depth = int(rng.choice([2_000, 200_000, 2_000_000]))
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("</", "<d>" * depth + "</d>" * depth + "</", 1), encoding="utf-8")
    return f"{depth} elements deep"


def number(rng: Rng, path: Path) -> str:
    """A number of some element or attribute replaced by one that cannot be."""
    text = path.read_text(encoding="utf-8")
    spots = [
        m for m in re.finditer(r'<([\w:]+)[^<>]*>\s*([-+\d.eE]+)\s*<|\s([\w:]+)="([-+\d.]+)"', text) if (m[1] or m[3])
    ]
    tags = sorted({m[1] or m[3] for m in spots})
    used = [tag for tag in tags if _USED.search(tag)]
    tags = used if used and rng.random() < 0.8 else tags
    tag = tags[rng.integers(len(tags))]
    found = [m for m in spots if (m[1] or m[3]) == tag]
    match, value = found[rng.integers(len(found))], NUMBERS[rng.integers(len(NUMBERS))]
    start, end = match.span(2) if match[1] else match.span(4)
    path.write_text(text[:start] + value + text[end:], encoding="utf-8")
    return f"{tag} = {value[:12]!r}"


def series(rng: Rng, path: Path) -> str:
    """A list of numbers reversed, cut short, made long, or with a hole."""
    text = path.read_text(encoding="utf-8")
    spots = list(re.finditer(r">((?:\s*[-+\d.eE]+){4,}\s*)<", text))
    if not spots:
        return number(rng, path)
    match = spots[rng.integers(len(spots))]
    values = match[1].split()
    how = ("reversed", "short", "long", "hole", "one huge")[rng.integers(5)]
    changed = {
        "reversed": values[::-1],
        "short": values[:-1],
        "long": values * 3,
        "hole": [*values[:-1], "NaN"],
        "one huge": ["1e308", *values[1:]],
    }[how]
    path.write_text(text[: match.start(1)] + " ".join(changed) + text[match.end(1) :], encoding="utf-8")
    return f"list {how}"


def missing(rng: Rng, path: Path) -> str:
    """Elements of one name away."""
    root = ElementTree.parse(path).getroot()  # of the generator
    names = sorted({item.tag for item in root.iter()} - {root.tag})
    name = names[rng.integers(len(names))]
    for parent in root.iter():
        for child in [child for child in parent if child.tag == name]:
            parent.remove(child)
    path.write_bytes(ElementTree.tostring(root))
    return f"no {name.rpartition('}')[2]}"


def swapped(rng: Rng, path: Path) -> str:
    """The children of an element in the opposite order, or one of them twice."""
    root = ElementTree.parse(path).getroot()
    parents = [item for item in root.iter() if len(item) > 1]
    parent = parents[rng.integers(len(parents))]
    twice = rng.random() < 0.5
    parent[:] = [*parent, parent[0]] if twice else list(parent)[::-1]
    path.write_bytes(ElementTree.tostring(root))
    return f"children of {parent.tag.rpartition('}')[2]} {'one twice' if twice else 'reversed'}"


def large(rng: Rng, path: Path) -> str:
    """More bytes than any metadata has."""
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("</", f"<!--{'x' * 70_000_000}--></", 1), encoding="utf-8")
    return "a comment of 70 MB"


# JSON


def value(rng: Rng, path: Path) -> str:
    """A value somewhere in the document replaced."""
    content = json.loads(path.read_text())
    spots = list(_spots(content))
    holder, key = spots[rng.integers(len(spots))]
    new = _JSON_VALUES[rng.integers(len(_JSON_VALUES))]
    holder[key] = new
    path.write_text(json.dumps(content))
    return f"{key} = {str(new)[:12]!r}"


def _spots(content: object) -> Iterator[tuple[object, object]]:
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, child in pairs:
        yield content, key
        yield from _spots(child)


def without(rng: Rng, path: Path) -> str:
    content = json.loads(path.read_text())
    spots = [(holder, key) for holder, key in _spots(content) if isinstance(holder, dict)]
    if not spots:
        return nested_json(rng, path)
    holder, key = spots[rng.integers(len(spots))]
    del holder[key]
    path.write_text(json.dumps(content))
    return f"no {key}"


def nested_json(rng: Rng, path: Path) -> str:
    path.write_text("[" * 300_000 + "]" * 300_000)
    return "300,000 lists deep"


def text_json(rng: Rng, path: Path) -> str:
    """Not JSON, or not in UTF-8."""
    content = path.read_bytes()
    how = ("utf-16", "latin", "constant", "twice", "bytes")[rng.integers(5)]
    path.write_bytes(
        {
            "utf-16": content.decode().encode("utf-16"),
            "latin": content.replace(b'": "', b'": "\xe9\xff', 1),
            "constant": b'{"a": NaN}',
            "twice": content + content,
            "bytes": rng.bytes(200),
        }[how]
    )
    return how


def pickled(rng: Rng, path: Path) -> str:
    """A Zarr array whose codec unpickles: what it would run makes a file beside the set."""
    array = next(item for item in sorted(path.parents[1].rglob(".zarray")) if item.parent.name == "sample")
    content = json.loads(array.read_text())
    content.update(dtype="|O", filters=[{"id": "pickle", "protocol": 2}], compressor=None, fill_value=None)
    array.write_text(json.dumps(content))
    mark = (trial_folder(path) / EXECUTED).as_posix()
    for chunk in array.parent.glob("[0-9]*"):
        chunk.write_bytes(b"cos\nsystem\n(S'touch " + mark.encode() + b"'\ntR.")
    return "a codec that unpickles"


# Rasters


def huge(rng: Rng, path: Path) -> str:
    """Width and height of the header near 2^31."""
    data = bytearray(path.read_bytes())
    side = (0x7FFFFFFF, 2_000_000, 60_000)[rng.integers(3)]
    if path.suffix == ".jp2":
        box, marker = data.find(b"ihdr"), data.find(b"\xff\x4f\xff\x51")
        data[box + 4 : box + 12] = struct.pack(">II", side, side)
        data[marker + 8 : marker + 16] = struct.pack(">II", side, side)
    else:
        order = "<" if data[:2] == b"II" else ">"
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            if struct.unpack_from(f"{order}H", data, at)[0] in (256, 257):
                struct.pack_into(f"{order}HII", data, at + 2, 4, 1, side)
    path.write_bytes(data)
    return f"{side} pixels wide"


def virtual(rng: Rng, path: Path) -> str:
    """A VRT under the raster's name, which could show any file of the machine: here a copy outside of the set."""
    outside = trial_folder(path) / "outside.tif"
    with rasterio.open(path) as file:
        grid = f"{file.width},{file.height},{file.dtypes[0]}"
        values = file.read()
        profile = file.profile | {"driver": "GTiff"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for key in ("blockxsize", "blockysize", "tiled", "quality", "reversible"):
            profile.pop(key, None)
        with rasterio.open(outside, "w", **profile) as file:
            file.write(values)
        path.unlink()
        rasterio.shutil.copy(outside, path, driver="VRT")
    return f"a VRT of another file ({grid})"


def aside(rng: Rng, path: Path) -> str:
    """A side file that GDAL reads unasked, with another place, nodata and scale."""
    path.with_name(f"{path.name}.aux.xml").write_text(
        "<PAMDataset><SRS>EPSG:32701</SRS><GeoTransform>0, 10, 0, 0, 0, -10</GeoTransform><PAMRasterBand band='1'>"
        "<NoDataValue>1500</NoDataValue><Scale>7</Scale><Offset>3</Offset></PAMRasterBand></PAMDataset>"
    )
    return "an .aux.xml beside it"


def sized(rng: Rng, path: Path) -> str:
    """A sound raster of another size and number type."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path) as file:
            profile = {"crs": file.crs, "transform": file.transform, "driver": file.driver}
        shape = [(1, 7, 5), (3, 60, 60)][rng.integers(2)]
        dtype = ("uint8", "uint16", "int16")[rng.integers(3)]
        path.unlink()
        values = np.full(shape, 9, dtype=dtype)
        with rasterio.open(path, "w", count=shape[0], height=shape[1], width=shape[2], dtype=dtype, **profile) as file:
            file.write(values)
        path.with_name(f"{path.name}.aux.xml").unlink(missing_ok=True)
    return f"{shape} of {dtype}"


XML: dict[str, Callable[[Rng, Path], str]] = {
    "entity bomb": entities,
    "external entity": external,
    "document type": doctype,
    "wrong encoding": encoding,
    "UTF-16": wide,
    "deep nesting": nested,
    "impossible number": number,
    "damaged list": series,
    "missing element": missing,
    "swapped children": swapped,
    "70 MB": large,
}
JSON: dict[str, Callable[[Rng, Path], str]] = {
    "replaced value": value,
    "missing key": without,
    "deep nesting": nested_json,
    "no JSON": text_json,
}
RASTER: dict[str, Callable[[Rng, Path], str]] = {
    "huge": huge,
    "VRT": virtual,
    "side file": aside,
    "other raster": sized,
}

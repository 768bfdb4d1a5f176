"""Regions of the Earth from a GeoJSON file, and the tiles of a corpus that reach into them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import shapely

from eo_ssl.commits import explain_read_error
from eo_ssl.documents import parse_json
from eo_ssl.errors import UserError, expect

if TYPE_CHECKING:
    from eo_ssl.corpus.corpus_view import Corpus

_BOX = ("xmin", "ymin", "xmax", "ymax")
"""Columns of the index that bound a tile in degrees; xmin is above xmax where it crosses the antimeridian."""
_NAMES_OF_DEGREES = ("CRS84", "EPSG::4326", "EPSG:4326")


def read_regions(path: Path) -> shapely.Geometry:
    """Return the regions of a GeoJSON file (RFC 7946: longitude and latitude) as one geometry.

    Raises:
        UserError: the file cannot be read, is no GeoJSON, holds nothing, an outline that crosses itself, another
            reference system or numbers that are no degrees.
    """
    remedy = "write regions as GeoJSON in degrees"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise explain_read_error(error, str(path), remedy="correct the path") from error
    named = str(parse_json(data, at=str(path), remedy=remedy).get("crs") or _NAMES_OF_DEGREES[0])
    expect(
        any(name in named for name in _NAMES_OF_DEGREES),
        expected=f"longitude and latitude in {path}",
        got=f"crs {named[:120]}",
        remedy=remedy,
    )
    try:
        shapes = shapely.from_geojson(data.decode())
    except (shapely.errors.GEOSException, UnicodeDecodeError) as error:
        raise UserError(f"expected GeoJSON in {path}, got {str(error).splitlines()[0][:120]}; {remedy}") from error
    parts = shapely.get_parts(shapes)
    crossed = shapely.is_valid_reason(parts[~shapely.is_valid(parts)])
    expect(not len(crossed), expected=f"valid outlines in {path}", got="; ".join(crossed[:1]), remedy="correct it")
    expect(not shapely.is_empty(shapes), expected=f"a region in {path}", got="none", remedy=remedy)
    west, south, east, north = shapely.bounds(shapes)
    expect(
        west >= -180 and east <= 180 and south >= -90 and north <= 90,
        expected=f"degrees in {path}",
        got=f"numbers from {min(west, south):g} to {max(east, north):g}",
        remedy=remedy,
    )
    return shapely.union_all(parts)


def find_tiles_within(
    regions: shapely.Geometry, corpus: Corpus, stream: str, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return which of ``rows`` of a stream have bounding boxes that reach into ``regions``: places in ``rows``, int64.

    Those of unknown place do not.
    """
    index = corpus.index(stream, columns=list(_BOX), rows=rows)
    west, south, east, north = (index[name].to_numpy().astype(np.float64) for name in _BOX)
    known = np.flatnonzero(np.isfinite(west + south + east + north))
    shapely.prepare(regions)
    crossing = west > east
    found = np.zeros(len(rows), dtype=bool)
    for left, right in ((west, np.where(crossing, 180.0, east)), (np.where(crossing, -180.0, west), east)):
        boxes = shapely.box(left[known], south[known], right[known], north[known])
        found[known] |= shapely.intersects(regions, boxes)
    return np.flatnonzero(found).astype(np.int64)

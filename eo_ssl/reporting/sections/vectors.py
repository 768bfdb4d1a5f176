"""Embeddings of corpora and scenes: principal components, effective rank and places; maps beside their scenes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds

from eo_ssl.embedding import EMBEDDINGS, Covariance, Embeddings, extract_vectors, reopen_scenes
from eo_ssl.errors import UserError
from eo_ssl.reporting.charts import Chart
from eo_ssl.reporting.footprints import BOUNDS, Footprints, draw_maps
from eo_ssl.reporting.formatting import (
    MISSING,
    describe_commercial_use,
    describe_quantity,
    format_count,
    format_number,
    format_share,
    format_size,
    list_owners,
)
from eo_ssl.reporting.galleries import Gallery, Thumb
from eo_ssl.reporting.pca import draw_scatters, draw_spectrum
from eo_ssl.reporting.products import FinishedProduct
from eo_ssl.reporting.quicklooks import LOOK_PX, draw_components, draw_scene, estimate_spectrum
from eo_ssl.reporting.thumbnails import encode_picture
from eo_ssl.sensors import Quantity, sensor

CLOSE_UPS = 1  # of the place with most tiles
MOST_SCENES = 4  # with pictures


@dataclass(frozen=True, slots=True)
class EmbeddingView:
    """The embeddings of one corpus, or of the scenes of one place."""

    name: str
    "folder name"
    anchor: str
    "id in the page"
    sentence: str
    "what was embedded with what"
    facts: tuple[tuple[str, str], ...]
    "numbers"
    figures: tuple[Chart, ...]
    "scatters, spectrum, and where the tiles or scenes lie"
    looks: tuple[Gallery, ...]
    "scenes beside their maps"
    notes: tuple[str, ...]
    "what is not shown, and why"
    lines: tuple[tuple[str, ...], ...]
    "of the table of scenes"
    owners: tuple[tuple[str, str], ...]
    "(licence, attribution), each pair once"
    n_rows: int
    "tiles, or maps"


def describe_embeddings(product: FinishedProduct, position: int) -> EmbeddingView:
    """Everything the page shows about one product of ``eo-ssl embed``."""
    anchor = f"embedding-{position + 1}"
    return (_scenes if "files" in product.manifest.summary else _tiles)(product, anchor)


# ---- tiles of a corpus


def _tiles(product: FinishedProduct, anchor: str) -> EmbeddingView:
    table = Embeddings.open(product.path)
    spectrum = Covariance.of(extract_vectors(part["embedding"], table.dim) for _, part in table.groups(["embedding"]))
    about, stream = table.about, table.about["stream"]
    boxes, placeless, days = _places(table)
    figures, left_out = draw_maps(boxes, product.name, most=CLOSE_UPS)
    notes = [f"{format_count(left_out, 'further place')} on the world map only."] if left_out else []
    if placeless:
        notes.append(f"{format_count(placeless, 'tile has', 'tiles have')} no position.")
    corpus = Path(str(product.manifest.summary["corpus"])).name
    paired = ", each with the radar tile of its pair," if "pairs" in product.manifest.inputs else ","
    return EmbeddingView(
        name=product.name,
        anchor=anchor,
        sentence=f"{format_count(len(table), 'tile')} of {about['corpus']['stream']} of {corpus}{paired} "
        f"embedded with {about['encoder']['name']}: one row each.",
        facts=(
            ("Encoder", str(about["encoder"]["name"])),
            ("Tiles", format_number(len(table))),
            ("Numbers per tile", format_number(table.dim)),
            ("Effective rank", f"{spectrum.rank_me:.1f} of {table.dim}"),
            ("Sensor", sensor(str(stream["sensor"])).title),
            ("Quantity", describe_quantity(Quantity(stream["quantity"]))),
            ("Dates", MISSING if not days else days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"),
            ("On disk", format_size((product.path / EMBEDDINGS).stat().st_size)),
            ("Commercial use", describe_commercial_use(bool(about["non_commercial"]))),
        ),
        figures=(*draw_scatters(table, spectrum), draw_spectrum({"": spectrum}, "tile"), *figures),
        looks=(),
        notes=tuple(notes),
        lines=(),
        owners=list_owners(about["licences"]),
        n_rows=len(table),
    )


def _places(table: Embeddings) -> tuple[Footprints, int, list[str]]:
    """Footprints of the tiles that have one, how many have none, and the days of all, ascending."""
    bounds, splits, days = [], [], set()
    for _, part in table.groups(["bbox", "split", "datetime"]):
        box = part["bbox"].combine_chunks()
        bounds.append(np.stack([box.field(name).to_numpy(zero_copy_only=False) for name in BOUNDS], axis=1))
        splits.append(np.asarray(part["split"].to_pylist(), dtype=np.str_))
        days |= {str(value)[:10] for value in part["datetime"].unique().to_pylist() if value}
    edges = np.concatenate(bounds).astype(np.float64)
    known = np.isfinite(edges).all(axis=1)
    return Footprints(edges[known], np.concatenate(splits)[known]), int((~known).sum()), sorted(days)


# ---- scenes


def _scenes(product: FinishedProduct, anchor: str) -> EmbeddingView:
    summary, config = product.manifest.summary, product.manifest.config
    names = sorted(summary["files"])
    scenes, missing = reopen_scenes(summary, names[:MOST_SCENES])
    lines, boxes, looks, notes, nbytes = [], [], [], [], 0
    spectra: dict[str, Covariance] = {}
    for place, name in enumerate(names):
        with _opened(product.path / name) as file:
            lines.append(_line(file, product.path / name))
            nbytes += (product.path / name).stat().st_size
            if file.crs is not None:
                boxes.append(transform_bounds(file.crs, "OGC:CRS84", *file.bounds))
            if place >= MOST_SCENES:
                continue
            try:
                spectra[name] = estimate_spectrum(file)
            except UserError:
                notes.append(f"{name} has no cell with an embedding.")
                continue
            looks.append(_look(file, spectra[name], scenes.get(name), name))
    if missing:
        notes.append(missing)
    if len(names) > MOST_SCENES:
        notes.append(f"Pictures of the first {MOST_SCENES} of {format_count(len(names), 'map')}.")
    footprints = Footprints(np.array(boxes).reshape(-1, 4), np.full(len(boxes), "", dtype=np.str_))
    figures = [replace(chart, caption="One dot per place.") for chart in draw_maps(footprints, product.name, most=0)[0]]
    if spectra:
        figures.insert(
            0, draw_spectrum({f"map {i}": spectrum for i, spectrum in enumerate(spectra.values(), 1)}, "cell")
        )
    ranks = [f"{spectrum.rank_me:.1f}" for spectrum in spectra.values()]
    licences = summary["licences"]
    return EmbeddingView(
        name=product.name,
        anchor=anchor,
        sentence=f"{format_count(len(names), 'scene')} of the card {config['card']}, "
        f"embedded with {config['encoder']}: one pixel per patch.",
        facts=(
            ("Encoder", str(config["encoder"])),
            ("Maps", format_number(len(names))),
            ("Numbers per cell", format_number(int(summary["dim"]))),
            ("Effective rank", f"{', '.join(ranks) or MISSING} of {summary['dim']}"),
            ("Window", f"{config['window_px']} px"),
            ("Overlap", format_share(float(config["overlap"]))),
            ("On disk", format_size(nbytes)),
            ("Commercial use", describe_commercial_use(any(bool(terms.get("non_commercial")) for terms in licences))),
        ),
        figures=tuple(figures),
        looks=tuple(looks),
        notes=tuple(notes),
        lines=tuple(lines),
        owners=list_owners(licences),
        n_rows=len(names),
    )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with rasterio.open(path, driver="GTiff") as file:
            yield file
    except RasterioError as error:
        raise UserError(
            f"expected the map {path}, got: {error}; remove the folder and embed the scenes again"
        ) from error


def _line(file: Any, path: Path) -> tuple[str, ...]:
    """File, cells, their size, date and bytes of one map."""
    unit = "" if file.crs is None else "m" if file.crs.linear_units == "metre" else file.crs.units_factor[0]
    cell = f"{abs(file.transform.a):.6g} {unit}" if unit else MISSING
    day = file.tags().get("EO_SSL_DATETIME", "")[:10]
    return (
        path.name,
        f"{format_number(file.height)} × {format_number(file.width)}",
        cell,
        day or MISSING,
        format_size(path.stat().st_size),
    )


def _look(file: Any, spectrum: Covariance, scene: Any, name: str) -> Gallery:
    """The scene, where it is at hand, beside the components of its map."""
    thumbs, words = [], []
    if scene is not None:
        picture, said = draw_scene(scene.open())
        uri = encode_picture(picture, side_px=LOOK_PX)
        thumbs.append(Thumb(uri, f"Scene of {name}: {said}", "the scene", f"{scene.product_id}. {said}."))
        words.append(f"{said}.")
    _, shares = spectrum.components(3)
    said = "Principal components 1, 2 and 3 as red, green and blue"
    uri = encode_picture(draw_components(file, spectrum), side_px=LOOK_PX)
    thumbs.append(Thumb(uri, f"Map {name}: {said}", "its embeddings", f"{name}. {said}."))
    held = ", ".join(format_share(part) for part in shares.tolist())
    words.append(f"{said} ({held} of the variance of this map), each from its 2nd to its 98th percentile.")
    return Gallery(name, " ".join(words), tuple(thumbs))

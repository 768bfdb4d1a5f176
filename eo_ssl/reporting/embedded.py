"""What was embedded: how embeddings spread, along which directions and where on Earth; of scenes, maps beside what they show."""

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
from eo_ssl.reporting.artefacts import Product
from eo_ssl.reporting.charts import Figure
from eo_ssl.reporting.directions import scatters, spectrum_figure
from eo_ssl.reporting.footprints import BOUNDS, Boxes, maps
from eo_ssl.reporting.galleries import Gallery, Thumb
from eo_ssl.reporting.quicklooks import LOOK_PX, components_look, sampled_spectrum, scene_look
from eo_ssl.reporting.thumbnails import data_uri
from eo_ssl.reporting.wording import (
    MISSING,
    commercial_words,
    count,
    number,
    owners_of,
    quantity_words,
    share,
    size,
)
from eo_ssl.sensors import Quantity, sensor

CLOSE_UPS = 1  # of the place with most tiles
MOST_SCENES = 4  # with pictures
LINE_HEAD = ("Map", "Cells", "Cell size", "Date", "Size")


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
    figures: tuple[Figure, ...]
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


def embedding_view(product: Product, position: int) -> EmbeddingView:
    """Everything the page shows about one product of ``eo-ssl embed``."""
    anchor = f"embedding-{position + 1}"
    return (_scenes if "files" in product.manifest.summary else _tiles)(product, anchor)


# ---- tiles of a corpus


def _tiles(product: Product, anchor: str) -> EmbeddingView:
    table = Embeddings.open(product.path)
    spectrum = Covariance.of(extract_vectors(part["embedding"], table.dim) for _, part in table.groups(["embedding"]))
    about, stream = table.about, table.about["stream"]
    boxes, placeless, days = _places(table)
    figures, left_out = maps(boxes, product.name, most=CLOSE_UPS)
    notes = [f"{count(left_out, 'further place')} on the world map only."] if left_out else []
    if placeless:
        notes.append(f"{count(placeless, 'tile has', 'tiles have')} no position.")
    corpus = Path(str(product.manifest.summary["corpus"])).name
    return EmbeddingView(
        name=product.name,
        anchor=anchor,
        sentence=f"{count(len(table), 'tile')} of {about['corpus']['stream']} of {corpus}, embedded with {about['encoder']['name']}: one row each.",
        facts=(
            ("Encoder", str(about["encoder"]["name"])),
            ("Tiles", number(len(table))),
            ("Numbers per tile", number(table.dim)),
            ("Effective rank", f"{spectrum.rank_me:.1f} of {table.dim}"),
            ("Sensor", sensor(str(stream["sensor"])).title),
            ("Quantity", quantity_words(Quantity(stream["quantity"]))),
            ("Dates", MISSING if not days else days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"),
            ("On disk", size((product.path / EMBEDDINGS).stat().st_size)),
            ("Commercial use", commercial_words(bool(about["non_commercial"]))),
        ),
        figures=(*scatters(table, spectrum), spectrum_figure({"": spectrum}, "tile"), *figures),
        looks=(),
        notes=tuple(notes),
        lines=(),
        owners=owners_of(about["licences"]),
        n_rows=len(table),
    )


def _places(table: Embeddings) -> tuple[Boxes, int, list[str]]:
    """Footprints of the tiles that have one, how many have none, and the days of all, ascending."""
    bounds, splits, days = [], [], set()
    for _, part in table.groups(["bbox", "split", "datetime"]):
        box = part["bbox"].combine_chunks()
        bounds.append(np.stack([box.field(name).to_numpy(zero_copy_only=False) for name in BOUNDS], axis=1))
        splits.append(np.asarray(part["split"].to_pylist(), dtype=np.str_))
        days |= {str(value)[:10] for value in part["datetime"].unique().to_pylist() if value}
    found = np.concatenate(bounds).astype(np.float64)
    known = np.isfinite(found).all(axis=1)
    return Boxes(found[known], np.concatenate(splits)[known]), int((~known).sum()), sorted(days)


# ---- scenes


def _scenes(product: Product, anchor: str) -> EmbeddingView:
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
                spectra[name] = sampled_spectrum(file)
            except UserError:
                notes.append(f"{name} has no cell with an embedding.")
                continue
            looks.append(_look(file, spectra[name], scenes.get(name), name))
    if missing:
        notes.append(missing)
    if len(names) > MOST_SCENES:
        notes.append(f"Pictures of the first {MOST_SCENES} of {count(len(names), 'map')}.")
    found = Boxes(np.array(boxes).reshape(-1, 4), np.full(len(boxes), "", dtype=np.str_))
    figures = [replace(one, caption="One dot per place.") for one in maps(found, product.name, most=0)[0]]
    if spectra:
        figures.insert(0, spectrum_figure({f"map {i}": one for i, one in enumerate(spectra.values(), 1)}, "cell"))
    ranks = [f"{one.rank_me:.1f}" for one in spectra.values()]
    licences = summary["licences"]
    return EmbeddingView(
        name=product.name,
        anchor=anchor,
        sentence=f"{count(len(names), 'scene')} of the card {config['card']}, embedded with {config['encoder']}: one pixel per patch.",
        facts=(
            ("Encoder", str(config["encoder"])),
            ("Maps", number(len(names))),
            ("Numbers per cell", number(int(summary["dim"]))),
            ("Effective rank", f"{', '.join(ranks) or MISSING} of {summary['dim']}"),
            ("Window", f"{config['window_px']} px"),
            ("Overlap", share(float(config["overlap"]))),
            ("On disk", size(nbytes)),
            ("Commercial use", commercial_words(any(bool(one.get("non_commercial")) for one in licences))),
        ),
        figures=tuple(figures),
        looks=tuple(looks),
        notes=tuple(notes),
        lines=tuple(lines),
        owners=owners_of(licences),
        n_rows=len(names),
    )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with rasterio.open(path) as file:
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
    return path.name, f"{number(file.height)} × {number(file.width)}", cell, day or MISSING, size(path.stat().st_size)


def _look(file: Any, spectrum: Covariance, scene: Any, name: str) -> Gallery:
    """The scene, where it is at hand, beside the components of its map."""
    thumbs, words = [], []
    if scene is not None:
        picture, said = scene_look(scene.open())
        uri = data_uri(picture, side_px=LOOK_PX)
        thumbs.append(Thumb(uri, f"Scene of {name}: {said}", "the scene", f"{scene.product_id}. {said}."))
        words.append(f"{said}.")
    _, shares = spectrum.components(3)
    said = "Principal components 1, 2 and 3 as red, green and blue"
    uri = data_uri(components_look(file, spectrum), side_px=LOOK_PX)
    thumbs.append(Thumb(uri, f"Map {name}: {said}", "its embeddings", f"{name}. {said}."))
    held = ", ".join(share(part) for part in shares.tolist())
    words.append(f"{said} ({held} of the variance of this map), each from its 2nd to its 98th percentile.")
    return Gallery(name, " ".join(words), tuple(thumbs))

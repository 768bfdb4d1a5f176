"""Which tiles `eo-ssl curate --duplicates drop` takes for one acquisition: planted ones, real sets, and what the search costs.

``EO_SSL_DATA=/path/to/samples python -m bench.duplicates`` prints the tables of ``docs/duplicates.md`` (ten minutes), ``python -m
bench duplicates`` their rows. Planted: each scene is also delivered in every kind of repeat and decoy of `worlds.repeated`; what has to go
follows from pixel centres looked up with pyproj. Real: sets of several dates as they are, and how many pairs of dates pixels alone would
take for one acquisition.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from scipy import ndimage

from eo_ssl.cards import load_card
from eo_ssl.corpus import Corpus, IngestConfig, ingest
from eo_ssl.curation import RepeatConfig, find_repeats
from eo_ssl.curation.repeat_candidates import TileFacts, find_candidates
from eo_ssl.curation.repeat_pixels import SMOOTHING_PX, compare_tiles
from eo_ssl.scene import list_products
from eo_ssl.sensors import Quantity, convert
from worlds.repeated import (
    DECOYS,
    Ground,
    World,
    draw_grounds,
    expect_dropped,
    list_true_overlaps,
    plant_optical,
    plant_radar,
)

TILE_PX, ROWS, SIDE = 32, 1_000_000, 40  # tiles of the search by the index alone, and tiles along a product
SETS = (
    ("opera_rtc_s1", 32, "native"),
    ("opera_rtc_s1", 96, "native"),
    ("opera_rtc_s1", 32, "grid"),
    ("worldcereal_s1", 32, "native"),
    ("worldcereal_s2_20m", 32, "native"),
)
ORDER = (
    "duplicates/planted",
    "duplicates/planted in all",
    "duplicates/real",
    "duplicates/speckle",
    "duplicates/search",
)
IDENTITY = np.array([[1.0, 0, 0], [0, 1, 0]])
BOUNDS = RepeatConfig()


def data() -> Path:
    return Path(os.environ.get("EO_SSL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def read_ground(paths: list[Path], bands: list[int], *, radar: bool, size_px: int | None = None) -> Iterator[Ground]:
    """Yield real images as grounds: reflectance from x 10,000, linear power from dB."""
    for path in paths:
        with rasterio.open(path) as file:
            image = file.read(bands).astype(np.float32)[:, :size_px, :size_px]
            values = 10 ** (image / 10) if radar else image / 1e4
            where = file.crs.to_epsg(), file.transform.c, file.transform.f, file.transform.a
        yield Ground(path.stem, values.astype(np.float32), *where, looks=4.4 if radar else 0.0)


def stack(folder: Path, bands: tuple[str, ...]) -> Iterator[Ground]:
    """Yield one real scene of one file per band, its first 576 pixels."""
    parts = [next(iter(read_ground([folder / f"{band}.tif"], [1], radar=False, size_px=576))) for band in bands]
    first = parts[0]
    image = np.concatenate([part.image for part in parts])
    yield Ground("desert", image, first.epsg, first.left, first.top, first.pixel_m)


def list_worlds() -> Iterator[tuple[str, World]]:
    """Yield the planted worlds: generated scenes, and real ones where they are."""
    for seed, sites in ((0, 6), (1, 8), (2, 8)):  # the bounds were fixed on seed 0
        optical, radar = draw_grounds(sites=sites, dates=2, size_px=288, seed=seed)
        world = World()
        plant_optical(world, optical, tile_px=TILE_PX, seed=seed)
        yield f"sample archive, optical, seed {seed}", world
        world = World()
        plant_radar(world, radar, tile_px=TILE_PX, seed=seed)
        yield f"sample archive, radar, seed {seed}", world
    examples = data() / "terramesh_examples"
    if examples.is_dir():
        world = World()
        real = list(read_ground(sorted(examples.glob("S2L2A/*.tif")), [2, 3, 4, 8], radar=False))
        plant_optical(world, real, tile_px=TILE_PX, zone_tiles=9)
        yield "TerraMesh, optical", world
        world = World()
        (folder,) = {path.parent for path in (data() / "s2_tile_29RKH_l2a").rglob("B02.tif")}
        plant_optical(world, list(stack(folder, ("B02", "B03", "B04", "B08"))), tile_px=TILE_PX, zone_tiles=9)
        yield "desert, optical", world
        world = World()
        plant_radar(world, read_radar(), tile_px=TILE_PX)
        yield "TerraMesh, radar", world


def read_radar() -> list[Ground]:
    paths = sorted((data() / "terramesh_examples").glob("S1RTC/*.tif"))
    return list(read_ground(paths, [1, 2], radar=True))


def score(what: str, world: World) -> Iterator[dict[str, Any]]:
    """Yield by kind how many tiles had to go, went, and went wrongly."""
    with tempfile.TemporaryDirectory() as folder:
        ingest(world.products, out=Path(folder) / "c", config=IngestConfig(size_px=TILE_PX), client="synchronous")
        corpus = Corpus.open(Path(folder) / "c")
        for stream in sorted(corpus.streams):
            index = corpus.index(stream)
            began = time.perf_counter()
            found = find_repeats(corpus, stream, np.arange(len(index)), BOUNDS)
            seconds = time.perf_counter() - began
            yield from _score(what, world, index, found.original, seconds)


def _score(
    what: str, world: World, index: Any, original: npt.NDArray[np.int64], seconds: float
) -> Iterator[dict[str, Any]]:
    columns = {name: index[name].to_pylist() for name in ("product_id", "processing_baseline", "valid_fraction")}
    kinds = [world.kinds[name] for name in columns["product_id"]]
    acquisitions = [world.acquisitions[name] for name in columns["product_id"]]
    overlaps = list(list_true_overlaps(world, index))
    wanted, close = expect_dropped(
        overlaps, columns["processing_baseline"], columns["valid_fraction"], least=BOUNDS.min_overlap
    )
    gone = set(np.flatnonzero(original >= 0).tolist()) - close
    wanted = {row: others for row, others in wanted.items() if row not in close}
    wrong = {row for row in gone if row not in wanted or acquisitions[row] != acquisitions[original[row]]}
    of = {row: kinds[min(others)] if kinds[row] == "original" else kinds[row] for row, others in wanted.items()}
    asked, hit = Counter(of.values()), Counter(of[row] for row in gone - wrong)
    tiles, wrongly = Counter(kinds), Counter(kinds[row] for row in wrong)
    for kind in sorted(tiles, key=lambda kind: (kind in DECOYS, kind)):
        counts = {"tiles": tiles[kind], "had_to_go": asked[kind], "went": hit[kind], "went_wrongly": wrongly[kind]}
        yield {"name": "duplicates/planted", "ground": what, "kind": kind, **counts}
    right = len(gone - wrong)
    yield {
        "name": "duplicates/planted in all",
        "ground": what,
        "tiles": len(kinds),
        "had_to_go": len(wanted),
        "recall": round(right / len(wanted), 4),
        "precision": round(right / len(gone), 4),
        "seconds": round(seconds, 1),
    }


def examine(card: str, size_px: int, tiling: str) -> Iterator[dict[str, Any]]:
    """Yield what is found in a real set, and how alike successive dates of a place are."""
    products = list_products(load_card(card), data()).products
    with tempfile.TemporaryDirectory() as folder:
        config = IngestConfig(size_px=size_px, tiling=tiling, min_valid=0.5)  # type: ignore[arg-type]
        ingest(products, out=Path(folder) / "c", config=config, client="synchronous")
        corpus = Corpus.open(Path(folder) / "c")
        (stream,) = corpus.streams
        index = corpus.index(stream, columns=["location_id", "datetime", "pixels_sha256"])
        began = time.perf_counter()
        found = find_repeats(corpus, stream, np.arange(len(index)), BOUNDS, identities=index["pixels_sha256"])
        seconds = time.perf_counter() - began
        days = np.array([text[:10] for text in index["datetime"].to_pylist()])
        places = np.array(index["location_id"].to_pylist())
        gone = np.flatnonzero(found.original >= 0)
        pairs = successive_dates(places, days)
        yield {
            "name": "duplicates/real",
            "set": f"{card}, {size_px} px, {tiling}",
            "tiles": len(index),
            "places": len(np.unique(places)),
            "dates": len(np.unique(days)) if days[0] else 0,
            "same_acquisition": len(gone),
            "of_them_another_date": int((days[gone] != days[found.original[gone]]).sum()),
            "least_correlation": round(float(np.nanmin(found.correlation)), 4) if len(gone) else None,
            "successive_dates": len(pairs),
            "alike_by_pixels_alone": sum(is_alike(corpus, stream, pair) for pair in pairs),
            "seconds": round(seconds, 1),
        }


def successive_dates(places: npt.NDArray[np.str_], days: npt.NDArray[np.str_]) -> list[tuple[int, int]]:
    """Return rows of one place and successive dates."""
    order = np.lexsort((days, places))
    return [
        (a, b)
        for a, b in zip(order[:-1].tolist(), order[1:].tolist(), strict=True)
        if places[a] == places[b] and days[a] and days[a] != days[b]
    ]


def is_alike(corpus: Corpus, stream: str, pair: tuple[int, int]) -> bool:
    reader = corpus.stream(stream)
    quantity = reader.stream.quantity.in_db_if_power
    tiles = convert(reader.read(pair), source=reader.stream.quantity, target=quantity)
    evidence = compare_tiles(*tiles, IDENTITY, quantity=quantity)
    return evidence.equal if evidence.flat else evidence.correlation >= BOUNDS.min_correlation


def compare_details() -> Iterator[dict[str, Any]]:
    """Yield by the width of the local mean how alike real radar tiles are to themselves on another grid, and with other speckle."""
    rng = np.random.default_rng(0)
    tiles = [
        np.s_[:, row : row + TILE_PX, col : col + TILE_PX]
        for row in range(0, 192, TILE_PX)
        for col in range(0, 192, TILE_PX)
    ]
    images = [ground.image for ground in read_radar()]
    pairs = []
    for image in images:
        moved = np.stack([ndimage.shift(band, (0.5, 0.5), order=1, mode="nearest") for band in image])
        decibel, there = smooth(to_db(image), SMOOTHING_PX), smooth(to_db(moved), SMOOTHING_PX)
        back = np.stack([ndimage.shift(band, (-0.5, -0.5), order=1, mode="nearest") for band in there])
        speckle = smooth(rng.gamma(1, 1, image.shape), 0.6)  # neighbours correlate, as they do in real products
        other = to_db(smooth(image, 1.5) * speckle / speckle.mean())
        pairs.append(((decibel, back), (to_db(image), other)))
    for width in (None, 1.0, 2.0, 3.0):
        same, looks = (
            [
                np.median([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(one[tile], two[tile], strict=True)])
                for one, two in ([detail(part, width) for part in pair[which]] for pair in pairs)
                for tile in tiles
            ]
            for which in (0, 1)
        )
        yield {
            "name": "duplicates/speckle",
            "local_mean_px": width,
            "tiles": len(same),
            "same_on_another_grid_least": round(float(min(same)), 3),
            "other_speckle_median": round(float(np.median(looks)), 3),
            "other_speckle_largest": round(float(max(looks)), 3),
        }


def to_db(power: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return convert(power, source=Quantity.GAMMA0, target=Quantity.GAMMA0_DB)


def smooth(image: npt.NDArray[np.floating], sigma_px: float) -> npt.NDArray[np.float32]:
    return ndimage.gaussian_filter(image, (0, sigma_px, sigma_px)).astype(np.float32)


def detail(image: npt.NDArray[np.float32], width: float | None) -> npt.NDArray[np.float32]:
    return image if width is None else image - smooth(image, width)


def search(rows: int = ROWS) -> dict[str, Any]:
    """Return what finding candidates among so many tiles costs: products of 1,600 tiles, neighbours with a strip in common."""
    side = SIDE
    number = np.arange(rows)
    product, tile = number // side**2, number % side**2
    step = 0.64 / 111.2  # degrees of a tile of 640 m
    # Every other product lies three tiles short of a whole product further east, seven seconds later.
    west = (product // 2 % 200) * 1.6 - 160 + (product % 2) * step * (side - 3)
    south = (product // 400) * 1.0
    lon, lat = west + tile % side * step, south + tile // side * step
    corners = np.stack(
        [np.stack([lon + dx * step, lat + dy * step], axis=1) for dx, dy in ((0, 0), (1, 0), (1, 1), (0, 1))], axis=1
    )
    whole = np.full(rows, 64.0**2)
    codes = np.zeros(rows, dtype=np.int32)
    facts = TileFacts(
        corners=corners,
        size_px=np.full((rows, 2), 64, dtype=np.int32),
        valid_px=whole,
        second=(product // 2) * 3_000 + product % 2 * 7,
        dated=np.full(rows, 2, dtype=np.int8),
        stated=np.zeros((rows, 5), dtype=np.int32),
        baseline=codes,
        place=codes,
        product=product.astype(np.int32),
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    found = sum(len(pairs.first) for pairs in find_candidates(facts, min_overlap=0.8, max_seconds=900))
    seconds = time.perf_counter() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    known = int((product[-1] + 1) // 2 * 3 * side)
    return {
        "name": "duplicates/search",
        "tiles": rows,
        "pairs": found,
        "pairs_planted": known,
        "seconds": round(seconds, 1),
        "grown_mb": round(grown),
    }


def run() -> Iterator[dict[str, Any]]:
    for what, world in list_worlds():
        yield from score(what, world)
    for card, size_px, tiling in SETS if data().is_dir() else ():
        yield from examine(card, size_px, tiling)
    if data().is_dir():
        yield from compare_details()
    yield search()


def main() -> None:
    """Print one Markdown table per kind of measurement."""
    shown = ""
    for row in sorted(run(), key=lambda row: ORDER.index(row["name"])):
        columns = [name for name in row if name != "name"]
        if row["name"] != shown:
            shown = row["name"]
            print(
                "\n| "
                + " | ".join(column.replace("_", " ") for column in columns)
                + " |\n"
                + "|---" * len(columns)
                + "|"
            )
        print(
            "| "
            + " | ".join(
                "" if row[name] is None else f"{row[name]:,}" if isinstance(row[name], int) else str(row[name])
                for name in columns
            )
            + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()

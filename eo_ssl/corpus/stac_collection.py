"""The corpus as a STAC 1.1 collection: ``collection.json``, derived from the newest snapshot and replaced with it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from eo_ssl.corpus.corpus_view import Corpus
from eo_ssl.corpus.overview import Overview, summarise_streams, unite_boxes
from eo_ssl.corpus.streams import Stream

COLLECTION = "collection.json"
_EXTENSIONS = (
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
    "https://stac-extensions.github.io/sat/v1.1.0/schema.json",
    "https://stac-extensions.github.io/sar/v1.2.0/schema.json",
)
_SPDX = re.compile(r"[A-Za-z0-9.+-]+")  # a licence that is named and not described
_WORLD = [-180.0, -90.0, 180.0, 90.0]  # of tiles without a place, as the STAC specification has it


def write(corpus: Corpus) -> None:
    """Put the description of ``corpus`` beside its snapshots, in the place of an older one."""
    corpus.store.replace(COLLECTION, json.dumps(build_collection(corpus), indent=1, sort_keys=True).encode())


def build_collection(corpus: Corpus) -> dict[str, Any]:
    """Return the STAC collection of a corpus, as plain values; reads its index once, in batches."""
    seen, licences = summarise_streams(corpus), corpus.licences()
    boxes = [part.bbox for part in seen.values() if part.bbox]
    times = [part.times for part in seen.values() if part.times]
    first, last = (min(begin for begin, _ in times), max(end for _, end in times)) if times else (None, None)
    summaries = _summaries(corpus, seen)
    used = {name.partition(":")[0] for name in summaries}
    tiles = sum(part.tiles for part in seen.values())
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
        "stac_extensions": [url for url in _EXTENSIONS if url.split("/")[3] in used],
        "id": corpus.store.name or "corpus",
        "title": f"{corpus.store.name}: {tiles} tiles for pretraining",
        "description": (
            f"{tiles} tiles in {len(seen)} streams of equal sensor, quantity, bands and pixel size, cut by eo_ssl. "
            "The snapshot lists the fragments; each fragment has a GeoParquet index and a Zarr v3 array, tile i of "
            "which is row i."
        ),
        "keywords": ["pretraining", *sorted({stream.sensor for stream in corpus.streams.values()})],
        "license": _licence(licences),
        "providers": _providers(licences),
        "extent": {
            "spatial": {"bbox": [unite_boxes(boxes) if boxes else _WORLD]},
            "temporal": {"interval": [[first, last]]},
        },
        "summaries": summaries,
        "item_assets": {key: asset for name in seen for key, asset in _assets(corpus.streams[name]).items()},
        "assets": {
            "snapshot": {
                "href": f"./snapshots/{corpus.snapshot:06d}.json",
                "type": "application/json",
                "title": "fragments, in the order of their rows, and statistics of the training split",
                "roles": ["metadata"],
            },
        },
        "links": [{"rel": "root", "href": f"./{COLLECTION}", "type": "application/json"}],
        "eo_ssl:snapshot": corpus.snapshot,
        "eo_ssl:fingerprint": corpus.fingerprint,
        "eo_ssl:non_commercial": any(item["non_commercial"] for item in licences),
        "eo_ssl:licences": licences,
        "eo_ssl:streams": {name: part.to_json() for name, part in seen.items()},
    }


def _licence(licences: Sequence[dict[str, Any]]) -> str:
    """Return the one licence of all cards if it is an SPDX name, else ``other``.

    The texts are in ``eo_ssl:licences``.
    """
    names = {str(item["licence"]) for item in licences}
    only = next(iter(names)) if len(names) == 1 else ""
    return only if _SPDX.fullmatch(only) else "other"


def _providers(licences: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return who must be named, each once, with the cards it is for."""
    cards: dict[str, list[str]] = {}
    for item in licences:
        cards.setdefault(str(item["attribution"]), []).append(str(item["card"]))
    return [
        {"name": name, "roles": ["licensor", "producer"], "description": f"cards {', '.join(cards[name])}"}
        for name in sorted(cards)
        if name
    ]


def _summaries(corpus: Corpus, seen: dict[str, Overview]) -> dict[str, Any]:
    """Return the values that occur, in the fields of STAC's common metadata and extensions.

    What no product says is left out.
    """

    def values(column: str) -> list[str]:
        return sorted({value for part in seen.values() for value in part.counted[column]} - {"unknown"})

    fields: dict[str, list[Any]] = {
        "platform": [name.lower() for name in values("platform")],
        "gsd": sorted({stream.gsd_m for stream in corpus.streams.values()}),
        "sat:orbit_state": [name for name in values("orbit") if name in ("ascending", "descending", "geostationary")],
        "sat:relative_orbit": [int(name) for name in values("relative_orbit")],
        "sar:instrument_mode": values("mode"),
        "sar:polarizations": sorted({band for stream in corpus.streams.values() for band in _polarisations(stream)}),
        "processing:version": values("processing_baseline"),
    }
    return {name: value for name, value in fields.items() if value}


def _polarisations(stream: Stream) -> list[str]:
    return [band for band in stream.bands if band in ("HH", "HV", "VH", "VV")] if stream.quantity.is_power else []


def _assets(stream: Stream) -> dict[str, Any]:
    """Return what every fragment of a stream holds."""
    return {
        f"{stream.name}.index": {
            "type": "application/vnd.apache.parquet",
            "title": f"index of {stream.name}: places, times, quality and provenance of each tile (GeoParquet 1.1)",
            "roles": ["metadata"],
        },
        f"{stream.name}.pixels": {
            "type": "application/vnd.zarr; version=3",
            "title": f"tiles of {stream.name}: {stream.quantity.value}, {stream.size_px} px of {stream.gsd_m:g} m",
            "roles": ["data"],
            "gsd": stream.gsd_m,
            "bands": [{"name": name} for name in stream.bands],
        },
    }

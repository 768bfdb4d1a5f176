"""Embeddings: the tiles of a corpus as a table, a scene as a map, and what lies near what."""

from __future__ import annotations

from eo_ssl.embedding.inputs import (
    device_named,
    file_names,
    named_encoder,
    reopened,
    scenes_at,
    stream_at,
)
from eo_ssl.embedding.queries import Query, at, degrees, like, of_image
from eo_ssl.embedding.scenes import Mapped, SceneSettings, check_scene, embed_scene
from eo_ssl.embedding.search import Distance, Embeddings, Hits, nearest, on_same_ground
from eo_ssl.embedding.spectrum import Spectrum
from eo_ssl.embedding.table import numbers_of
from eo_ssl.embedding.tiles import EMBEDDINGS, TileSettings, check_tiles, embed_tiles, tidy

__all__ = [
    "Distance",
    "EMBEDDINGS",
    "Embeddings",
    "Hits",
    "Mapped",
    "Query",
    "SceneSettings",
    "Spectrum",
    "TileSettings",
    "at",
    "check_scene",
    "check_tiles",
    "degrees",
    "device_named",
    "embed_scene",
    "embed_tiles",
    "file_names",
    "like",
    "named_encoder",
    "nearest",
    "numbers_of",
    "of_image",
    "on_same_ground",
    "reopened",
    "scenes_at",
    "stream_at",
    "tidy",
]

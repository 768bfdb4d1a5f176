"""Embeddings: the tiles of a corpus as a table, a scene as a map, and what lies near what."""

from __future__ import annotations

from eo_ssl.embedding.inputs import file_names, is_link, named_encoder, scenes_at
from eo_ssl.embedding.queries import Query, at, degrees, like, of_image
from eo_ssl.embedding.scenes import Mapped, SceneSettings, embed_scene
from eo_ssl.embedding.search import Distance, Embeddings, Hits, nearest, on_same_ground
from eo_ssl.embedding.tiles import EMBEDDINGS, TileSettings, embed_tiles, tidy

__all__ = [
    "Distance",
    "EMBEDDINGS",
    "Embeddings",
    "Hits",
    "Mapped",
    "Query",
    "SceneSettings",
    "TileSettings",
    "at",
    "degrees",
    "embed_scene",
    "embed_tiles",
    "file_names",
    "is_link",
    "like",
    "named_encoder",
    "nearest",
    "of_image",
    "on_same_ground",
    "scenes_at",
    "tidy",
]

"""Embeddings: the tiles of a corpus as a table, a scene as a map, and what lies near what."""

from __future__ import annotations

from eo_ssl.embedding.audited_tests import AuditedTests, open_tests
from eo_ssl.embedding.candidate_rows import CandidateRows
from eo_ssl.embedding.covariance import Covariance
from eo_ssl.embedding.inputs import (
    choose_stream,
    find_scenes,
    name_maps,
    open_stream,
    prepare_encoder,
    reopen_scenes,
)
from eo_ssl.embedding.paired_tiles import PairedTiles, TileEncoder, name_pairs, open_tiles, select_tiles
from eo_ssl.embedding.queries import Query, parse_lonlat, query_image, query_place, query_tile
from eo_ssl.embedding.scenes import Mapped, SceneSettings, check_scene, embed_scene
from eo_ssl.embedding.search import Distance, Embeddings, Hits, find_nearest, find_same_ground
from eo_ssl.embedding.table import extract_vectors
from eo_ssl.embedding.target_sets import TargetSet, open_target
from eo_ssl.embedding.tiles import EMBEDDINGS, TileSettings, check_tiles, embed_tiles, remove_parts

__all__ = [
    "AuditedTests",
    "CandidateRows",
    "open_tests",
    "Covariance",
    "Distance",
    "EMBEDDINGS",
    "Embeddings",
    "Hits",
    "Mapped",
    "PairedTiles",
    "Query",
    "SceneSettings",
    "TargetSet",
    "TileEncoder",
    "TileSettings",
    "check_scene",
    "check_tiles",
    "choose_stream",
    "embed_scene",
    "embed_tiles",
    "extract_vectors",
    "find_nearest",
    "find_same_ground",
    "find_scenes",
    "name_maps",
    "name_pairs",
    "parse_lonlat",
    "prepare_encoder",
    "query_image",
    "query_place",
    "query_tile",
    "remove_parts",
    "reopen_scenes",
    "open_target",
    "open_tiles",
    "select_tiles",
    "open_stream",
]

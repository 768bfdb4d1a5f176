"""Export: an encoder as a bundle that timm, TorchGeo, torch, onnxruntime and catalogues open, and the check of it."""

from __future__ import annotations

from eo_ssl.export.bench_adapter import BENCH_FOLDER
from eo_ssl.export.bundle import Bundle, Options, export, load_exportable
from eo_ssl.export.checksums import check_files
from eo_ssl.export.contract_file import PREPROCESS_FILE, get_contract, list_trained, read_configurations
from eo_ssl.export.encoder_module import MODULE_FILE
from eo_ssl.export.hub import Upload, check_repo, list_uploads, push
from eo_ssl.export.model_card import CARD_FILE, POOLED
from eo_ssl.export.onnx_graph import ENCODER_GRAPH, PHYSICAL_GRAPH
from eo_ssl.export.parity import PARITY_FILE
from eo_ssl.export.stac_item import ITEM_FILE
from eo_ssl.export.terms import Terms, collect_terms
from eo_ssl.export.timm_folder import TIMM_CONFIG, TIMM_FOLDER, TIMM_WEIGHTS
from eo_ssl.export.torchgeo_checkpoints import CLASSIFICATION_FILE, SEGMENTATION_FILES, name_backbone
from eo_ssl.export.verification import Check, verify
from eo_ssl.export.weights_enum import WEIGHTS_FILE

__all__ = [
    "BENCH_FOLDER",
    "CARD_FILE",
    "CLASSIFICATION_FILE",
    "ENCODER_GRAPH",
    "ITEM_FILE",
    "MODULE_FILE",
    "PARITY_FILE",
    "PHYSICAL_GRAPH",
    "POOLED",
    "PREPROCESS_FILE",
    "SEGMENTATION_FILES",
    "TIMM_CONFIG",
    "TIMM_FOLDER",
    "TIMM_WEIGHTS",
    "WEIGHTS_FILE",
    "Bundle",
    "Check",
    "Options",
    "Terms",
    "Upload",
    "check_files",
    "check_repo",
    "collect_terms",
    "export",
    "get_contract",
    "list_trained",
    "list_uploads",
    "load_exportable",
    "name_backbone",
    "push",
    "read_configurations",
    "verify",
]

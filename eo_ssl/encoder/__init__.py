"""Encoders: images behind a preprocessing contract to features; trained ones from files, external ones by name."""

from __future__ import annotations

from eo_ssl.encoder.contracts import PublishedContract, derive_contract
from eo_ssl.encoder.empirical import FITTED, EmpiricalFeatures, draw_patches
from eo_ssl.encoder.encoder_translation import translate_encoder
from eo_ssl.encoder.external import ExternalEncoder, Readout
from eo_ssl.encoder.foreign_backbone import rebuild_backbone
from eo_ssl.encoder.fused_encoder import FUSION_FILE, FusedEncoder, is_fused, load_fused_encoder, save_fusion
from eo_ssl.encoder.kept_folders import list_kept, locate_kept
from eo_ssl.encoder.loading import WEIGHT_FREE, load_encoder
from eo_ssl.encoder.location_file import load_location_encoder, save_location_encoder
from eo_ssl.encoder.owed_licences import collect_licences
from eo_ssl.encoder.protocol import Encoder, EncoderBase, hash_tensors
from eo_ssl.encoder.specs import has_task_contract, is_spec
from eo_ssl.encoder.storage import ENCODER_FILE, check_encoder, save_encoder
from eo_ssl.encoder.torchgeo_weights import list_weights
from eo_ssl.encoder.trained import TrainedEncoder
from eo_ssl.encoder.weight_free import ImageStats, RandomFeatures, RandomResNet

__all__ = [
    "ENCODER_FILE",
    "FITTED",
    "FUSION_FILE",
    "WEIGHT_FREE",
    "EmpiricalFeatures",
    "Encoder",
    "EncoderBase",
    "ExternalEncoder",
    "FusedEncoder",
    "ImageStats",
    "PublishedContract",
    "RandomFeatures",
    "RandomResNet",
    "Readout",
    "TrainedEncoder",
    "check_encoder",
    "collect_licences",
    "derive_contract",
    "draw_patches",
    "has_task_contract",
    "hash_tensors",
    "is_fused",
    "is_spec",
    "list_kept",
    "list_weights",
    "load_encoder",
    "load_fused_encoder",
    "locate_kept",
    "rebuild_backbone",
    "save_encoder",
    "save_fusion",
    "load_location_encoder",
    "save_location_encoder",
    "translate_encoder",
]

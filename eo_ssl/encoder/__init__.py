"""Encoders: anything that maps the input of its preprocessing contract to features; ours saved and loaded, others' by name."""

from __future__ import annotations

from eo_ssl.encoder.contracts import published, weights_contract
from eo_ssl.encoder.empirical import FITTED, EmpiricalFeatures, patch_places
from eo_ssl.encoder.foreign import ForeignEncoder, Form
from eo_ssl.encoder.protocol import Encoder
from eo_ssl.encoder.specs import by_training, is_spec
from eo_ssl.encoder.storage import ENCODER_FILE, WEIGHT_FREE, load_encoder, save_encoder
from eo_ssl.encoder.vit import Pooling, VitEncoder
from eo_ssl.encoder.weight_free import ImageStats, RandomFeatures, RandomResNet

__all__ = [
    "ENCODER_FILE",
    "FITTED",
    "WEIGHT_FREE",
    "EmpiricalFeatures",
    "Encoder",
    "ForeignEncoder",
    "Form",
    "ImageStats",
    "Pooling",
    "RandomFeatures",
    "RandomResNet",
    "VitEncoder",
    "by_training",
    "is_spec",
    "load_encoder",
    "patch_places",
    "published",
    "save_encoder",
    "weights_contract",
]

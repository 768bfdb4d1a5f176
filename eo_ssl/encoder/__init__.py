"""Encoders: anything that maps the input of its preprocessing contract to features, and how ours are saved and loaded."""

from __future__ import annotations

from eo_ssl.encoder.protocol import Encoder
from eo_ssl.encoder.storage import ENCODER_FILE, WEIGHT_FREE, load_encoder, save_encoder
from eo_ssl.encoder.vit import Pooling, VitEncoder
from eo_ssl.encoder.weight_free import ImageStats, RandomFeatures, RandomResNet

__all__ = [
    "ENCODER_FILE",
    "WEIGHT_FREE",
    "Encoder",
    "ImageStats",
    "Pooling",
    "RandomFeatures",
    "RandomResNet",
    "VitEncoder",
    "load_encoder",
    "save_encoder",
]

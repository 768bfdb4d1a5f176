"""Training of an encoder: data, sampler, augmentation, the one LightningModule, dynamic pruning, monitors, resume."""

from __future__ import annotations

from eo_ssl.pretraining.augmentation import DEFAULT_AUGMENT, Augmentation, AugmentConfig
from eo_ssl.pretraining.data import Choice, Material, TileSource, gather
from eo_ssl.pretraining.fit import FitConfig, fit
from eo_ssl.pretraining.loader import TileData, TileLoader
from eo_ssl.pretraining.module import OptimizerConfig, Pretraining
from eo_ssl.pretraining.monitors import Probe, feature_std, make_probe, rank_me
from eo_ssl.pretraining.pruning import DynamicPruning, Pruning
from eo_ssl.pretraining.sampler import TileSampler

__all__ = [
    "DEFAULT_AUGMENT",
    "AugmentConfig",
    "Augmentation",
    "Choice",
    "DynamicPruning",
    "FitConfig",
    "Material",
    "OptimizerConfig",
    "Pretraining",
    "Probe",
    "Pruning",
    "TileData",
    "TileLoader",
    "TileSampler",
    "TileSource",
    "feature_std",
    "fit",
    "gather",
    "make_probe",
    "rank_me",
]

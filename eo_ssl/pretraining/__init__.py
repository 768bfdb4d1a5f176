"""Training of encoders: items, sampler, views, the one LightningModule, dynamic pruning, monitors, resume."""

from __future__ import annotations

from eo_ssl.pretraining.adaptation import Adaptation, Frozen, Lora, Whole, count_trained
from eo_ssl.pretraining.branching import Branch, open_start
from eo_ssl.pretraining.checkpoints import parse_limit
from eo_ssl.pretraining.collapse_guard import CollapseGuard, GuardConfig
from eo_ssl.pretraining.compilation import compile_blocks, require_compiler
from eo_ssl.pretraining.continued_data import open_continued_data
from eo_ssl.pretraining.encoder_training import train_encoder
from eo_ssl.pretraining.fit import FitConfig, fit
from eo_ssl.pretraining.initial_encoder import InitialEncoder
from eo_ssl.pretraining.initial_pair import InitialPair
from eo_ssl.pretraining.items import Items, Pairs, Places, Tiles, require_places
from eo_ssl.pretraining.loader import ItemData, ItemLoader
from eo_ssl.pretraining.module import OptimizerConfig, Pretraining
from eo_ssl.pretraining.monitors import LabelledProbe, make_probe, measure_feature_std, rank_me
from eo_ssl.pretraining.pretrain_config import PretrainConfig
from eo_ssl.pretraining.processes import LoggerName, Precision, Processes
from eo_ssl.pretraining.pruning import DynamicPruning, Pruning
from eo_ssl.pretraining.sampler import ItemSampler, count_steps
from eo_ssl.pretraining.saving import list_files, save_encoders
from eo_ssl.pretraining.tile_source import TileSource
from eo_ssl.pretraining.training_data import DataSelection, TrainingData, open_training_data
from eo_ssl.pretraining.view_maker import ItemBatch, ViewMaker

__all__ = [
    "Adaptation",
    "DataSelection",
    "DynamicPruning",
    "FitConfig",
    "Frozen",
    "Branch",
    "CollapseGuard",
    "GuardConfig",
    "InitialEncoder",
    "InitialPair",
    "ItemBatch",
    "ItemData",
    "ItemLoader",
    "ItemSampler",
    "Items",
    "LabelledProbe",
    "LoggerName",
    "Lora",
    "OptimizerConfig",
    "Pairs",
    "Places",
    "Precision",
    "PretrainConfig",
    "Pretraining",
    "Processes",
    "Pruning",
    "TileSource",
    "Tiles",
    "TrainingData",
    "ViewMaker",
    "Whole",
    "compile_blocks",
    "count_steps",
    "count_trained",
    "measure_feature_std",
    "fit",
    "make_probe",
    "open_continued_data",
    "open_start",
    "open_training_data",
    "parse_limit",
    "rank_me",
    "require_compiler",
    "require_places",
    "list_files",
    "save_encoders",
    "train_encoder",
]

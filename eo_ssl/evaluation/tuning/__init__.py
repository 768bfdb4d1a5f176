"""Trained protocols: an encoder, or a head on its maps, is fitted to a task, and the test items are predicted."""

from __future__ import annotations

from eo_ssl.evaluation.tuning.prediction import predict_tuned
from eo_ssl.evaluation.tuning.stacked_encoder import StackedEncoder
from eo_ssl.evaluation.tuning.training_cost import TrainingCost, estimate_fold_cost
from eo_ssl.evaluation.tuning.tuning_config import TUNED, VECTOR_KINDS, TunedProtocol, Tuning, check_tuned

__all__ = [
    "StackedEncoder",
    "TUNED",
    "TrainingCost",
    "TunedProtocol",
    "VECTOR_KINDS",
    "Tuning",
    "check_tuned",
    "estimate_fold_cost",
    "predict_tuned",
]

"""Trained protocols: an encoder, or a head on its maps, is fitted to a task by gradient descent, and the test items are answered."""

from __future__ import annotations

from eo_ssl.evaluation.tuning.prediction import predict_tuned
from eo_ssl.evaluation.tuning.training_cost import Work, estimate_fold_cost
from eo_ssl.evaluation.tuning.tuning_config import KINDS, TUNED, Tuned, Tuning, check_tuned, describe

__all__ = [
    "KINDS",
    "TUNED",
    "Tuned",
    "Tuning",
    "Work",
    "check_tuned",
    "describe",
    "predict_tuned",
    "estimate_fold_cost",
]

"""Any encoder x any task x protocol -> rows of results with confidence intervals; it computes and draws nothing."""

from __future__ import annotations

from eo_ssl.evaluation import knn
from eo_ssl.evaluation.benchmarks import BENCHMARKS, Benchmark, load_benchmark
from eo_ssl.evaluation.candidates import Candidate
from eo_ssl.evaluation.compatibility import check_compatibility, estimate_training_cost
from eo_ssl.evaluation.features import Computing, Features, choose_device, extract_features
from eo_ssl.evaluation.fused_candidates import extract_joint
from eo_ssl.evaluation.mstar import SHOTS, make_mstar_task
from eo_ssl.evaluation.predictions import Settings
from eo_ssl.evaluation.preprocessing_variants import NORMALISATIONS, RESIZERS, Normalisation, Resizer
from eo_ssl.evaluation.protocols import DEFAULT, PROTOCOLS
from eo_ssl.evaluation.result_rows import SUPERSEDED, Row, judge
from eo_ssl.evaluation.results_folder import Render, ResultsFolder
from eo_ssl.evaluation.seed_contrasts import (
    PLACE,
    ContrastPlan,
    SeedContrasts,
    TrainingCurve,
    collect_curves,
    compare_seeds,
)
from eo_ssl.evaluation.seeds import BASELINES, load_candidates
from eo_ssl.evaluation.sources import (
    CorpusSource,
    ImageSource,
    SourceSubset,
    locate_rows,
    open_corpus_source,
    read_ahead,
    read_images,
)
from eo_ssl.evaluation.spatial_leakage import note_spatial_leakage
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.studies import Study, VariantGrid, expand_study
from eo_ssl.evaluation.task_metrics import METRIC_WORDS
from eo_ssl.evaluation.task_options import TASKS, TaskOptions, open_task
from eo_ssl.evaluation.tasks import HeldOut, Task, make_corpus_task
from eo_ssl.evaluation.tuning import Tuning, predict_tuned

__all__ = [
    "BASELINES",
    "BENCHMARKS",
    "TASKS",
    "DEFAULT",
    "METRIC_WORDS",
    "NORMALISATIONS",
    "PLACE",
    "PROTOCOLS",
    "RESIZERS",
    "SHOTS",
    "SUPERSEDED",
    "Benchmark",
    "Candidate",
    "Computing",
    "ContrastPlan",
    "CorpusSource",
    "Features",
    "Fold",
    "HeldOut",
    "ImageSource",
    "Normalisation",
    "Render",
    "Resizer",
    "ResultsFolder",
    "Row",
    "SeedContrasts",
    "Settings",
    "SourceSubset",
    "Study",
    "Task",
    "TaskOptions",
    "TrainingCurve",
    "Tuning",
    "VariantGrid",
    "check_compatibility",
    "choose_device",
    "compare_seeds",
    "estimate_training_cost",
    "expand_study",
    "extract_features",
    "extract_joint",
    "judge",
    "knn",
    "load_benchmark",
    "load_candidates",
    "locate_rows",
    "make_corpus_task",
    "make_mstar_task",
    "note_spatial_leakage",
    "open_corpus_source",
    "open_task",
    "predict_tuned",
    "read_ahead",
    "read_images",
    "collect_curves",
]

"""Sections of the report, a module each: what the products of a stage say, as values that a template shows."""

from eo_ssl.reporting.sections.bundles import BundleView, describe_bundle
from eo_ssl.reporting.sections.contrasts import ContrastView, describe_contrasts
from eo_ssl.reporting.sections.corpora import CorpusView, describe_corpus
from eo_ssl.reporting.sections.lineage import list_packages, list_steps, sum_costs
from eo_ssl.reporting.sections.pairings import PairView, describe_pairings
from eo_ssl.reporting.sections.prunings import PruningView, describe_prunings
from eo_ssl.reporting.sections.scores import TaskScores, group_scores
from eo_ssl.reporting.sections.subsets import SubsetView, describe_subset
from eo_ssl.reporting.sections.trainings import Training, describe_trainings
from eo_ssl.reporting.sections.vectors import EmbeddingView, describe_embeddings

__all__ = [
    "BundleView",
    "ContrastView",
    "CorpusView",
    "EmbeddingView",
    "PairView",
    "PruningView",
    "SubsetView",
    "TaskScores",
    "Training",
    "describe_bundle",
    "describe_contrasts",
    "describe_corpus",
    "describe_embeddings",
    "describe_pairings",
    "describe_prunings",
    "describe_subset",
    "describe_trainings",
    "group_scores",
    "list_packages",
    "list_steps",
    "sum_costs",
]

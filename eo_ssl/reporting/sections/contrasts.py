"""Studies of recipes trained with the same seeds: what they won seed by seed, and their quality against compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eo_ssl.evaluation import SeedContrasts
from eo_ssl.reporting.charts import Chart
from eo_ssl.reporting.contrast_tables import tabulate_seed_contrasts
from eo_ssl.reporting.leaderboard_tables import ScoreTable
from eo_ssl.reporting.products import FinishedProduct, expect_sound, read_json
from eo_ssl.reporting.training_figures import draw_training_charts, list_training_studies


@dataclass(frozen=True, slots=True)
class ContrastView:
    """What one evaluation compared seed by seed and along training."""

    name: str
    "folder name of the results"
    anchor: str
    "id in the page"
    figures: tuple[Chart, ...]
    "curves"
    tables: tuple[ScoreTable, ...]
    "differences, course of training, compute to a score"


def describe_contrasts(results: Sequence[FinishedProduct]) -> list[ContrastView]:
    """One view per `evaluate` product that has anything of the kind.

    Raises:
        UserError: a product is not as its stage makes it.
    """
    views: list[ContrastView] = []
    for product in results:
        with expect_sound(product):
            contrasts = SeedContrasts.read(product.path)
            rows = [read_json(file) for file in sorted((product.path / "rows").glob("*.json"))]
            whole = [row for row in rows if row.get("pretraining_seeds") and "reference" in row]
            first = None if contrasts is None else contrasts.plan.against  # files have names in no order
            whole.sort(key=lambda row: (row["encoder"] != first, str(row["encoder"])))
            tables = tabulate_seed_contrasts(whole, contrasts)
            figures = [
                chart for study in list_training_studies(whole, contrasts) for chart in draw_training_charts(study)
            ]
        if tables:
            views.append(ContrastView(product.name, f"contrasts-{len(views) + 1}", tuple(figures), tuple(tables)))
    return views

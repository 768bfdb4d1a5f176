"""A study that a kind of task does not have is refused before anything is trained, and what is named instead can be run."""

from __future__ import annotations

from pathlib import Path

import pytest

from eo_ssl.errors import UserError
from eo_ssl.evaluation.encoder_candidates import TrainedCandidate
from eo_ssl.evaluation.features import Computing
from eo_ssl.evaluation.predictions import Settings
from eo_ssl.evaluation.result_rows import judge
from eo_ssl.evaluation.studies import VariantGrid, expand_study
from eo_ssl.evaluation.tuning import Tuning
from tuned_tasks import classes, masked, vit

SHORT = Tuning(steps=2, rates=(1e-3,), batch_size=8)


def candidate() -> TrainedCandidate:
    made = vit()
    return TrainedCandidate("ours", made)


def test_masks_have_no_study_of_robustness_but_the_two_that_are_named(tmp_path: Path) -> None:
    task, grid = masked(24, test=8), VariantGrid.of([16], ["contract"], None)
    with pytest.raises(UserError, match=r"got planted segmentation, a task of masks; its studies are compare and grid"):
        expand_study([candidate()], task, "robustness", grid=grid, seed=0)
    settings = Settings.of(["seg-linear"], kind="segmentation", shots=[0], draws=1, seed=0, tuning=SHORT)
    for study in ("compare", "grid"):
        compared = expand_study([candidate()], task, study, grid=grid, seed=0)  # type: ignore[arg-type]
        rows, _ = judge(task, compared, settings, tmp_path / study, computing=Computing())
        assert [row["encoder"] for row in rows] == [one.name for one in compared]


def test_trained_encoders_on_perturbed_images_are_refused_with_what_is_possible(tmp_path: Path) -> None:
    task = classes(24, test=8)
    compared = expand_study([candidate()], task, "robustness", grid=VariantGrid(), seed=0)
    settings = Settings.of(["finetune"], shots=[0], draws=1, seed=0, tuning=SHORT)
    with pytest.raises(
        UserError, match=r"for the study robustness, got finetune; choose out of knn5, .*linear-sgd, or"
    ):
        judge(task, compared, settings, tmp_path, computing=Computing())

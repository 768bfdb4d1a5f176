"""How much is trained is known before, and what was trained before a stop is not trained again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eo_ssl.errors import UserError
from eo_ssl.evaluation.compatibility import estimate_training_cost
from eo_ssl.evaluation.draws import draw
from eo_ssl.evaluation.encoder_candidates import TrainedCandidate
from eo_ssl.evaluation.features import Computing
from eo_ssl.evaluation.predictions import Settings, predict_trained
from eo_ssl.evaluation.result_rows import judge
from eo_ssl.evaluation.seeds import load_candidates
from eo_ssl.evaluation.tasks import Task
from eo_ssl.evaluation.tuning import Tuning, estimate_fold_cost, fitting, predict_tuned, prediction
from tuned_tasks import classes, masked, vit

SHORT = Tuning(steps=4, rates=(3e-4, 1e-3), batch_size=8)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The rate of every optimizer step that is taken."""
    taken: list[float] = []

    class Counted(fitting.LayerwiseAdamW):
        def step(self, loss: Any) -> None:
            taken.append(self._rate)
            super().step(loss)

    monkeypatch.setattr(fitting, "LayerwiseAdamW", Counted)
    return taken


@pytest.mark.parametrize(
    ("task", "protocol", "config"),
    [
        (classes(40, test=8), "finetune", SHORT),  # a fifth is held out, then all is fitted anew
        (classes(40, test=8, validation=8), "finetune", SHORT),  # the declared split chooses rate and state
        (classes(40, test=8, validation=8), "lora", Tuning(steps=25, rates=(1e-3, 2e-3, 3e-3), batch_size=8)),
        (classes(40, test=8, validation=8), "finetune", Tuning(steps=4, rates=(3e-4, 1e-3), selection="last")),
        (classes(40, test=8), "finetune", Tuning(epochs=2, rates=(1e-3,), batch_size=8)),  # at least 200 steps
        (masked(24, test=8), "seg-linear", SHORT),
    ],
)
def test_the_work_that_is_said_is_the_work_that_is_done(
    task: Task, protocol: str, config: Tuning, steps: list[float]
) -> None:
    counted: list[int] = []
    fold = task.folds[0]
    said = estimate_fold_cost(task, fold, fold.train, protocol=protocol, config=config)
    predict_tuned(task, fold, vit(), fold.train, protocol=protocol, config=config, progress=counted.append)
    assert (said.steps, said.images) == (len(steps), sum(counted))


def test_an_evaluation_says_all_of_its_work_before_it_starts(steps: list[float], tmp_path: Path) -> None:
    task, counted, made = classes(40, test=8), list[int](), vit()
    compared = (TrainedCandidate("ours", made), *load_candidates(["imagestats"]))
    settings = Settings.of(["finetune", "lora"], shots=[2, 0], draws=3, seed=0, tuning=SHORT)
    ahead = estimate_training_cost(task, compared, settings)
    judge(task, compared[:1], settings, tmp_path, computing=Computing(progress=counted.append))
    assert (ahead.steps, ahead.images) == (len(steps), sum(counted))
    assert ahead.trainings == 2 * (3 + 1) * 3  # two protocols; three draws and the whole; two rates and the last
    assert ahead.label.startswith("96 steps in 24 trainings, ")
    knn = Settings.of(["knn5"], shots=[0], draws=1, seed=0)
    assert estimate_training_cost(task, compared, knn).steps == 0


class Stopped(Exception):
    """Somebody ends the run."""


@pytest.mark.parametrize("validation", [0, 8])
def test_a_stopped_run_goes_on_from_the_trainings_it_has(
    validation: int, steps: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, made = classes(40, test=8, validation=validation), vit()
    one = TrainedCandidate("ours", made)
    settings = Settings.of(["finetune"], shots=[0 if validation else 5], draws=2, seed=0, tuning=SHORT)
    drawn = draw(task, settings.amounts[0], draws=2, seed=0)

    def run(parts: Path | None) -> np.ndarray:
        steps.clear()
        return predict_trained(task, one, drawn, protocol="finetune", config=SHORT, computing=Computing(), parts=parts)

    whole = run(None)
    all_steps = len(steps)
    fit, fitted = prediction.fit, list[float]()

    def fails(*args: Any, rate: float, **how: Any) -> Any:
        if len(fitted) == (1 if validation else 4):  # in the first draw, or in the second
            raise Stopped
        fitted.append(rate)
        return fit(*args, rate=rate, **how)

    with monkeypatch.context() as broken:
        broken.setattr(prediction, "fit", fails)
        with pytest.raises(Stopped):
            run(tmp_path)
    done = len(steps)
    assert 0 < done < all_steps
    assert np.array_equal(run(tmp_path), whole)
    assert len(steps) == all_steps - done  # not one step twice
    assert np.array_equal(run(tmp_path), whole) and not steps


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    task = classes(40, test=8)
    fold = task.folds[0]
    how: dict[str, Any] = {"protocol": "finetune", "config": SHORT, "parts": tmp_path}
    predict_tuned(task, fold, vit(), fold.train, **how)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.npz", "rate-0.0003.npz", "rate-0.001.npz"]
    (tmp_path / "answers.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"expected a finished training in .*answers\.npz, got \w+; remove that file"):
        predict_tuned(task, fold, vit(), fold.train, **how)

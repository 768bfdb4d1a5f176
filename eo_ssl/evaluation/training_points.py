"""Encoders as they were along their training, beside what it ended with: candidates of the study `training`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eo_ssl.encoder import list_kept, load_encoder
from eo_ssl.errors import expect
from eo_ssl.evaluation.candidates import Candidate
from eo_ssl.evaluation.encoder_candidates import TrainedCandidate
from eo_ssl.evaluation.seeds import SeedRuns


@dataclass(frozen=True)
class EarlierCandidate(TrainedCandidate):
    """An encoder as it was after a step of the training whose last one is its baseline."""

    step: int

    @property
    def note(self) -> str:
        """Which step."""
        return f"as it was after step {self.step} of its training"

    @property
    def own_weights(self) -> bool:
        """They are others than those of the last step."""
        return True

    @property
    def input_variant(self) -> dict[str, Any] | None:
        """The step: the input is that of the last one, the encoder an earlier one."""
        return {"step": self.step}


def expand_training(compared: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Return each candidate, then what its training kept (`training.encoders_at`): steps that all its runs have.

    Raises:
        UserError: no run kept any.
    """
    expanded = [(candidate, *_list_points(candidate)) for candidate in compared]
    expect(
        any(len(family) > 1 for family in expanded),
        expected="a run that kept encoders along its training for the study training",
        got=", ".join(candidate.name for candidate in compared),
        remedy="train with --training.encoders_at, or choose another study",
    )
    return tuple(candidate for family in expanded for candidate in family)


def _list_points(candidate: Candidate) -> list[Candidate]:
    """What all runs of a candidate kept, by step."""
    runs = [run for run in candidate.runs if isinstance(run, TrainedCandidate)]
    if len(runs) < len(candidate.runs):
        return []
    kept = [_list_names(run.origin) for run in runs]
    points: list[Candidate] = []
    for step in (step for step in kept[0] if all(step in others for others in kept)):
        members = tuple(
            EarlierCandidate(
                f"{run.name} | step {step}", load_encoder(of[step]), step, origin=of[step], baseline=run.name
            )
            for run, of in zip(runs, kept, strict=True)
        )
        name, last = f"{candidate.name} | step {step}", candidate.name
        alone = len(members) == 1
        points.append(
            replace(members[0], name=name, baseline=last) if alone else SeedRuns(name, members, baseline=last)
        )
    return points


def _list_names(origin: str) -> dict[int, str]:
    """Encoders that the run in a folder kept, by step, each with the options that stand behind the folder."""
    folder, asked, options = (origin, "", "") if Path(origin).exists() else origin.partition("?")
    return {step: f"{path}{asked}{options}" for step, path in list_kept(Path(folder)).items()}

"""When is a run collapsing? Thresholds on what is watched, and a sentence with what to try; it warns or stops."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from eo_ssl.errors import UserError, expect

SURE = 2.0  # standard errors by which the accuracy of the nearest neighbours must lie below its threshold (ours)
SKILL_SEEN = 0.2  # of the nearest neighbours at their best, below which their fall says nothing (ours)
ALIKE = (
    "see that the tiles differ and are not empty, lower lr, lengthen the warm-up, or raise the momentum of the teacher"
)
REMEDIES = {
    "rankme": ALIKE,
    "feature_std": ALIKE,
    "uniformity": ALIKE,
    "projection_std": f"{ALIKE}; a method without negatives needs its predictor, its centring or its variance term",
    "projection_rank": "raise the weight of the term that makes channels differ (redundancy, covariance), weaken the"
    " noise of the views, or lower lr",
    "teacher_entropy": "all items are of one class: let the centre follow faster (center_momentum 0.9), raise the"
    " temperature of the teacher, or lower lr",
    "teacher_certainty": "no item is of any class: lower the temperature of the teacher, or raise center_momentum",
    "knn_accuracy": "lower lr, or begin again from the checkpoint before it fell",
}
"""What to try, by measure."""


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class GuardConfig:
    """When a run counts as collapsing, and what happens then; nothing here changes what is learned."""

    action: Literal["warn", "stop", "ignore"] = "warn"
    """Print a sentence; stop with an error and a checkpoint, from which the same command goes on; or neither."""
    looks: int = 2
    """Looks in a row that must find the same, for the features of a sound run may draw together at its beginning: one
    of 1000 steps of Mae on radar tiles had a feature_std of .06 at step 100, and .48 at step 200 (ours)."""
    rankme: float = 1.5
    """Least effective rank of the features: 1 when they lie on a line (Garrido et al. 2023). Sound runs of this project
    had 2.2 and more, collapsed ones 1.0 to 1.5 (ours)."""
    feature_std: float = 0.05
    """Least spread of the features on the unit sphere times sqrt(D): 0 when collapsed, near 1 when spread evenly (Chen
    and He 2021, section 4.1). Sound runs of this project had .09 and more, collapsed ones .04 and less (ours)."""
    uniformity: float = -0.01
    """Largest uniformity of the features: 0 when collapsed (Wang and Isola 2020, equation 2). The same spread as a
    feature_std of 0.05, where it is that small (ours)."""
    projection_std: float = 0.05
    """Least spread of what the loss compares, as `feature_std` (ours)."""
    projection_rank: float = 3.0
    """Least number of channels in what the loss compares that are no copies of each other, where the loss asks for it
    (Barlow Twins, VICReg). Sound runs of this project had 4 and more, without the term 1.6 to 2.5 (ours)."""
    teacher_entropy: float = 0.05
    """Least entropy of a teacher's mean class, as a share of the largest: 0 when all items are of one class (Caron et
    al. 2021, section 5.3); of 65,536 classes the threshold leaves 1.7 in use (ours)."""
    teacher_certainty: float = 0.001
    """Least certainty of a teacher's classes: 0 when none is preferred (the same). Random weights have .01 (ours)."""
    knn_share: float = 0.5
    """Share of its best skill that the online kNN accuracy must keep; skill is what lies above the share of the
    commonest class, and says something from a best of 0.2 on. Sound runs keep .7 and more (ours)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        expect(self.looks >= 1, expected="looks of at least 1", got=self.looks, remedy="try 2")
        expect(
            self.action in ("warn", "stop", "ignore"),
            expected="action out of warn, stop, ignore",
            got=repr(self.action),
            remedy="choose one",
        )
        expect(0 <= self.knn_share < 1, expected="knn_share from 0 to below 1", got=self.knn_share, remedy="try 0.5")


class CollapseGuard:
    """Judges every look at a run; what it remembers is in `state`, plain values that travel in the checkpoint."""

    def __init__(self, config: GuardConfig) -> None:
        """Judge by the thresholds of `config`."""
        self.config = config
        self.looks: dict[str, int] = {}
        """Looks in a row in which a measure was beyond its threshold."""
        self.best_skill = 0.0
        """Of the online nearest neighbours."""
        self.sentence: str | None = None
        """What the latest look found, where it has been so for long enough."""

    @property
    def stops(self) -> bool:
        """Whether the run is to end."""
        return self.sentence is not None and self.config.action == "stop"

    def judge(
        self, values: Mapping[str, float], *, step: int, chance: float | None = None, tiles: int | None = None
    ) -> str | None:
        """The sentence about a run that is collapsing, where enough looks in a row have found it so.

        Args:
            values: what was measured in this look; measures that are absent are not judged.
            step: steps done.
            chance: share of the commonest class, where there is a `knn_accuracy`.
            tiles: that it was measured on; None for as many as make it exact.
        """
        if self.config.action == "ignore":
            return None
        found = {
            name: text
            for name, value in values.items()
            if name in REMEDIES and (text := self._find_fault(name, value, chance, tiles)) is not None
        }
        self.looks = {name: self.looks.get(name, 0) + 1 for name in found}
        lasting = [name for name, number in self.looks.items() if number >= self.config.looks]
        self.sentence = None
        if lasting:
            facts = ", ".join(found[name] for name in lasting)
            remedies = "; ".join(dict.fromkeys(REMEDIES[name] for name in lasting))
            self.sentence = (
                f"expected features that differ from tile to tile, got {facts} in {self.config.looks} looks in a row by"
                f" step {step}: the run is collapsing; {remedies}"
            )
        return self.sentence

    def _find_fault(self, name: str, value: float, chance: float | None, tiles: int | None) -> str | None:
        """What is wrong with a value, or None."""
        if name == "knn_accuracy":
            if chance is None or chance >= 1:
                return None
            skill = (value - chance) / (1 - chance)
            self.best_skill = max(self.best_skill, skill)
            least = chance + self.config.knn_share * self.best_skill * (1 - chance)
            error = 0.0 if tiles is None else math.sqrt(value * (1 - value) / tiles)  # of a share of so many
            bad = self.best_skill >= SKILL_SEEN and value + SURE * error < least
            return f"{name} {value:.3g} below {least:.3g}" if bad else None
        threshold = getattr(self.config, name)
        bad = value > threshold if name == "uniformity" else value < threshold
        return f"{name} {value:.3g} {'above' if name == 'uniformity' else 'below'} {threshold:g}" if bad else None

    def expect_sound(self) -> None:
        """End a run that is to stop.

        Raises:
            UserError: saying what was found and what to try.
        """
        if self.stops:
            raise UserError(
                f"{self.sentence}; a checkpoint is kept, from which the same command goes on: with --guard.action warn"
                " to its end"
            )

    def state_dict(self) -> dict[str, Any]:
        """What was found so far."""
        return {"looks": dict(self.looks), "best_skill": self.best_skill, "sentence": self.sentence}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.looks, self.best_skill = dict(state["looks"]), float(state["best_skill"])
        self.sentence = state["sentence"]

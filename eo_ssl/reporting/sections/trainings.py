"""Trainings of encoders: curves from the log, key numbers and settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eo_ssl.reporting.charts import MOST_POINTS, Chart, Series, draw_lines
from eo_ssl.reporting.formatting import flatten_config, format_duration, format_number, format_title
from eo_ssl.reporting.products import FinishedProduct, expect_sound, read_lines, read_list
from eo_ssl.reporting.svg import render_svg

# key in log.jsonl -> title, y label, caption, log y, y from zero
CURVES: dict[str, tuple[str, str, str, bool, bool]] = {
    "loss": (
        "Loss",
        "loss",
        "The training objective. Comparable within one run, not between objectives.",
        False,
        False,
    ),
    "rankme": (
        "RankMe",
        "effective rank",
        "Effective rank of a batch of features (Garrido et al. 2023). A fall towards 1 is collapse.",
        False,
        True,
    ),
    "feature_std": (
        "Feature spread",
        "mean std",
        "Mean standard deviation of the features over a batch. Near zero, all tiles look alike to the encoder.",
        False,
        True,
    ),
    "uniformity": (
        "Uniformity",
        "uniformity",
        "How evenly features lie on the sphere (Wang and Isola 2020); lower is more even. At 0 all tiles are alike.",
        False,
        False,
    ),
    "projection_std": (
        "Spread of what the loss compares",
        "mean std",
        "Mean standard deviation behind the head. Near zero, all tiles look alike to the loss.",
        False,
        True,
    ),
    "projection_rank": (
        "Channels in use",
        "different channels",
        "Channels of what the loss compares that are no copies of each other. A fall towards 1 is collapse.",
        False,
        True,
    ),
    "teacher_entropy": (
        "Classes of the teacher",
        "share of the largest entropy",
        "How evenly the teacher uses its classes over a batch. At 0 all tiles have one class.",
        False,
        True,
    ),
    "teacher_certainty": (
        "Certainty of the teacher",
        "certainty",
        "How sure the teacher is of the class of a tile. At 0 it is sure of none.",
        False,
        True,
    ),
    "knn_accuracy": (
        "Online kNN",
        "accuracy",
        "Nearest-neighbour accuracy while training; a monitor, not a result.",
        False,
        False,
    ),
    "lr": ("Learning rate", "learning rate", "Schedule in optimizer steps.", False, True),
    "images_per_s": (
        "Speed",
        "tiles per second",
        "Tiles through the whole training step, monitors left out.",
        False,
        True,
    ),
    "pool": ("Pool", "tiles", "Tiles that the sampler may draw from; it changes at each pruning event.", False, True),
}
COUNTS = ("step", "presentations", "collapsing")  # of a line of the log, no curves
SUMMARY_WORDS = {
    "objective": "Objective",
    "parameters": "Parameters",
    "tiles": "Training tiles",
    "steps": "Optimizer steps",
    "presentations": "Tiles presented",
    "step": "Encoder after step",
    "views": "Views of each",
    "curation_passes": "Embedded for curation",
    "forward_equivalents": "Forward equivalents",
    "clustering_s": "Seconds of clustering",
    "loss_first": "First loss",
    "loss_last": "Last loss",
    "rankme": "RankMe at the end",
    "feature_std": "Feature spread at the end",
    "knn_accuracy": "Online kNN at the end",
    "images_per_s": "Images per second",
    "collapse_warnings": "Warnings of collapse",
}


@dataclass(frozen=True, slots=True)
class Training:
    """One encoder's training."""

    name: str
    "folder name"
    anchor: str
    "id in the page"
    facts: tuple[tuple[str, str], ...]
    "key numbers"
    figures: tuple[Chart, ...]
    "curves"
    config: tuple[tuple[str, str], ...]
    "resolved settings, flattened"
    note: str
    "what is missing, said plainly"


def describe_trainings(encoders: Sequence[FinishedProduct]) -> list[Training]:
    """One view per `pretrain` product."""
    trainings = []
    for position, encoder in enumerate(encoders):
        with expect_sound(encoder):
            trainings.append(_training(encoder, position))
    return trainings


def _training(encoder: FinishedProduct, position: int) -> Training:
    log = read_lines(encoder.path / "log.jsonl")
    events = read_list(encoder.path / "pruning" / "events.json")
    manifest = encoder.manifest
    known = [key for key in SUMMARY_WORDS if key in manifest.summary]
    keys = [*known, *(key for key in manifest.summary if key not in SUMMARY_WORDS)]
    facts = [
        (SUMMARY_WORDS.get(k, format_title(k)), format_number(manifest.summary[k]))
        for k in keys
        if _is_small(manifest.summary[k])
    ]
    facts += [("Wall time", format_duration(manifest.wall_s)), ("Seed", format_number(manifest.seed))]
    steps = _event_steps(log, events)
    own = [key for key in dict.fromkeys(key for row in log for key in row) if key not in (*CURVES, *COUNTS)]
    drawn = (draw_curve(log, key, marks=steps, name=encoder.name) for key in (*CURVES, *own))
    figures = tuple(figure for figure in drawn if figure)
    return Training(
        name=encoder.name,
        anchor=f"training-{position + 1}",
        facts=tuple(facts),
        figures=figures,
        config=tuple(flatten_config(manifest.config)),
        note="" if log else "There is no log.jsonl in this folder, hence no curves.",
    )


def draw_curve(log: Sequence[dict[str, Any]], key: str, *, marks: tuple[float, ...], name: str) -> Chart | None:
    """The curve of a key over the steps; None where the log does not have it, or what it sets or counts never changes.

    A key that is not in `CURVES` is of the objective: a term of its loss, or what it watches.
    """
    points = [(float(r["step"]), float(r[key])) for r in log if _is_number(r.get(key)) and _is_number(r.get("step"))]
    if not points or ((key in ("pool", "lr") or key not in CURVES) and len({y for _, y in points}) == 1):
        return None
    word = format_title(key)
    title, label, caption, log_y, zero = CURVES.get(key, (word, word, "Logged by the objective.", False, False))
    x, y = zip(*points, strict=True)
    ends = [f"{format_number(y[i])} at step {x[i]:.0f}" for i in (0, -1)]
    alt = f"{title} of {name} over {len(x)} logged steps, from {' to '.join(ends)}"
    if marks:
        caption += " Dashed: pruning events."
    if len(x) > MOST_POINTS:
        caption += f" Each point is the mean of {math.ceil(len(x) / MOST_POINTS)} logged steps."
    figure = draw_lines(
        [Series(title, x, y)], x_label="optimizer step", y_label=label, log_y=log_y, zero_y=zero, events=marks
    )
    return Chart(render_svg(figure, alt=alt), title, caption)


def _event_steps(log: Sequence[dict[str, Any]], events: Sequence[dict[str, Any]]) -> tuple[float, ...]:
    """Optimizer steps of the events that changed the pool; the log says how many tiles a step presents."""
    counts: list[tuple[Any, Any]] = [(r.get("presentations"), r.get("step")) for r in log]
    per_step = next((seen / step for seen, step in counts if _is_positive(seen) and _is_positive(step)), None)
    if per_step is None:
        return ()
    changes: list[Any] = [event.get("presentations") for event in events if not event.get("postponed")]
    return tuple(float(seen) / per_step for seen in changes if _is_positive(seen))


def _is_positive(value: Any) -> bool:
    return _is_number(value) and 0 < value < math.inf


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_small(value: object) -> bool:
    return isinstance(value, str | int | float | bool) and len(str(value)) <= 60

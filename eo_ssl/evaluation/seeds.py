"""Candidates by name: folders, weights, specs, weight-free encoders; several seeds as one; pairs for two sensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from eo_ssl.encoder import (
    ENCODER_FILE,
    FITTED,
    WEIGHT_FREE,
    Encoder,
    has_task_contract,
    is_fused,
    is_spec,
    load_encoder,
)
from eo_ssl.errors import UserError, expect
from eo_ssl.evaluation.candidates import Candidate, Description, SensorPair, SingleCandidate, Wrap
from eo_ssl.evaluation.encoder_candidates import FoldCandidate, TrainedCandidate, read_pretraining_seed
from eo_ssl.evaluation.features import ON_CPU, Computing
from eo_ssl.evaluation.fused_candidates import load_fused_pair
from eo_ssl.evaluation.sources import Matrix
from eo_ssl.evaluation.tasks import Task
from eo_ssl.fingerprints import fingerprint

BASELINES = (*WEIGHT_FREE, *FITTED)
"""Encoders that nobody trained, by name."""
_NAME = re.compile(r"[\w][\w. -]*")
_HARMLESS = ("log_every", "monitor_every", "monitor_tiles", "checkpoint_every", "encoders_at", "read_ahead")
"""Options of `eo-ssl pretrain` under ``training`` that change nothing of what is learned."""


@dataclass(frozen=True, slots=True)
class EncoderEntry:
    """One word of a list of encoders, parsed: a name and runs."""

    name: str | None
    "in the results, where one was given"
    runs: tuple[tuple[str, ...], ...]
    "of each run the encoder, or the two encoders of the two sensors of a task"


@dataclass(frozen=True)
class SeedRuns(Candidate):
    """Several runs of one recipe that differ in their seed; their spread is in the confidence interval."""

    members: tuple[Candidate, ...]
    "by seed"

    @property
    def runs(self) -> tuple[Candidate, ...]:
        """The members."""
        return self.members

    @property
    def parts(self) -> tuple[SingleCandidate, ...]:
        """Those of the first run."""
        return self.members[0].parts

    @property
    def input_variant(self) -> dict[str, Any] | None:
        """That of every run."""
        return self.members[0].input_variant

    @property
    def own_weights(self) -> bool:
        """As every run."""
        return self.members[0].own_weights

    @property
    def note(self) -> str:
        """How many runs, and of which seeds."""
        if self.baseline:
            return self.members[0].note
        seeds = ", ".join(str(run.seed) for run in self.members)
        if self.pretrained:
            return f"{len(self.members)} pretraining runs (seeds {seeds}): their spread is in the interval"
        if not self.parts[0].made_for_task:
            return self.members[0].note
        return f"{len(self.members)} draws of random weights (seeds {seeds}), normalised by the training images"

    def identity(self, task: Task) -> str:
        """Return a fingerprint of the weights of all runs."""
        return fingerprint([run.identity(task) for run in self.members])

    def describe(self, task: Task) -> Description:
        """Return what stands beside a number of all runs."""
        each = [run.describe(task) for run in self.members]
        return each[0].relabel(self.note, [one.fingerprint for one in each])

    def features(self, task: Task, computing: Computing = ON_CPU) -> tuple[Matrix, ...]:
        """Return the features by the first run."""
        return self.members[0].features(task, computing)

    def count_images(self, task: Task) -> int:
        """Return the images of all runs."""
        return sum(run.count_images(task) for run in self.members)

    def vary(self, label: str, wrap: Wrap) -> Candidate:
        """Return the runs, each with its input changed."""
        members = tuple(run.vary(label, wrap) for run in self.members)
        return replace(self, name=f"{self.name} | {label}", baseline=self.name, members=members)


def load_candidates(encoders: Sequence[str], *, seed: int = 0) -> tuple[Candidate, ...]:
    """Return the candidates named by folders, weights files, specs or weight-free names, in the order given.

    ``random_init`` takes the architecture of the first trained encoder where that fits, so that training alone is
    compared. Two names joined by ``+`` are the encoders of the two sensors of a task with partners, for which the
    folder of a run that trained an encoder of both is one name; runs joined by commas differ in their
    seed alone and are one candidate, as in ``mae=runs/0,runs/1`` or ``random=rcf@0,rcf@1`` (`parse_entry`).

    Raises:
        UserError: none, one twice, an encoder that cannot be loaded, or runs that differ in more than their seed.
    """
    entries = [parse_entry(text) for text in encoders]
    runs = [run for entry in entries for run in entry.runs]
    expect(
        runs and len(set(runs)) == len(runs),
        expected="encoders, each once",
        got=", ".join(encoders) or "none",
        remedy=f"give folders, torchgeo: or timm: weights, or {', '.join(BASELINES)}",
    )
    loaded = {
        name: load_encoder(name, seed=seed) if is_spec(name) else load_encoder(name)
        for name in dict.fromkeys(name for run in runs if not is_fused(run[0]) for name in run)
        if _parse_weight_free(name) is None and not has_task_contract(name)
    }
    expect(
        len({encoder.fingerprint for encoder in loaded.values()}) == len(loaded),
        expected="different encoders",
        got=f"equal ones among {', '.join(loaded)}",
        remedy="give each once",
    )
    candidates = [_combine_runs(entry.name, [_make_run(run, loaded, seed) for run in entry.runs]) for entry in entries]
    names = [candidate.name for candidate in candidates]
    expect(
        len(set(names)) == len(names),
        expected="a name of its own for each encoder",
        got=", ".join(names),
        remedy="write NAME=FOLDER",
    )
    return tuple(candidates)


def _make_run(run: Sequence[str], loaded: dict[str, Encoder], seed: int) -> SingleCandidate | SensorPair:
    """The candidate of one run: one encoder, one for each of two sensors, or one of two sensors."""
    if len(run) == 1 and is_fused(run[0]):
        return load_fused_pair(run[0])
    parts = [_make_single(name, loaded, seed) for name in run]
    return parts[0] if len(parts) == 1 else SensorPair("+".join(part.name for part in parts), parts[0], parts[1])


def _make_single(name: str, loaded: dict[str, Encoder], seed: int) -> SingleCandidate:
    """The candidate of one encoder by ``name``, trained where it is ``loaded``."""
    trained = loaded.get(name)
    if trained is None:
        origin, drawn = _parse_weight_free(name) or (name, None)
        model = next((one for one in loaded.values() if getattr(one, "architecture", None) is not None), None)
        return FoldCandidate(name, seed if drawn is None else drawn, model, origin=origin)
    names = [encoder.name for encoder in loaded.values()]
    ambiguous = names.count(trained.name) > 1 or trained.name in BASELINES
    path = str(Path(name).parent if name.endswith(ENCODER_FILE) else name)
    return TrainedCandidate(path if ambiguous else trained.name, trained, origin=name if is_spec(name) else path)


def _combine_runs(name: str | None, runs: Sequence[SingleCandidate | SensorPair]) -> Candidate:
    """One candidate of runs that differ in their seed."""
    if len(runs) > 1:
        for same in zip_longest(*(run.parts for run in runs)):
            _check_runs(same)
    joined = list(runs)
    if len(joined) > 1:
        joined.sort(key=lambda run: run.seed)
    chosen = name or ",".join(run.name for run in joined)
    expect(
        chosen not in BASELINES or joined[0].parts[0].origin == chosen,
        expected=f"a name that is no other encoder's for {joined[0].name}",
        got=chosen,
        remedy="choose another",
    )
    return SeedRuns(chosen, tuple(joined)) if len(joined) > 1 else replace(joined[0], name=chosen)


def _check_runs(runs: Sequence[SingleCandidate | None]) -> None:
    """Refuse runs that differ in more than their seed."""
    given = [run for run in runs if run is not None]
    trained = {run.name: run.trained for run in given if isinstance(run, TrainedCandidate)}
    origins = {run.origin for run in given}
    if len(trained) == len(runs):
        seeds = {name: read_pretraining_seed(name, encoder) for name, encoder in trained.items()}
        check_alike(trained)
        check_seeds(seeds)
    elif len(given) == len(runs) and len(origins) == 1 and origins <= set(BASELINES):
        check_seeds({run.name: run.seed for run in given})
    else:
        names = ", ".join(run.name for run in given)
        raise UserError(
            f"expected runs of one recipe, each of as many sensors, got {names}; give them as encoders of their own, "
            "with a space between"
        )


def _parse_weight_free(name: str) -> tuple[str, int | None] | None:
    """Weight-free encoder and the seed of ``name@seed``, None without one; None for an encoder with weights."""
    origin, at, seed = name.partition("@")
    if origin not in BASELINES or (at and (not seed.isdecimal() or origin == "imagestats")):
        return None
    return origin, int(seed) if at else None


def parse_entry(text: str) -> EncoderEntry:
    """Read ``[name=]run[,run...]``, a run being one encoder or two joined by ``+``; an existing path is one."""
    if Path(text).exists():
        return EncoderEntry(None, ((text,),))
    name, equals, rest = text.partition("=")
    named = bool(equals and rest) and _NAME.fullmatch(name) is not None and not Path(text.split(",")[0]).exists()
    runs = (rest if named else text).split(",")
    return EncoderEntry(name if named else None, tuple(_sensors(run) for run in runs))


def _sensors(run: str) -> tuple[str, ...]:
    """The one or two encoders of a run; a file whose name has a + is one."""
    parts = run.split("+")
    return tuple(parts) if len(parts) == 2 and all(parts) and not Path(run).exists() else (run,)


def check_seeds(runs: Mapping[str, int]) -> None:
    """Refuse runs, by name, two of which have one seed.

    Raises:
        UserError: such runs.
    """
    first: dict[int, str] = {}
    for name, seed in runs.items():
        if seed in first:
            raise UserError(
                f"expected runs that differ in their seed, got seed {seed} in {first[seed]} and {name}; give one of "
                "them"
            )
        first[seed] = name


def check_alike(encoders: Mapping[str, Encoder]) -> None:
    """Refuse trained encoders, by name, that differ in more than their seed: in configuration or in the data they saw.

    Raises:
        UserError: the first difference.
    """
    (first, reference), *others = ((name, _facts(one.provenance)) for name, one in encoders.items())
    for name, facts in others:
        different = [key for key in (reference | facts) if reference.get(key) != facts.get(key)]
        if different:
            key, more = different[0], f" (and {len(different) - 1} more)" if len(different) > 1 else ""
            one, two = (str(values.get(key, "unset"))[:80] for values in (reference, facts))
            raise UserError(
                f"expected runs that differ in their seed alone, got {key} {one} in {first} and {two} in {name}{more}; "
                "give them as encoders of their own, with a space between, or train them alike"
            )


def _facts(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that decide the weights beside the seed, by dotted name; inputs by content: folders may be renamed."""
    config = {key: value for key, value in provenance.get("config", {}).items() if key != "seed"}
    config["training"] = {k: v for k, v in (config.get("training") or {}).items() if k not in _HARMLESS}
    inputs = sorted(str(value)[:12] for value in provenance.get("inputs", {}).values())
    return {"inputs": " ".join(inputs), **dict(_flat(config))}


def _flat(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in sorted(values.items()):
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value

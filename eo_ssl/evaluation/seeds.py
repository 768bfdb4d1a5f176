"""Seeds: several runs of one recipe as one entry of a list of encoders, and what they must have in common."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eo_ssl.encoder import Encoder
from eo_ssl.errors import UserError

_NAME = re.compile(r"[\w][\w. -]*")
_HARMLESS = ("log_every", "monitor_every", "monitor_tiles", "checkpoint_every", "read_ahead")
"""Options of `eo-ssl pretrain` under ``training`` that change nothing of what is learned."""


@dataclass(frozen=True, slots=True)
class EncoderEntry:
    """What one word of a list of encoders stands for."""

    name: str | None
    "in the results, where one was given"
    runs: tuple[tuple[str, ...], ...]
    "of each run the encoder, or the two encoders of the two sensors of a task"


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


def read_pretraining_seed(name: str, encoder: Encoder) -> int:
    """Return the seed that ``encoder`` was pretrained with.

    Raises:
        UserError: it does not say.
    """
    seed = encoder.provenance.get("config", {}).get("seed")
    if not isinstance(seed, int):
        raise UserError(
            f"expected runs of eo-ssl pretrain, which say configuration and seed, got none in {name}; give it as an "
            "encoder of its own"
        )
    return seed


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
    """What decides the weights beside the seed, by dotted name; inputs by content: folders may be renamed."""
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

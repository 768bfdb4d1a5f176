"""Damage to files of encoders and bundles, each by a seeded generator; and what a refusal must look like."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from eo_ssl.errors import UserError

Rng = np.random.Generator


def flip(path: Path, rng: Rng) -> None:
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def flip_early(path: Path, rng: Rng) -> None:
    """In the header of safetensors, where contract, architecture and provenance are."""
    data = bytearray(path.read_bytes())
    data[rng.integers(min(len(data), 4000))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def cut(path: Path, rng: Rng) -> None:
    path.write_bytes(path.read_bytes()[: int(rng.integers(path.stat().st_size))])


def remove(path: Path, rng: Rng) -> None:
    path.unlink()


def junk(path: Path, rng: Rng) -> None:
    path.write_bytes(rng.bytes(int(rng.integers(1, 300))))


def edit_json(change: Callable[[dict[str, Any], str, Rng], None]) -> Callable[[Path, Rng], None]:
    def act(path: Path, rng: Rng) -> None:
        text = path.read_text()
        value = json.loads(text.splitlines()[0] if path.suffix == ".jsonl" else text)
        target = value[0] if isinstance(value, list) else value
        change(target, str(rng.choice(sorted(target))), rng)
        path.write_text(json.dumps(value))

    return act


WRONG: tuple[Any, ...] = (None, [], {}, "x", -1, 1e400, True, [[1]], {"a": {"b": 1}}, float("nan"))


def wrong_type(target: dict[str, Any], key: str, rng: Rng) -> None:
    target[key] = WRONG[rng.integers(len(WRONG))]


def drop_key(target: dict[str, Any], key: str, rng: Rng) -> None:
    del target[key]


def add_key(target: dict[str, Any], key: str, rng: Rng) -> None:
    target["another"] = 1


def nest(path: Path, rng: Rng) -> None:
    path.write_text("[" * 100_000)


def as_list(path: Path, rng: Rng) -> None:
    path.write_text("[1, 2]\n3\n")


def edit_tensors(change: Callable[[dict[str, Any], dict[str, str], Rng], None]) -> Callable[[Path, Rng], None]:
    """Change tensors and metadata, and write a sound file of them."""

    def act(path: Path, rng: Rng) -> None:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
        change(tensors, metadata, rng)
        path.write_bytes(safetensors.torch.save(tensors, metadata))

    return act


def nan(tensors: dict[str, Any], metadata: dict[str, str], rng: Rng) -> None:
    tensors[str(rng.choice(sorted(tensors)))].view(-1)[0] = torch.nan


def extra_tensor(tensors: dict[str, Any], metadata: dict[str, str], rng: Rng) -> None:
    tensors["another"] = torch.zeros(2)


def other_dtype(tensors: dict[str, Any], metadata: dict[str, str], rng: Rng) -> None:
    key = str(rng.choice(sorted(tensors)))
    tensors[key] = tensors[key].half()


def _forge(metadata: dict[str, str]) -> None:
    """Take what guards the metadata away, so that a change of them reaches the parser."""
    for key in ("seal", "fingerprint"):
        metadata.pop(key, None)


def metadata(tensors: dict[str, Any], metadata: dict[str, str], rng: Rng) -> None:
    _forge(metadata)
    key = str(rng.choice(sorted(metadata)))
    metadata[key] = str(rng.choice(["", "null", "[]", "{}", "7", '{"x": 1}', "[" * 9999, "1" * 5000]))


def inner(tensors: dict[str, Any], metadata: dict[str, str], rng: Rng) -> None:
    _forge(metadata)
    name = str(rng.choice(["architecture", "preprocessing"]))
    value = json.loads(metadata[name])
    inside = value["config"] if name == "architecture" and rng.random() < 0.5 else value
    inside[str(rng.choice(sorted(inside)))] = WRONG[rng.integers(len(WRONG))]
    metadata[name] = json.dumps(value)


BYTES = (flip, cut, junk, remove)
JSONS = (edit_json(wrong_type), edit_json(drop_key), edit_json(add_key), nest, as_list)
TENSORS = tuple(edit_tensors(change) for change in (nan, extra_tensor, other_dtype, metadata, inner, inner))


def check_sentence(error: UserError) -> None:
    text = str(error)
    assert text.startswith("expected ") and "\n" not in text and len(text) < 1000, text

"""Changes of the tensors and the metadata of an encoder's file, which is sound safetensors afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from bench.damaged_values import CHANGES, Act, Rng, change_somewhere, write_raw


def edit_tensors(change: Callable[[Rng, dict[str, Any], dict[str, str]], str]) -> Act:
    """Change tensors and metadata, and write a sound file of them."""

    def act(rng: Rng, path: Path) -> str:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        done = change(rng, tensors, metadata)
        path.write_bytes(safetensors.torch.save(tensors, metadata))
        return done

    return act


def _pick(rng: Rng, tensors: Mapping[str, Any]) -> str:
    return sorted(tensors)[rng.integers(len(tensors))]


def put_number(number: float) -> Callable[[Rng, dict[str, Any], dict[str, str]], str]:
    def change(rng: Rng, tensors: dict[str, Any], metadata: dict[str, str]) -> str:
        key = _pick(rng, tensors)
        tensors[key].view(-1)[0] = number
        return f"{number} in {key}"

    return change


def other_values(rng: Rng, tensors: dict[str, Any], metadata: dict[str, str]) -> str:
    key = _pick(rng, tensors)
    tensors[key] = (tensors[key] * 1.5 + 1).to(tensors[key].dtype)
    return f"other values in {key}"


def drop_tensor(rng: Rng, tensors: dict[str, Any], metadata: dict[str, str]) -> str:
    key = _pick(rng, tensors)
    del tensors[key]
    return f"without {key}"


def add_tensor(rng: Rng, tensors: dict[str, Any], metadata: dict[str, str]) -> str:
    tensors["another"] = torch.zeros(2)
    return "with another"


def rename_tensor(rng: Rng, tensors: dict[str, Any], metadata: dict[str, str]) -> str:
    key = _pick(rng, tensors)
    tensors[f"module.{key}"] = tensors.pop(key)
    return f"{key} renamed"


def other_dtype(rng: Rng, tensors: dict[str, Any], metadata: dict[str, str]) -> str:
    key = _pick(rng, tensors)
    tensors[key] = tensors[key].half()
    return f"{key} in another type"


def other_shape(rng: Rng, tensors: dict[str, Any], metadata: dict[str, str]) -> str:
    key = _pick(rng, tensors)
    tensors[key] = tensors[key].reshape(-1)[:1]
    return f"{key} in another shape"


def _forge(metadata: dict[str, str]) -> None:
    """Take what guards the metadata away, so that a change of them reaches the parser."""
    for key in ("seal", "fingerprint"):
        metadata.pop(key, None)


def edit_metadata(rng: Rng, tensors: dict[str, Any], metadata: dict[str, str]) -> str:
    _forge(metadata)
    key = _pick(rng, metadata)
    wrong = ["", "null", "[]", "{}", "7", '{"x": 1}', "[" * 9999, "1" * 5000]
    metadata[key] = wrong[rng.integers(len(wrong))]
    return f"{metadata[key][:10]} as {key}"


def edit_inside(rng: Rng, tensors: dict[str, Any], metadata: dict[str, str]) -> str:
    """One place of what the metadata say, unsealed."""
    _forge(metadata)
    name = _pick(rng, {key: text for key, text in metadata.items() if text.startswith(("{", "["))})
    value, names = json.loads(metadata[name]), sorted(CHANGES)
    done, text = change_somewhere(rng, value, CHANGES[names[rng.integers(len(names))]]), write_raw(json.dumps(value))
    metadata[name] = text
    return f"{done} of {name}"


TENSORS: dict[str, Act] = {
    name: edit_tensors(change)
    for name, change in {
        "tensor: NaN": put_number(torch.nan),
        "tensor: infinity": put_number(torch.inf),
        "tensor: other values": other_values,
        "tensor: dropped": drop_tensor,
        "tensor: added": add_tensor,
        "tensor: renamed": rename_tensor,
        "tensor: other dtype": other_dtype,
        "tensor: other shape": other_shape,
        "metadata": edit_metadata,
        "metadata: inside": edit_inside,
    }.items()
}

"""Tensors that others saved, put into a network: every key is accounted for, and nothing stays at random values.

A file wraps a network in mappings and prefixes: DINO's ``{"teacher": {"backbone.cls_token": ...}}``, Lightning's
``{"state_dict": {"model.encoder.cls_token": ...}}``. Nested mappings are read as dotted keys, and the rule is one: a
prefix is a chain of words out of `PREFIX_WORDS`, and below it stands every tensor of the network by its name. No such
prefix, or several, is refused; ``?keys=`` names one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from eo_ssl.errors import UserError, expect

State = Mapping[str, Tensor]
Convert = Callable[[dict[str, Tensor], nn.Module], Mapping[str, Tensor]]
"""Renames the keys of an author's file to those of the library that builds the network."""

PREFIX_WORDS = frozenset(
    (
        *("state_dict", "state_dict_ema", "model_state_dict", "model", "model_ema", "net", "network"),  # wrappers
        *("module", "_orig_mod"),  # DataParallel, torch.compile
        *("student", "teacher", "student_backbone", "teacher_backbone"),  # DINO
        *("encoder_q", "encoder_k", "base_encoder", "momentum_encoder"),  # MoCo
        *("online_encoder", "target_encoder", "encoder"),  # BYOL, I-JEPA
        *("backbone", "backbone_momentum", "momentum_backbone"),  # tasks of other libraries
        *("visual", "trunk"),  # OpenCLIP
    )
)
"""Words that stand before a network's own keys in files of known trainers."""
HEAD_WORDS = frozenset(
    (
        *("head", "head_dist", "fc", "classifier"),  # classifiers
        *("projector", "projection", "projection_head", "predictor", "prediction_head", "prototypes"),
        *("queue", "queue_ptr"),  # MoCo
        *("mask_token", "decoder_embed", "decoder_pos_embed", "decoder_blocks", "decoder_norm", "decoder_pred"),  # MAE
    )
)
"""First words of what training puts behind or beside an encoder, which features do not need."""
_COUNTERS = "num_batches_tracked"  # of batch normalisation, which no feature depends on
_DEEPEST = 8  # mappings inside mappings
_SHOWN = 3  # names in a sentence
_LISTED = 20  # names in a provenance


@dataclass(frozen=True, slots=True)
class MatchedState:
    """The tensors of a file by the names of a network."""

    tensors: dict[str, Tensor]
    prefix: str
    "what stood before the network's keys; empty for nothing"
    left: tuple[str, ...]
    "keys of heads below the prefix, and what stands beside it: no part of the network"
    lacking: tuple[str, ...]
    "keys that the file may lack, whose values stay neutral"

    def to_json(self) -> dict[str, Any]:
        """Plain values for a provenance; only what says something."""
        listed = {"left_over": self.left, "neutral": self.lacking}
        kept: dict[str, Any] = {"prefix": self.prefix} if self.prefix else {}
        for key, names in listed.items():
            if names:
                more = [f"and {len(names) - _LISTED} more"] if len(names) > _LISTED else []
                kept[key] = [*names[:_LISTED], *more]
        return kept


def read_tensors(file: Path, *, remedy: str = "") -> dict[str, Tensor]:
    """Read a safetensors or ``torch.save`` file without running any code in it; nested keys are joined by dots.

    Args:
        file: of the tensors.
        remedy: what to do about a file that cannot be read, where it is not to save it as a state dict.

    Raises:
        UserError: it is damaged, holds more than tensors and plain values, or no tensor.
    """
    advice = remedy or "give a state dict that torch.load reads with weights_only"
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  (not a mapping)
        read = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the bytes lead it to
        reason = (str(error).splitlines() or [""])[0][:120]
        raise UserError(
            f"expected a file of tensors in {file}, got {type(error).__name__}: {reason}; {advice}"
        ) from error
    expect(
        isinstance(read, Mapping),
        expected=f"a state dict in {file}",
        got=type(read).__name__,
        remedy="save the model's state_dict()",
    )
    flat = dict(_flatten_mapping(read))
    expect(flat, expected=f"tensors in {file}", got="none", remedy="save the model's state_dict()")
    return flat


def match_keys(
    state: State,
    network: nn.Module,
    *,
    name: str,
    where: str,
    remedy: str,
    keys: str | None = None,
    convert: Convert | None = None,
    heads: Iterable[str] = (),
    may_lack: tuple[str, ...] = (),
) -> MatchedState:
    """Return the tensors of ``state`` that are the network's, under its names.

    Args:
        state: of a file, as `read_tensors` gives it.
        network: which of its tensors are wanted.
        name: of the weights, for messages.
        where: the file, for messages.
        remedy: what to do about other keys.
        keys: prefix chosen by the user; None for the only one that fits.
        convert: renames an author's keys; where it interpolates values, that is refused.
        heads: further names of heads, as the network's library calls them.
        may_lack: beginnings of keys that files may lack or hold in excess.

    Raises:
        UserError: no prefix, or several, with all tensors of the network; or keys below it that are of no head.
    """
    wanted = [key for key in network.state_dict() if not key.endswith(_COUNTERS)]
    prefixes = list_prefixes(state) if keys is None else [_end_with_dot(keys)]
    found = {prefix: _convert_part(state, prefix, network, convert) for prefix in prefixes}
    lost = {
        prefix: [key for key in wanted if key not in part and not key.startswith(may_lack or ("\0",))]
        for prefix, part in found.items()
    }
    fitting = [prefix for prefix in prefixes if not lost[prefix]]
    expect(
        len(fitting) < 2,
        expected=f"one set of weights of {name} in {where}",
        got=f"{len(fitting)}, below {', '.join(fitting)}",
        remedy=f"name the one you mean by the option keys, such as ?keys={fitting[0] if fitting else ''}",
    )
    best = fitting[0] if fitting else min(prefixes, key=lambda prefix: len(lost[prefix]))
    part = found[best]
    unknown = [key for key in part if key not in set(network.state_dict()) and not _is_head(key, heads)]
    more = [key for key in unknown if not key.startswith(may_lack or ("\0",))]
    if lost[best] or more:
        raise UserError(
            f"expected weights of {name} in {where}, got a file without {_name_some(lost[best])} ({len(lost[best])} of"
            f" {len(wanted)} missing) and with {_name_some(more)} ({len(more)} unexpected); {remedy}"
        )
    own = {key: value for key, value in part.items() if key in set(network.state_dict())}
    _refuse_resampled(_cut(state, best), own, name=name, where=where, remedy=remedy)
    return MatchedState(
        own,
        best,
        left=tuple([key for key in part if key not in own] + _name_beside(state, best)),
        lacking=tuple(key for key in wanted if key not in own),
    )


def put_tensors(network: nn.Module, tensors: State, *, name: str, where: str, remedy: str) -> None:
    """Load ``tensors`` into ``network``, which has them all but those it may lack.

    Raises:
        UserError: tensors of other shapes, or values that are not finite.
    """
    own = network.state_dict()
    shapes = [key for key, value in tensors.items() if value.shape != own[key].shape]
    if shapes:
        first = shapes[0]
        raise UserError(
            f"expected weights of {name}, got others in {where} ({first} is {list(tensors[first].shape)} instead of"
            f" {list(own[first].shape)}, {len(shapes)} tensors differ in shape); {remedy}"
        )
    check_finite(tensors, where=where, remedy=remedy)
    network.load_state_dict(dict(tensors), strict=False)  # the keys were compared in `match_keys`


def check_finite(tensors: State, *, where: str, remedy: str) -> None:
    """Refuse weights that are not numbers.

    Raises:
        UserError: NaN or infinity, naming the first tensor.
    """
    broken = [key for key, value in tensors.items() if not bool(torch.isfinite(value).all())]
    expect(
        not broken,
        expected=f"finite weights in {where}",
        got=f"NaN or infinity in {_name_some(broken)}",
        remedy=remedy,
    )


def _flatten_mapping(values: Mapping[Any, Any], path: str = "", depth: int = 0) -> Iterable[tuple[str, Tensor]]:
    """Tensors by dotted key; other values (epoch, options) are left aside."""
    for key, value in values.items():
        if isinstance(value, Tensor):
            yield f"{path}{key}", value
        elif isinstance(value, Mapping) and depth < _DEEPEST:
            yield from _flatten_mapping(value, f"{path}{key}.", depth + 1)


def list_prefixes(state: State) -> list[str]:
    """Return every chain of `PREFIX_WORDS` that a key begins with, the empty one first."""
    found = {"": None}
    for key in state:
        prefix = ""
        for word in key.split(".")[:-1]:
            if word not in PREFIX_WORDS:
                break
            prefix += f"{word}."
            found[prefix] = None
    return list(found)


def _end_with_dot(prefix: str) -> str:
    return prefix if prefix.endswith(".") or not prefix else f"{prefix}."


def _cut(state: State, prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _convert_part(state: State, prefix: str, network: nn.Module, convert: Convert | None) -> dict[str, Tensor]:
    """What stands below ``prefix``, renamed; empty where the conversion cannot read it."""
    part = _cut(state, prefix)
    if convert is None or not part:
        return part
    try:
        return dict(convert(dict(part), network))
    except (KeyError, IndexError, RuntimeError, ValueError, TypeError, AttributeError, AssertionError):
        return {}


def _is_head(key: str, heads: Iterable[str]) -> bool:
    return key.split(".")[0] in HEAD_WORDS or any(key.startswith(f"{head}.") for head in heads)


def _name_beside(state: State, prefix: str) -> list[str]:
    """What stands beside ``prefix``, by the first part of the key that tells it from there."""
    beside: dict[str, None] = {}
    for key in state:
        if not key.startswith(prefix):
            words, own = key.split("."), prefix.split(".")
            same = next((i for i, (a, b) in enumerate(zip(words, own, strict=False)) if a != b), len(words) - 1)
            beside[".".join(words[: same + 1])] = None
    return list(beside)


def _refuse_resampled(before: State, after: State, *, name: str, where: str, remedy: str) -> None:
    """Refuse a conversion that interpolated kernels or position codes, which makes another network in silence."""
    changed = [key for key, value in after.items() if key in before and before[key].numel() != value.numel()]
    if changed:
        was, now = (list(values[changed[0]].shape) for values in (before, after))
        raise UserError(
            f"expected weights of {name}, got others in {where} ({changed[0]} is {was} instead of {now}); {remedy}"
        )


def _name_some(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN]) or "nothing"

"""Mixed precision: networks compute in bfloat16; targets, similarities, counts, losses and state stay in float32."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

import test_82_processes as processes
from eo_ssl.objectives import Objective, Step, dino_v2, ijepa
from eo_ssl.objectives.precision import use_float32

ARITHMETIC = {
    *("mm", "bmm", "addmm", "convolution", "add", "sub", "mul", "div", "pow", "exp", "log", "sum", "mean", "std"),
    *("linalg_vector_norm", "_softmax", "_log_softmax", "native_batch_norm", "native_layer_norm", "lerp", "neg"),
    *("smooth_l1_loss", "mse_loss", "logsumexp", "softplus", "clamp"),
}


class Reduced(TorchDispatchMode):
    """Notes arithmetic whose result has few digits, and that no network but the method or its loss asked for."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        self.modules, self.found, self.inside = modules, set(), False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        if isinstance(result, torch.Tensor) and result.dtype == torch.bfloat16 and name in ARITHMETIC:
            innermost = self.modules[-1]
            outside = isinstance(innermost, Objective) or not any(True for _ in innermost.parameters())
            if outside and not called_by_network():
                self.found.add((type(innermost).__name__, name))
            self.inside |= not outside
        return result


def called_by_network() -> bool:
    """Whether a method of an encoder, which is no call of a module, runs below that of the objective."""
    frame = sys._getframe()
    while "/eo_ssl/objectives/" not in frame.f_code.co_filename:
        if "/eo_ssl/models/" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


@contextmanager
def watched() -> Iterator[Reduced]:
    """What is computed with few digits, while modules are called."""
    modules: list[nn.Module] = []

    def leave(module: nn.Module, args: Any, result: Any) -> None:
        modules.pop()

    hooks = (
        register_module_forward_pre_hook(lambda module, args: modules.append(module)),
        register_module_forward_hook(leave),
    )
    try:
        with Reduced(modules) as mode:
            yield mode
    finally:
        for hook in hooks:
            hook.remove()


def forward(name: str) -> tuple[Objective, dict[str, torch.Tensor]]:
    """The method in float32 and what it gives for its tiny batch."""
    objective, results = processes.build(name).float(), {}
    objective.register_forward_hook(lambda module, args, found: results.update(found))
    processes.loss_of(objective, slice(0, processes.ITEMS))
    return objective, results


@pytest.fixture(autouse=True)
def _single(monkeypatch: pytest.MonkeyPatch) -> None:
    image, valid = processes.items()
    monkeypatch.setattr(processes, "items", lambda: (image.float(), valid))
    for module, name in ((ijepa, "draw_blocks"), (dino_v2, "draw_masks")):  # planted by `loss_of`
        monkeypatch.setattr(module, name, getattr(module, name))


@pytest.mark.parametrize("name", processes.METHODS)
def test_what_a_method_compares_has_all_digits_and_only_its_networks_have_few(name: str) -> None:
    _, exact = forward(name)
    with torch.autocast("cpu", dtype=torch.bfloat16), watched() as mode:
        objective, found = forward(name)
    assert {key: value.dtype for key, value in found.items()} == dict.fromkeys(exact, torch.float32)
    torch.testing.assert_close(found["loss"], exact["loss"], rtol=0.03, atol=0)
    assert mode.inside and mode.found == set()
    found["loss"].backward()
    gradients = [p.grad for p in objective.parameters() if p.grad is not None]
    assert gradients and all(bool(gradient.isfinite().all()) for gradient in gradients)
    objective.after_step(Step(1, 2, 0))
    assert {x.dtype for x in objective.state_dict().values() if x.is_floating_point()} == {torch.float32}


def test_a_function_gets_float32_in_place_of_half_of_it_and_nothing_else_changes() -> None:
    def multiply(pair: list[torch.Tensor], *, third: torch.Tensor, what: object) -> torch.Tensor:
        """Documented."""
        assert what is pair_of_names
        return pair[0] @ pair[1] @ third

    pair_of_names, x = frozenset({"a", "b"}), torch.rand(3, 3)
    precise = use_float32(multiply)
    assert precise.__doc__ == "Documented."
    with torch.autocast("cpu", dtype=torch.bfloat16):
        few = precise([x.bfloat16(), x], third=x.bfloat16(), what=pair_of_names)
        assert torch.is_autocast_enabled("cpu") and (x @ x).dtype == torch.bfloat16
    assert torch.equal(few, x.bfloat16().float() @ x @ x.bfloat16().float())
    assert precise([x.double(), x.double()], third=x.double(), what=pair_of_names).dtype == torch.float64

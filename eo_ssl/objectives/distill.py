"""Distillation from a larger encoder, made here or elsewhere, that sees each image under its own contract.

Cosine and smooth L1 to a frozen teacher's standardised features, one projector for the vector of an image and one for
its patches: UNIC (Sariyildiz et al. 2024, arXiv 2408.05088) for one teacher, from the last layer alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eo_ssl.encoder import EncoderBase, ExternalEncoder, collect_licences, load_encoder
from eo_ssl.errors import UserError, expect
from eo_ssl.models import Backbone, View, seed_weights
from eo_ssl.objectives.base import Method, Objective
from eo_ssl.objectives.parts import mean_of_valid, mean_over_processes
from eo_ssl.objectives.step import Batch, Step
from eo_ssl.objectives.two_views import check_widths
from eo_ssl.objectives.views import ViewSpec
from eo_ssl.preprocessing import Preprocessing, parse_conversion, restore_values

EPSILON = 1e-6  # added to a standard deviation (UNIC, utils.py)
KINDS = ("pooled", "patches")


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Distill(Method):
    """Distillation: predict what a frozen teacher makes of the same image, as a vector and patch by patch."""

    views: ClassVar[Mapping[str, ViewSpec]] = {
        # UNIC, main_unic.py: torchvision's random crop; both see the same view (Beyer et al. 2022, arXiv 2106.05237)
        "tile": ViewSpec(crop=(0.08, 1.0))
    }

    teacher: str = ""
    """An encoder: folder or file of `eo-ssl pretrain`, or a name that `eo-ssl evaluate` takes, such as
    ``torchgeo:ViTSmall16_Weights.SENTINEL2_ALL_DINO``; ``?size=`` is the side that views are brought to for it."""
    pooled: float = 0.5
    """Weight of the vector of an image; 0 leaves it out (UNIC, modeling/losses.py: the mean of both)."""
    patches: float = 0.5
    """Weight of the patches, the mean over those with a pixel that the teacher sees; 0 leaves them out."""
    cosine: float = 0.5
    """Weight of 1 less the cosine (UNIC, main_unic.py; Theia, train_rvfm.py, has 0.9)."""
    smooth_l1: float = 0.5
    """Weight of the smooth L1 distance, its bend at 1 (UNIC, main_unic.py; Theia, train_rvfm.py, has 0.1)."""
    standardise: bool = True
    """Whether each channel of the teacher has mean 0 and deviation 1, by averages over the batches of the run."""
    momentum: tuple[float, float] = (1.0, 0.001)
    """Share of a batch in these averages at the first and the last step, along a cosine (UNIC, main_unic.py)."""
    hidden_dim: int = 1024
    """Width of the projectors' hidden layer; 3072 in UNIC (modeling/unic.py)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        object.__setattr__(self, "momentum", tuple(self.momentum))
        check_widths(hidden_dim=self.hidden_dim)
        for pair in (KINDS, ("cosine", "smooth_l1")):
            weights = [getattr(self, name) for name in pair]
            expect(
                min(weights) >= 0 and max(weights) > 0,
                expected=f"weights of at least 0 of {' and '.join(pair)}, one of them above 0",
                got=f"{weights[0]} and {weights[1]}",
                remedy="raise one",
            )
        for value in self.momentum:
            expect(0 < value <= 1, expected="momentum above 0 and up to 1", got=value, remedy="give a share")

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> DistillObjective:
        """Student, frozen teacher and projectors; refuses encoders of several streams, and no teacher."""
        expect(
            len(encoders) == 1,
            expected="items of one stream for Distill",
            got=sorted(encoders),
            remedy="train on tiles or places",
        )
        expect(
            self.teacher,
            expected="a teacher for Distill",
            got="none",
            remedy="name a folder of `eo-ssl pretrain`, or weights of others, with --objective.teacher",
        )
        teacher = load_encoder(self.teacher)
        if not isinstance(teacher, EncoderBase):
            raise TypeError(f"expected an encoder of this library, got {type(teacher).__name__}")
        return DistillObjective(encoders, self, teacher, seed=seed)


class DistillObjective(Objective):
    """The student's vector and patches, each through a projector, meet the teacher's of the same view."""

    def __init__(
        self, encoders: Mapping[str, Backbone], method: Distill, teacher: EncoderBase, *, seed: int = 0
    ) -> None:
        """Build the projectors, their weights drawn from `seed`; `teacher` sees whole views at its own size."""
        super().__init__(encoders)
        self.method = method
        self.contract: Preprocessing | None = None
        window = teacher.readout.window_px if isinstance(teacher, ExternalEncoder) else None
        side = window or teacher.preprocessing.size_px
        # Its weights come from its file: held in a tuple, they are no part of the state and of what is trained.
        self._teacher = (teacher.at_size(side).requires_grad_(False).eval(),)
        with torch.no_grad():
            example = self.teacher.encode(torch.zeros(1, len(teacher.preprocessing.bands), side, side))
        widths = dict(zip(KINDS, (features.shape[-1] for features in example), strict=True))
        wanted = [kind for kind in KINDS if getattr(method, kind) > 0]
        if "patches" in wanted:
            _measure_side(example[1].shape[1], name=teacher.name)
        with seed_weights(seed):
            self.projectors = nn.ModuleDict(
                {kind: make_projector(self.encoder.dim, method.hidden_dim, widths[kind]) for kind in wanted}
            )
        self.scales = nn.ModuleDict({kind: RunningScale(widths[kind]) for kind in wanted})

    @property
    def teacher(self) -> EncoderBase:
        """The frozen encoder."""
        return self._teacher[0]

    @property
    def inputs(self) -> dict[str, str]:
        """The teacher's fingerprint."""
        return {f"teacher {self.teacher.name}": self.teacher.fingerprint}

    @property
    def licences(self) -> list[dict[str, Any]]:
        """Of the teacher's weights."""
        return collect_licences(self.teacher.name, self.teacher.provenance)

    def accept(self, contracts: Mapping[str, Preprocessing]) -> None:
        """Learn what the student's values mean, which the teacher gets in its own quantity, bands and normalisation.

        Raises:
            UserError: tiles of another sensor or quantity than the teacher's, or without a band of it.
        """
        ((_, contract),) = contracts.items()
        own, remedy = self.teacher.preprocessing, "choose a teacher of these tiles, or other tiles"
        expect(
            own.sensor == contract.sensor,
            expected=f"tiles of sensor {own.sensor} for the teacher",
            got=contract.sensor,
            remedy=remedy,
        )
        if own.quantity != contract.final_quantity:
            parse_conversion(f"{contract.final_quantity.value}->{own.quantity.value}")
        absent = [band for band in own.bands if band not in contract.bands]
        expect(
            not absent or own.missing != "refuse",
            expected=f"tiles with the bands {', '.join(own.bands)} that the teacher sees",
            got=f"{', '.join(contract.bands)} without {', '.join(absent)}",
            remedy=remedy,
        )
        self.contract = contract

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted mean of the distances to the teacher's vector and patches, `loss`, with the mean cosine of each."""
        found: dict[str, list[Tensor]] = {}
        for view in batch.all_views():
            for name, value in self._compare(view, batch.step).items():
                found.setdefault(name, []).append(value)
        return {name: torch.stack(values).mean() for name, values in found.items()}

    def ask_teacher(self, view: View) -> tuple[Tensor, Tensor]:
        """Vector and positions that the teacher gives the view under its own contract: [B, T] and [B, N, T']."""
        if self.contract is None:
            raise TypeError("expected accept() before the first batch")
        own = self.teacher.preprocessing
        self.teacher.to(view.image.device)
        with torch.no_grad():
            values = restore_values(view.image, view.valid, self.contract, quantity=own.quantity)
            x, valid = own(values, bands=view.bands, quantity=own.quantity, sensor=self.contract.sensor)
            return self.teacher.encode(x, valid=valid)

    def _compare(self, view: View, step: Step) -> dict[str, Tensor]:
        """Loss and cosines of one view."""
        view = self.encoder.order_bands(view)  # that of the contract
        tokens, answers = self.encoder(view), dict(zip(KINDS, self.ask_teacher(view), strict=True))
        channels = [place for place, band in enumerate(view.bands) if band in self.teacher.preprocessing.bands]
        known = view.valid[:, channels].any(dim=1, keepdim=True).to(view.image.dtype)  # [B, 1, H, W]
        results: dict[str, Tensor] = {}
        for kind in self.projectors:
            if kind == "pooled":
                features, target, weight = tokens.pooled, answers[kind], known.amax(dim=(1, 2, 3))
            else:
                side = _measure_side(tokens.patches.shape[1], name="the student")
                features, target = tokens.patches, fit_positions(answers[kind], side)
                weight = nn.functional.adaptive_max_pool2d(known, side).flatten(1)  # [B, N]
            distance, cosine = self._regress(kind, features, target, weight, step)
            results["loss"] = results.get("loss", 0) + getattr(self.method, kind) * distance
            results[f"{kind}_cosine"] = cosine
        return results

    def _regress(
        self, kind: str, features: Tensor, target: Tensor, weight: Tensor, step: Step
    ) -> tuple[Tensor, Tensor]:
        """Mean distance of the projected features [..., D] to the target [..., T], and their mean cosine."""
        scale: RunningScale = self.scales[kind]  # type: ignore[assignment]
        target = target.to(scale.running_mean.dtype)
        if self.method.standardise:
            if self.training:
                scale.update(target, weight, share=step.cosine(*self.method.momentum))
            target = scale(target)
        prediction = self.projectors[kind](features).to(target.dtype)
        cosine = nn.functional.cosine_similarity(prediction, target, dim=-1)  # [...]
        bent = nn.functional.smooth_l1_loss(prediction, target, reduction="none").mean(dim=-1)  # [...]
        error = self.method.cosine * (1 - cosine) + self.method.smooth_l1 * bent
        return mean_of_valid(error, weight), mean_of_valid(cosine.detach(), weight)


class RunningScale(nn.Module):
    """Mean and standard deviation of each channel over the batches of a run and of all processes."""

    running_mean: Tensor
    running_std: Tensor

    def __init__(self, width: int) -> None:
        """Begin with mean 0 and deviation 1."""
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_std", torch.ones(width))

    @torch.no_grad()
    def update(self, x: Tensor, weight: Tensor, *, share: float) -> None:
        """Move towards the statistics of x [..., T] where weight [...] is 1, which get the share `share`."""
        rows, known = x.flatten(0, -2), weight.to(x.dtype).reshape(-1, 1)  # [M, T], [M, 1]
        count = mean_over_processes(known.sum())
        if not bool(count > 0):
            return
        mean = mean_over_processes((known * rows).sum(dim=0)) / count
        variance = mean_over_processes((known * (rows - mean).square()).sum(dim=0)) / count
        self.running_mean.lerp_(mean, share)
        self.running_std.lerp_(variance.sqrt(), share)

    def forward(self, x: Tensor) -> Tensor:
        """[..., T] standardised."""
        return (x - self.running_mean) / (self.running_std + EPSILON)


def make_projector(dim: int, hidden: int, out: int) -> nn.Sequential:
    """Two layers with a GELU between them, small at the start (UNIC, modeling/unic.py: AdaptMLP and its weights)."""
    projector = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, out))
    for layer in projector:
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    return projector


def fit_positions(positions: Tensor, side: int) -> Tensor:
    """Positions of a square grid [B, N, T] on one of `side` x `side`: bilinear, antialiased; unchanged where equal."""
    own = math.isqrt(positions.shape[1])
    if own == side:
        return positions
    batch, _, width = positions.shape
    grid = positions.transpose(1, 2).reshape(batch, width, own, own).float()  # [B, T, h, w]
    fitted = nn.functional.interpolate(grid, size=(side, side), mode="bilinear", antialias=True)
    return fitted.flatten(2).transpose(1, 2)


def _measure_side(count: int, *, name: str) -> int:
    """Side of a square grid of `count` positions."""
    side = math.isqrt(count)
    if side * side != count:
        raise UserError(
            f"expected a square grid of positions of {name}, got {count} positions; leave the patches out with"
            " --objective.patches 0"
        )
    return side

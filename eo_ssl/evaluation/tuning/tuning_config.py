"""What can be trained on a task and how: the protocols, their choices with the source of each default, and both in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from eo_ssl.errors import UserError, nearest
from eo_ssl.evaluation.tasks import Kind

Tuned = Literal["finetune", "lora", "seg-linear", "seg-upernet", "seg-dpt", "seg-finetune"]
TUNED: tuple[Tuned, ...] = ("finetune", "lora", "seg-linear", "seg-upernet", "seg-dpt", "seg-finetune")
KINDS: dict[Tuned, tuple[Kind, ...]] = {
    "finetune": ("classification", "multilabel", "regression"),
    "lora": ("classification", "multilabel", "regression"),
    "seg-linear": ("segmentation",),
    "seg-upernet": ("segmentation",),
    "seg-dpt": ("segmentation",),
    "seg-finetune": ("segmentation",),
}
"""Kinds of task that each protocol is for."""
Decoder = Literal["linear", "upernet", "dpt"]
Augmentation = Literal["none", "flips", "dihedral"]
ClassWeights = Literal["none", "balanced"]
Selection = Literal["best", "last"]
Precision = Literal["float32", "bfloat16"]
RATES: dict[Tuned, tuple[float, ...]] = {
    "finetune": (1e-4, 3e-4, 1e-3),
    "lora": (5e-4, 1e-3, 2e-3),
    "seg-linear": (1e-3, 3e-3, 1e-2),
    "seg-upernet": (3e-4, 1e-3),
    "seg-dpt": (3e-4, 1e-3),
    "seg-finetune": (1e-4, 3e-4),
}
"""Learning rates that are tried, per step of a whole batch. Fine-tuning starts at that of He et al. 2022 (MAE, code: 5e-4 for a batch of
256, hence 1.25e-4 for 64) and of their segmentation (appendix A.3: 1e-4), LoRA at that of Hu et al. 2022 (table 9: 5e-4), heads on a
frozen encoder at that of Oquab et al. 2023 (DINOv2, code of the linear segmentation head: 1e-3); the others are ours, for small encoders
and short runs."""
LEAST_STEPS = 200
"""Few samples make short epochs: fewer optimizer steps than that are never taken unless ``steps`` says so."""
_CHOICES = {
    "augment": get_args(Augmentation), "finetuned_decoder": get_args(Decoder), "class_weights": get_args(ClassWeights),
    "selection": get_args(Selection), "precision": get_args(Precision),
}  # fmt: skip
_AUGMENTED: dict[Augmentation, str] = {
    "none": "no augmentation",
    "flips": "flips",
    "dihedral": "flips and right-angle rotations",
}


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Tuning:
    """How a network is fitted to a task."""

    epochs: int = 50
    "passes over the training samples (He et al. 2022, table 9: 50 ... 100)"
    steps: int | None = None
    "optimizer steps; None: those of the epochs, at least 200"
    batch_size: int = 64
    "images per step; fewer where there are fewer, with a rate scaled in proportion (Goyal et al. 2017, arXiv 1706.02677)"
    rates: tuple[float, ...] | None = None
    "learning rates of AdamW to choose from by validation; None: `RATES` of the protocol"
    weight_decay: float = 0.05
    "of matrices, not of biases, norms and positions (He et al. 2022, table 9)"
    layer_decay: float = 0.65
    "factor of the rate from a layer to the one below it (Bao et al. 2022, BEiT; He et al. 2022, code: ViT-B)"
    warmup: float = 0.05
    "share of the steps with a linearly growing rate before the cosine to 0 (He et al. 2022, table 9: 5 of 100 epochs)"
    drop_path: float = 0.1
    "chance of the last transformer block to be skipped, growing from 0 (Huang et al. 2016; He et al. 2022, table 9)"
    augment: Augmentation = "dihedral"
    "symmetries of the square, each as likely: nadir views have no upright; colour is physical and stays as it is"
    lora_rank: int = 8
    "rank of the change of the query and value projections (Hu et al. 2022, arXiv 2106.09685, table 9)"
    lora_alpha: float = 8.0
    "the change is scaled by alpha / rank (Hu et al. 2022, table 9)"
    decoder_width: int = 256
    "channels of the UPerNet and DPT decoders (Ranftl et al. 2021, DPT)"
    finetuned_decoder: Decoder = "upernet"
    "decoder of seg-finetune (He et al. 2022, appendix A.3)"
    class_weights: ClassWeights = "none"
    "of the cross entropy of masks; `balanced`: pixels / (classes x pixels of the class)"
    selection: Selection = "best"
    "`best` of ten states by the declared validation split, or the `last`; the last too where there is no such split"
    precision: Precision = "float32"
    "`bfloat16` multiplies matrices in mixed precision"
    seed: int = 0
    "of the head, the order of the samples, their augmentation and the skipped blocks"

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        for field, options in _CHOICES.items():
            value = getattr(self, field)
            if value not in options:
                raise UserError(
                    f"expected {field} out of {', '.join(options)}, got {value!r}{nearest(str(value), options)}"
                )
        for field in ("epochs", "batch_size", "lora_rank", "decoder_width"):
            if getattr(self, field) < 1:
                raise UserError(f"expected {field} of at least 1, got {getattr(self, field)}; give a positive number")
        if self.steps is not None and self.steps < 1:
            raise UserError(f"expected at least one step, got {self.steps}; give a positive number, or none for epochs")
        if self.rates is not None:
            object.__setattr__(self, "rates", tuple(sorted(self.rates)))
            if not self.rates or not all(math.isfinite(rate) and rate > 0 for rate in self.rates):
                raise UserError(f"expected positive learning rates, got {list(self.rates)}; give some, such as 1e-4")
        bounds = {"layer_decay": (0.0, 1.0), "warmup": (0.0, 1.0), "drop_path": (0.0, 1.0)}
        for field, (low, high) in bounds.items():
            value = getattr(self, field)
            inside = low < value <= high if field == "layer_decay" else low <= value < high
            if not inside:
                raise UserError(
                    f"expected {field} between 0 and 1, got {value}; He et al. 2022 take {getattr(Tuning, field)}"
                )
        if not (self.weight_decay >= 0 and self.lora_alpha > 0):
            raise UserError(
                f"expected weight_decay >= 0 and lora_alpha > 0, got {self.weight_decay} and {self.lora_alpha}; correct them"
            )

    def tried(self, protocol: Tuned) -> tuple[float, ...]:
        """Learning rates to choose from, ascending."""
        return RATES[protocol] if self.rates is None else self.rates

    def decoder(self, protocol: Tuned) -> Decoder:
        """Decoder of a segmentation protocol."""
        fixed: dict[Tuned, Decoder] = {"seg-linear": "linear", "seg-upernet": "upernet", "seg-dpt": "dpt"}
        return fixed.get(protocol, self.finetuned_decoder)


def check_tuned(protocol: str, kind: Kind) -> Tuned:
    """Return ``protocol`` if it is a trained one for tasks of ``kind``.

    Raises:
        UserError: an unknown name, or a protocol for another kind.
    """
    if protocol not in TUNED:
        raise UserError(
            f"expected a trained protocol out of {', '.join(TUNED)}, got {protocol!r}{nearest(protocol, TUNED)}"
        )
    known: Tuned = protocol
    if kind not in KINDS[known]:
        fitting = [name for name in TUNED if kind in KINDS[name]]
        raise UserError(
            f"expected a protocol for a {kind} task, got {protocol}, which is for {' and '.join(KINDS[known])}; choose out of {', '.join(fitting)}"
        )
    return known


def describe(protocol: Tuned, config: Tuning) -> str:
    """Return the protocol in words, with everything that decides a number."""
    length = (
        f"{config.epochs} epochs (at least {LEAST_STEPS} steps)" if config.steps is None else f"{config.steps} steps"
    )
    rates = config.tried(protocol)
    chosen = (
        f"rate {rates[0]:g}"
        if len(rates) == 1
        else f"rate out of {', '.join(f'{rate:g}' for rate in rates)} by validation (the middle one where all score alike)"
    )
    kept = ", best of ten states on a declared validation split" if config.selection == "best" else ""
    precision = "" if config.precision == "float32" else f", {config.precision} where matrices are multiplied"
    recipe = (
        f"AdamW, gradients of norm 1 at most, {length} of {config.batch_size} images, {chosen}{kept}, cosine with {100 * config.warmup:g} % warm-up, "
        f"weight decay {config.weight_decay:g}, {_AUGMENTED[config.augment]}, seed {config.seed}{precision}"
    )
    return f"{_trained(protocol, config)}; {recipe}"


def _trained(protocol: Tuned, config: Tuning) -> str:
    """What is trained."""
    whole = f"layer decay {config.layer_decay:g}, stochastic depth {config.drop_path:g} in transformers"
    if protocol == "finetune":
        return f"fine-tuning of all weights under a layer norm and a linear head, {whole}"
    if protocol == "lora":
        return (
            f"LoRA of rank {config.lora_rank} (alpha {config.lora_alpha:g}) on the query and value projections under a batch norm and a linear head, "
            "all other weights frozen"
        )
    decoder = config.decoder(protocol)
    words = {
        "linear": "1 x 1 convolution on the last map",
        "upernet": f"UPerNet decoder of width {config.decoder_width} on four maps",
        "dpt": f"DPT decoder of width {config.decoder_width} on four maps",
    }[decoder]
    weighted = ", classes weighted by 1 / share of pixels" if config.class_weights == "balanced" else ""
    scored = f"logits resized to the mask, ignored pixels left out{weighted}"
    if protocol == "seg-finetune":
        return f"fine-tuning of all weights under a {words}, {whole}, {scored}"
    return f"{words} on the frozen encoder, {scored}"

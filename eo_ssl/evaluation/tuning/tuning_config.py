"""Trained protocols and their recipe: fine-tuning, LoRA, segmentation heads, with the source of each default."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from eo_ssl.errors import UserError, expect, suggest_nearest
from eo_ssl.evaluation.draws import Amount
from eo_ssl.evaluation.tasks import Kind

Decoder = Literal["linear", "upernet", "dpt"]
Augmentation = Literal["none", "flips", "dihedral"]
ClassWeights = Literal["none", "balanced"]
Selection = Literal["best", "last"]
Precision = Literal["float32", "bfloat16"]
LEAST_STEPS = 200
"""Few samples make short epochs: fewer optimizer steps than that are never taken unless ``steps`` says so."""
_CHOICES = {
    "augment": get_args(Augmentation),
    "finetuned_decoder": get_args(Decoder),
    "class_weights": get_args(ClassWeights),
    "selection": get_args(Selection),
    "precision": get_args(Precision),
}
_AUGMENTED: dict[Augmentation, str] = {
    "none": "no augmentation",
    "flips": "flips",
    "dihedral": "flips and right-angle rotations",
}


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Tuning:
    """Recipe of a network's training on a task."""

    epochs: int = 50
    "passes over the training samples (He et al. 2022, table 9: 50 ... 100)"
    steps: int | None = None
    "optimizer steps; None: those of the epochs, at least 200"
    batch_size: int = 64
    """images per step; fewer where there are fewer, with a rate scaled in proportion (Goyal et al. 2017, arXiv
    1706.02677)"""
    rates: tuple[float, ...] | None = None
    "learning rates of AdamW to choose from by validation; None: those of the protocol"
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
                    f"expected {field} out of {', '.join(options)}, got {value!r}{suggest_nearest(str(value), options)}"
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
                f"expected weight_decay >= 0 and lora_alpha > 0, got {self.weight_decay} and {self.lora_alpha}; "
                "correct them"
            )


@dataclass(frozen=True, kw_only=True)
class TunedProtocol:
    """A way to judge an encoder by training on the task."""

    name: str
    kinds: tuple[Kind, ...]
    adapts: Literal["all", "lora", "head"]
    "what of the encoder is trained beside the head: all weights, a change of low rank, nothing"
    decoder: Decoder | Literal["chosen"] | None = None
    "head on feature maps, or that of the recipe; None for a linear head on features"
    rates: tuple[float, ...]
    "learning rates that are tried, per step of a whole batch"
    trains: ClassVar[bool] = True

    def list_rates(self, config: Tuning) -> tuple[float, ...]:
        """Return the learning rates to choose from, ascending."""
        return self.rates if config.rates is None else config.rates

    def choose_decoder(self, config: Tuning) -> Decoder | None:
        """Return the head on feature maps."""
        return config.finetuned_decoder if self.decoder == "chosen" else self.decoder

    def describe(self, *, kind: Kind, amount: Amount, has_validation: bool, tuning: Tuning) -> str:
        """Return the protocol in words, with everything that decides a number."""
        return f"{_describe_trained(self, tuning)}; {_describe_recipe(self, tuning)}"


VECTOR_KINDS: tuple[Kind, ...] = ("classification", "multilabel", "regression")
"""Kinds of task whose images have one answer each."""
_MASKS: tuple[Kind, ...] = ("segmentation",)
TUNED: dict[str, TunedProtocol] = {
    protocol.name: protocol
    for protocol in (
        TunedProtocol(name="finetune", kinds=VECTOR_KINDS, adapts="all", rates=(1e-4, 3e-4, 1e-3)),
        TunedProtocol(name="lora", kinds=VECTOR_KINDS, adapts="lora", rates=(5e-4, 1e-3, 2e-3)),
        TunedProtocol(name="seg-linear", kinds=_MASKS, adapts="head", decoder="linear", rates=(1e-3, 3e-3, 1e-2)),
        TunedProtocol(name="seg-upernet", kinds=_MASKS, adapts="head", decoder="upernet", rates=(3e-4, 1e-3)),
        TunedProtocol(name="seg-dpt", kinds=_MASKS, adapts="head", decoder="dpt", rates=(3e-4, 1e-3)),
        TunedProtocol(name="seg-finetune", kinds=_MASKS, adapts="all", decoder="chosen", rates=(1e-4, 3e-4)),
    )
}
"""Fine-tuning starts at the rate of He et al. 2022 (MAE, code: 5e-4 for a batch of 256, hence 1.25e-4 for 64), masks
at theirs (appendix A.3: 1e-4), LoRA at that of Hu et al. 2022 (table 9: 5e-4), heads on a frozen encoder at that of
Oquab et al. 2023 (DINOv2, code of the linear segmentation head: 1e-3); the others are ours, for small encoders and
short runs."""


def check_tuned(name: str, kind: Kind) -> TunedProtocol:
    """Return the trained protocol ``name`` for tasks of ``kind``.

    Raises:
        UserError: an unknown name, or a protocol for another kind.
    """
    expect(
        name in TUNED,
        expected=f"a trained protocol out of {', '.join(TUNED)}",
        got=repr(name),
        remedy=suggest_nearest(name, TUNED).removeprefix("; ") or "choose one of them",
    )
    protocol = TUNED[name]
    expect(
        kind in protocol.kinds,
        expected=f"a protocol for a {kind} task",
        got=f"{name}, which is for {' and '.join(protocol.kinds)}",
        remedy=f"choose out of {', '.join(other.name for other in TUNED.values() if kind in other.kinds)}",
    )
    return protocol


def _describe_recipe(protocol: TunedProtocol, config: Tuning) -> str:
    """The recipe in words."""
    length = (
        f"{config.epochs} epochs (at least {LEAST_STEPS} steps)" if config.steps is None else f"{config.steps} steps"
    )
    rates = protocol.list_rates(config)
    chosen = (
        f"rate {rates[0]:g}"
        if len(rates) == 1
        else (
            f"rate out of {', '.join(f'{rate:g}' for rate in rates)} by validation (the middle one where all "
            "score alike)"
        )
    )
    kept = ", best of ten states on a declared validation split" if config.selection == "best" else ""
    precision = "" if config.precision == "float32" else f", {config.precision} where matrices are multiplied"
    return (
        f"AdamW, gradients of norm 1 at most, {length} of {config.batch_size} images, {chosen}{kept}, cosine with "
        f"{100 * config.warmup:g} % warm-up, "
        f"weight decay {config.weight_decay:g}, {_AUGMENTED[config.augment]}, seed {config.seed}{precision}"
    )


def _describe_trained(protocol: TunedProtocol, config: Tuning) -> str:
    """The trained weights and the head in words."""
    whole = f"layer decay {config.layer_decay:g}, stochastic depth {config.drop_path:g} in transformers"
    decoder = protocol.choose_decoder(config)
    if decoder is None and protocol.adapts == "all":
        return f"fine-tuning of all weights under a layer norm and a linear head, {whole}"
    if decoder is None:
        return (
            f"LoRA of rank {config.lora_rank} (alpha {config.lora_alpha:g}) on the query and value projections under "
            "a batch norm and a linear head, all other weights frozen"
        )
    words = {
        "linear": "1 x 1 convolution on the last map",
        "upernet": f"UPerNet decoder of width {config.decoder_width} on four maps",
        "dpt": f"DPT decoder of width {config.decoder_width} on four maps",
    }[decoder]
    weighted = ", classes weighted by 1 / share of pixels" if config.class_weights == "balanced" else ""
    scored = f"logits resized to the mask, ignored pixels left out{weighted}"
    if protocol.adapts == "all":
        return f"fine-tuning of all weights under a {words}, {whole}, {scored}"
    return f"{words} on the frozen encoder, {scored}"

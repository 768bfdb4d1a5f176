"""DINOv2 (Oquab et al. 2023, arXiv 2304.07193): DINO on images, iBOT on masked patches, and KoLeo against collapse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from lightly.loss import KoLeoLoss
from torch import Tensor, nn

from eo_ssl.errors import expect
from eo_ssl.models import Backbone, MaskableBackbone, View, require_maskable, seed_weights
from eo_ssl.objectives.base import Objective, Teacher, list_encoders
from eo_ssl.objectives.block_masks import draw_masks
from eo_ssl.objectives.dino import Dino
from eo_ssl.objectives.parts import find_seen, gather
from eo_ssl.objectives.precision import use_float32
from eo_ssl.objectives.prototypes import BalancedTargets, compare_crops, measure_classes, take_global_views
from eo_ssl.objectives.step import Batch, Step
from eo_ssl.objectives.two_views import OF_A_VIEW, check_one_width, check_several, encode_views
from eo_ssl.objectives.views import ViewSpec


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class DinoV2(Dino):
    """DINOv2: DINO, and the student gives each hidden patch the class that its teacher gives it in sight."""

    views: ClassVar[Mapping[str, ViewSpec]] = {
        # areas of DINOv2's ssl_default_config.yaml; its eight local crops have 96 of 224 pixels
        "global": ViewSpec(count=2, crop=(0.32, 1.0), gain=0.2, noise=0.1),
        "local": ViewSpec(count=4, size=0.5, crop=(0.05, 0.32), gain=0.2, noise=0.1),
    }

    momentum: float = 0.992
    """Share of itself that the teacher keeps at the first step; grows to 1 along a cosine (ssl_default_config.yaml)."""
    prototypes: int = 4096
    """Classes of images, and as many of patches by a head of their own; 65536 each in ssl_default_config.yaml."""
    teacher_temperature: tuple[float, float] = (0.04, 0.07)
    """Of the teacher's scores at the first step and after the warm-up (ssl_default_config.yaml)."""
    centering: Literal["mean", "sinkhorn"] = "mean"
    """How the teacher's classes are kept from collapse: their running mean is subtracted (ssl_default_config.yaml), or
    Sinkhorn-Knopp balances them over the batch (vitl14.yaml), which wants a batch that is not small beside the
    prototypes."""
    sinkhorn_iterations: int = 3
    """Of Sinkhorn-Knopp (dinov2/loss/dino_clstoken_loss.py); without effect with the mean."""
    masked_images: float = 0.5
    """Share of the student's global crops in which patches are hidden (ssl_default_config.yaml)."""
    mask_ratio: tuple[float, float] = (0.1, 0.5)
    """Range of the share of hidden patches of such a crop (ssl_default_config.yaml)."""
    dino_weight: float = 1.0
    """Of the term of the images (ssl_default_config.yaml)."""
    ibot_weight: float = 1.0
    """Of the term of the hidden patches (ssl_default_config.yaml)."""
    koleo_weight: float = 0.1
    """Of the term that spreads the student's vectors, the sum over both global crops (ssl_default_config.yaml)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        object.__setattr__(self, "mask_ratio", tuple(self.mask_ratio))
        options = ("mean", "sinkhorn")
        expect(
            self.centering in options,
            expected="centering out of mean, sinkhorn",
            got=repr(self.centering),
            remedy="choose one",
        )
        expect(
            self.sinkhorn_iterations >= 1,
            expected="sinkhorn_iterations of at least 1",
            got=self.sinkhorn_iterations,
            remedy="try 3",
        )
        expect(
            0 < self.masked_images <= 1,
            expected="masked_images above 0 and at most 1",
            got=self.masked_images,
            remedy="try 0.5, or choose Dino, which hides no patches",
        )
        expect(
            len(self.mask_ratio) == 2 and 0 < self.mask_ratio[0] <= self.mask_ratio[1] < 1,
            expected="mask_ratio as an increasing pair within 0 and 1",
            got=self.mask_ratio,
            remedy="try (0.1, 0.5)",
        )
        for name in ("dino_weight", "ibot_weight", "koleo_weight"):
            value = getattr(self, name)
            expect(value >= 0, expected=f"{name} of at least 0", got=value, remedy="raise it")

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> DinoV2Objective:  # type: ignore[override]
        """Student, teacher and two heads each; refuses networks that hide no patches, and those of different widths."""
        checked = {stream: require_maskable(encoder, method="DinoV2") for stream, encoder in encoders.items()}
        return DinoV2Objective(checked, self, seed=seed)

    def make_targets(self) -> BalancedTargets:
        """What makes classes out of the scores of a teacher's head."""
        iterations = self.sinkhorn_iterations if self.centering == "sinkhorn" else None
        return BalancedTargets(self.prototypes, momentum=self.center_momentum, iterations=iterations)


class DinoV2Objective(Objective):
    """Classes of other crops and of hidden patches, and vectors apart from their neighbours; the teacher is used.

    An image is the vector that the encoder pools: with `pooling: cls` its class token, as in the paper.
    """

    told = OF_A_VIEW

    def __init__(self, encoders: Mapping[str, MaskableBackbone], method: DinoV2, *, seed: int = 0) -> None:
        """Build the heads of images and patches, their weights drawn from `seed`, and the teacher."""
        super().__init__(encoders)
        check_one_width(encoders)
        self.method = method
        with seed_weights(seed):
            heads = {name: method.make_head(self.encoder.dim) for name in ("image", "patch")}
        self.heads = nn.ModuleDict(heads)
        self.mask_token = nn.Parameter(torch.zeros(self.encoder.dim))
        self.teacher, self.teacher_heads = Teacher(self.encoders), Teacher(self.heads)
        self.targets = nn.ModuleDict({name: method.make_targets() for name in heads})
        self.spread = KoLeoLoss()

    @property
    def embedders(self) -> Mapping[str, Backbone]:
        """The EMA teachers (Oquab et al. 2023, section 4)."""
        return list_encoders(self.teacher.network)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted sum of the three terms, `loss`, each by its name, and the signs of collapse of the images.

        `dino` is the mean cross-entropy over pairs of crops as in DINO, the student's global crops with patches hidden;
        `ibot` the mean over global crops of the mean cross-entropy over their hidden patches, 0 for a crop without;
        `koleo` the sum over both global crops of lightly's loss over the batches of all processes.

        Raises:
            UserError: another number of global views than two, or a batch of one item.
        """
        crops, learn = take_global_views(batch, method="DinoV2"), self.method.prototypes_learn(batch.step)
        check_several(crops[0])
        hidden = self.draw_hidden(crops, batch.step)  # [B, N] bool each
        students = [
            self._network(view).masked(view, mask, self.mask_token) for view, mask in zip(crops, hidden, strict=True)
        ]
        local = [group for name, group in batch.views.items() if name != "global"]
        vectors = [tokens.pooled for tokens in students]
        vectors += [x for group in local for x in encode_views(group, list_encoders(self.encoders))]
        px = [self._network(view).patch_px for view in crops]
        scored = [mask & find_seen(view, side) for view, mask, side in zip(crops, hidden, px, strict=True)]
        images, patches = self._make_classes(crops, scored, batch.step)
        answers = [self._answer("image", x, learn=learn) for x in vectors]
        hidden_tokens = torch.cat([tokens.patches[mask] for tokens, mask in zip(students, scored, strict=True)])
        dino = compare_crops(images.chunk(2), answers)
        ibot = compare_patches(patches, self._answer("patch", hidden_tokens, learn=learn), torch.cat(scored))
        koleo = torch.stack([use_float32(self.spread)(gather(x)) for x in vectors[:2]]).sum()
        method = self.method
        loss = method.dino_weight * dino + method.ibot_weight * ibot + method.koleo_weight * koleo
        terms = {"dino": dino.detach(), "ibot": ibot.detach(), "koleo": koleo.detach()}
        return {"loss": loss, **terms, **measure_classes(images)}

    def draw_hidden(self, crops: Sequence[View], step: Step) -> list[Tensor]:
        """Patches of each global crop that the student does not see, [B, N] bool; the crops are masked as one batch."""
        first = crops[0]
        rows, cols = (side // self._network(first).patch_px for side in first.image.shape[-2:])
        masks = draw_masks(
            (rows, cols),
            len(crops) * len(first),
            share=self.method.masked_images,
            ratio=self.method.mask_ratio,
            rng=step.generator(),
        )
        return list(masks.to(first.image.device).chunk(len(crops)))

    @torch.no_grad()
    def _make_classes(self, crops: Sequence[View], scored: Sequence[Tensor], step: Step) -> tuple[Tensor, Tensor]:
        """Teacher's classes of the crops, [2B, K], and of their hidden patches, [M, K]."""
        tokens = [self.teacher.network[view.stream](view) for view in crops]
        wanted = {
            "image": torch.cat([found.pooled for found in tokens]),
            "patch": torch.cat([found.patches[mask] for found, mask in zip(tokens, scored, strict=True)]),
        }
        temperature = self.method.teacher_temperature_at(step)
        heads = self.teacher_heads.network
        classes = [self.targets[name](heads[name](x), temperature=temperature) for name, x in wanted.items()]
        return classes[0], classes[1]

    def _answer(self, name: str, x: Tensor, *, learn: bool) -> Tensor:
        """Student's log shares of the classes, [n, K]."""
        scores: Tensor = self.heads[name](x, learn=learn) / self.method.student_temperature
        return scores.log_softmax(dim=1)

    def _network(self, view: View) -> MaskableBackbone:
        """The student's encoder of a view."""
        return require_maskable(list_encoders(self.encoders)[view.stream], method="DinoV2")

    def after_step(self, step: Step) -> None:
        """Move the teacher towards the student, momentum along a cosine from its start to its end."""
        momentum = step.cosine(self.method.momentum, self.method.momentum_end)
        self.teacher.follow(self.encoders, momentum=momentum)
        self.teacher_heads.follow(self.heads, momentum=momentum)


def compare_patches(targets: Tensor, answers: Tensor, scored: Tensor) -> Tensor:
    """Mean over images of the mean cross-entropy over their scored patches, 0 for an image without one: scalar.

    The weights of DINOv2's dinov2/loss/ibot_patch_loss.py (forward_masked).

    Args:
        targets: shares of classes [M, K] of the scored patches, in the order of the mask; no gradient.
        answers: log shares [M, K].
        scored: [B, N] bool with M true.
    """
    error = -(targets * answers).sum(dim=1)  # [M]
    weight = (1 / scored.sum(dim=1, keepdim=True).clamp(min=1)).expand_as(scored)[scored]  # [M]
    return (error * weight).sum() / len(scored)

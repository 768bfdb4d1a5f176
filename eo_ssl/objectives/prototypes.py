"""What methods share that sort items into classes which a network makes up: heads, balanced targets, many crops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from lightly.models.modules.heads import ProjectionHead
from torch import Tensor, nn

from eo_ssl.errors import expect
from eo_ssl.models import View
from eo_ssl.objectives.parts import mean_over_processes
from eo_ssl.objectives.precision import use_float32
from eo_ssl.objectives.step import Batch


class PrototypeHead(nn.Module):
    """Three layers, then the cosine with each prototype (Caron et al. 2021, section 3.2)."""

    def __init__(self, dim: int, *, hidden_dim: int, bottleneck_dim: int, prototypes: int) -> None:
        """Build it for features of `dim` channels."""
        super().__init__()
        widths = (dim, hidden_dim, hidden_dim, bottleneck_dim)
        activations = (nn.GELU(), nn.GELU(), None)
        blocks = zip(itertools.pairwise(widths), activations, strict=True)
        self.layers = ProjectionHead([(*sizes, None, activation) for sizes, activation in blocks])
        for part in self.layers.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)
        self.prototypes = nn.Linear(bottleneck_dim, prototypes, bias=False)

    def forward(self, features: Tensor, *, learn: bool = True) -> Tensor:
        """Scores of the prototypes, [B, K]; a gradient of 0 reaches the prototypes where they are not to `learn`."""
        held = freeze_weight(self.prototypes.weight, learn=learn)
        return compute_scores(self.layers(features), held)


@use_float32
def compute_scores(vectors: Tensor, prototypes: Tensor) -> Tensor:
    """Cosines of vectors [n, d] with prototypes [K, d]: [n, K]."""
    return nn.functional.normalize(vectors, dim=1) @ nn.functional.normalize(prototypes, dim=1).T


class BalancedTargets(nn.Module):
    """Classes out of a teacher's scores, over the batches of all processes, so that no class takes everything."""

    center: Tensor
    """[K], running mean of the scores."""

    def __init__(self, prototypes: int, *, momentum: float, iterations: int | None) -> None:
        """Begin with a centre of 0.

        Args:
            prototypes: K.
            momentum: share of itself that the centre keeps from batch to batch.
            iterations: of Sinkhorn-Knopp; None subtracts the centre.
        """
        super().__init__()
        self.momentum, self.iterations = momentum, iterations
        self.register_buffer("center", torch.zeros(prototypes))

    @torch.no_grad()
    def forward(self, scores: Tensor, *, temperature: float) -> Tensor:
        """Shares of the classes, [n, K], each row of sum 1; moves the centre while the objective trains.

        Args:
            scores: [n, K] of this process; processes may hold different numbers of rows, also none.
            temperature: what the scores are divided by.
        """
        if self.iterations is not None:
            return balance_assignments(scores, temperature=temperature, iterations=self.iterations)
        classes = ((scores - self.center) / temperature).softmax(dim=1)
        if self.training:
            # Sums and not means travel: processes hold different numbers of masked patches.
            total, rows = (mean_over_processes(x) for x in (scores.sum(dim=0), scores.new_tensor(len(scores))))
            if rows > 0:
                self.center.copy_(self.momentum * self.center + (1 - self.momentum) * total / rows)
        return classes


@torch.no_grad()
def balance_assignments(scores: Tensor, *, temperature: float, iterations: int) -> Tensor:
    """Shares of classes in which all classes weigh about the same over the batches of all processes: [n, K].

    Sinkhorn-Knopp (Cuturi 2013) as SwAV uses it (Caron et al. 2020, arXiv 2006.09882, section 3.1 and appendix A.1).
    Factors that all entries share fall out in the last division, so that only sums over a class travel between
    processes. Powers are taken in double precision: in single one they overflow below temperatures of 0.012.

    Args:
        scores: [n, K] of this process; processes may hold different numbers of rows, also none.
        temperature: what the scores are divided by.
        iterations: alternating divisions by the sums of classes and of rows, at least 1.
    """
    shares = (scores.double() / temperature).exp()
    for _ in range(iterations):
        shares = shares / mean_over_processes(shares.sum(dim=0))
        shares = shares / shares.sum(dim=1, keepdim=True)
    return shares.to(scores.dtype)


def compare_crops(targets: Sequence[Tensor], answers: Sequence[Tensor]) -> Tensor:
    """Mean cross-entropy over pairs of a target and the answer of another crop: scalar.

    Args:
        targets: shares of classes [B, K] of the first crops, no gradient.
        answers: log shares [B, K] of these crops in the same order and of further ones.
    """
    pairs = [(i, j) for i in range(len(targets)) for j in range(len(answers)) if i != j]
    return torch.stack([-(targets[i] * answers[j]).sum(dim=1).mean() for i, j in pairs]).mean()


def take_global_views(batch: Batch, *, method: str) -> Sequence[View]:
    """The two large views of each item.

    Raises:
        UserError: another number of them.
    """
    crops = batch.views["global"]
    expect(
        len(crops) == 2, expected=f"two global views of each item for {method}", got=len(crops), remedy="set it to 2"
    )
    return crops


def freeze_weight(weight: Tensor, *, learn: bool) -> Tensor:
    """The weight, to which a gradient of 0 flows back where it is not to `learn`: all processes still reduce one."""
    return weight.detach() + (weight - weight.detach()) * learn


def measure_classes(classes: Tensor) -> dict[str, Tensor]:
    """Two signs of collapse of a teacher's classes [n, K].

    `teacher_entropy`, of the mean class over the items, as a share of its largest: near 0 all items are of one class;
    and `teacher_certainty`, 1 less the mean entropy of a single item's: near 0 no item is of any class.
    """
    return {
        "teacher_entropy": measure_entropy(mean_over_processes(classes.mean(dim=0))),
        "teacher_certainty": 1 - measure_entropy(classes).mean(),
    }


def measure_entropy(shares: Tensor) -> Tensor:
    """Entropy of shares [..., K] that sum to 1, as a share of the largest, log K: [...]."""
    entropy: Tensor = torch.special.entr(shares).sum(dim=-1)
    return entropy / math.log(max(shares.shape[-1], 2))

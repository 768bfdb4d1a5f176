"""What methods share that compare two views of each item: the features of the batches of all processes, and heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from eo_ssl.errors import UserError, expect
from eo_ssl.image_metadata import MetadataKind
from eo_ssl.models import Backbone, View, join_views
from eo_ssl.objectives.base import Objective, list_encoders
from eo_ssl.objectives.parts import gather
from eo_ssl.objectives.step import Batch

Encoders = Mapping[str, Backbone]
OF_A_VIEW: tuple[MetadataKind, ...] = ("gsd",)
"""What encoders may be told by methods that match the views of an item, each cut at a scale of its own."""


class TwoViews(Objective):
    """Two views of each item, each encoded by the encoder of its stream, compared over the batches of all processes."""

    told = OF_A_VIEW
    projector: nn.Module
    """Behind the encoders: [B, D] -> [B, d]."""

    def __init__(self, encoders: Encoders) -> None:
        """Hold the encoders.

        Raises:
            UserError: encoders of different widths, which no head could share.
        """
        super().__init__(encoders)
        check_one_width(encoders)

    def take_views(self, batch: Batch) -> list[View]:
        """The two views of the batch.

        Raises:
            UserError: another number of views than two, or a batch of one item, which has no other to be told from.
        """
        views, method = batch.all_views(), type(self).__name__.removesuffix("Objective")
        if len(views) != 2:
            raise UserError(
                f"expected two views of each item for {method}, got {len(views)}: set the count of its views to 2"
            )
        check_several(views[0])
        return views

    def encode(self, views: Sequence[View], encoders: nn.ModuleDict | None = None) -> tuple[Tensor, ...]:
        """Features of each view over the batches of all processes, with gradient: [world * B, D] each.

        Heads normalise over the batch, and losses compare all items of it: they see that of all processes.

        Args:
            views: of this process; those that one encoder takes pass through it together.
            encoders: by stream; None for those that are trained.
        """
        chosen = list_encoders(self.encoders if encoders is None else encoders)
        return tuple(gather(features) for features in encode_views(views, chosen))

    def project(self, features: Tensor) -> Tensor:
        """Projections of features, [B, d]."""
        projection: Tensor = self.projector(features)
        return projection


def encode_views(views: Sequence[View], encoders: Encoders) -> tuple[Tensor, ...]:
    """Features of each view, [B, D]; views that one encoder takes pass through it together."""
    if len({(view.stream, view.bands, view.image.shape) for view in views}) > 1:
        return tuple(encoders[view.stream](view).pooled for view in views)
    features: Tensor = encoders[views[0].stream](join_views(views)).pooled  # [n * B, D]
    return features.chunk(len(views))


def check_several(view: View) -> None:
    """Refuse a batch of one item, which has no other to be told from.

    Raises:
        UserError: naming batch_size.
    """
    if len(view) < 2:
        raise UserError("expected at least two tiles per step to tell apart, got 1: raise batch_size")


def check_one_width(encoders: Encoders) -> None:
    """Refuse encoders of different widths in front of one head.

    Raises:
        UserError: naming the widths.
    """
    widths = sorted({encoder.dim for encoder in encoders.values()})
    expect(
        len(widths) == 1,
        expected="encoders of one width in front of one projector",
        got=widths,
        remedy="choose one architecture",
    )


def check_widths(**widths: int) -> None:
    """Refuse heads with a layer of no width.

    Raises:
        UserError: naming it.
    """
    for name, width in widths.items():
        expect(width >= 1, expected=f"{name} of at least 1", got=width, remedy="enlarge it")


def check_temperature(value: float, *, name: str = "temperature", usual: float) -> None:
    """Refuse a temperature that divides by nothing.

    Raises:
        UserError: naming it.
    """
    if value <= 0:
        raise UserError(f"{name} must be above 0, got {value}: try {usual}")

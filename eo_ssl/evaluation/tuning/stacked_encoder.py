"""An encoder of two sensors as a training sees one: their bands, prepared, stand one after the other."""

from __future__ import annotations

from torch import Tensor, nn

from eo_ssl.encoder import Encoder, FusedEncoder
from eo_ssl.errors import expect
from eo_ssl.preprocessing import Preprocessing


class StackedEncoder(nn.Module):
    """An encoder of two sensors that takes one image: optical bands, then radar bands.

    So a batch is cut, turned and flipped once, and both images of a place alike.
    """

    def __init__(self, pair: FusedEncoder) -> None:
        super().__init__()
        sides = {part.preprocessing.size_px for part in (pair.optical, pair.radar)}
        expect(
            len(sides) == 1,
            expected=f"contracts of one size in {pair.name} to train it on a task",
            got=" and ".join(f"{side} px" for side in sorted(sides)),
            remedy="judge it with knn5 or linear",
        )
        self.model, self.name = pair, pair.name

    @property
    def contracts(self) -> tuple[Preprocessing, Preprocessing]:
        """Of the optical images and of the radar images: the order of a task's sources and partners."""
        return self.model.optical.preprocessing, self.model.radar.preprocessing

    def features(self, x: Tensor, *, valid: Tensor) -> Tensor:
        """[B, optical and radar bands, H, W] float32, outputs of both contracts, and where valid -> [B, D]."""
        first = len(self.contracts[0].bands)
        return self.model.features(
            x[:, first:], x[:, :first], radar_valid=valid[:, first:], optical_valid=valid[:, :first]
        )


def list_contracts(encoder: Encoder | StackedEncoder) -> tuple[Preprocessing, ...]:
    """The contract of each sensor that ``encoder`` is given images of."""
    return encoder.contracts if isinstance(encoder, StackedEncoder) else (encoder.preprocessing,)

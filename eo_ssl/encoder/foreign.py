"""An encoder made elsewhere, behind a contract like ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from eo_ssl.encoder.networks import at_input, input_px, own_pooling, pooled, position_width, positions, width
from eo_ssl.encoder.protocol import Frozen, content, resized
from eo_ssl.errors import UserError
from eo_ssl.preprocessing import Preprocessing

ForeignPooling = Literal["own", "mean"]


@dataclass(frozen=True, slots=True)
class Form:
    """What is needed beside the weights to say what a foreign network computes."""

    architecture: str
    "its name in its library"
    pooling: ForeignPooling = "own"
    "own: as the network pools; mean: mean over the positions of its last map"
    window_px: int | None = None
    "side of the central window of the contract's output that it sees; None for all of it"
    blank: tuple[int, ...] = ()
    "its channels that always hold zero; the contract's bands are the others, in order"

    def __post_init__(self) -> None:
        """Refuse a pooling that does not exist."""
        if self.pooling not in ("own", "mean"):
            raise UserError(
                f"expected pooling own or mean, got {self.pooling!r}; the network's own, or the mean over its positions"
            )


class ForeignEncoder(Frozen):
    """A network of timm, torchvision or TorchGeo with a contract, so that images reach it by name of band and in its unit."""

    def __init__(
        self, model: nn.Module, preprocessing: Preprocessing, *, name: str, form: Form, provenance: Mapping[str, Any]
    ) -> None:
        self_pooling = own_pooling(model) if form.pooling == "own" else "mean"
        origin = {**provenance, "architecture": form.architecture, "pooling": self_pooling}
        super().__init__(name, preprocessing, origin)
        self.model: Any = model
        self.form = form
        self.pooling = self_pooling
        self._check_size(preprocessing)
        self.eval()

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return width(self.model) if self.form.pooling == "own" else position_width(self.model)

    @property
    def fingerprint(self) -> str:
        """Sha256 over weights, architecture, pooling, window and contract."""
        form = {**dataclasses.asdict(self.form), "pooling": self.pooling, "blank": list(self.form.blank)}
        return content(self.model.state_dict(), {"form": form, "preprocessing": self.preprocessing.to_json()})

    def features(self, x: Tensor, *, valid: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, D] by the named pooling; missing pixels are the band's mean."""
        if self.form.pooling == "mean":
            return self.tokens(x).mean(dim=1)
        return pooled(self.model, self.seen(x))

    def tokens(self, x: Tensor) -> Tensor:
        """Positions of the last map: [B, C, H, W] -> [B, N, D]."""
        return positions(self.model, self.seen(x))

    def at_size(self, size_px: int) -> Self:
        """Return this encoder for whole images brought to another side.

        At the size it has nothing changes, a published central window included; at any other it sees the whole image. Position codes
        are interpolated (bicubic, antialiased: timm's resampling).

        Raises:
            UserError: a size that its patches do not tile, naming the nearest ones, or weights that belong to one size.
        """
        contract = resized(self.preprocessing, size_px)
        if contract == self.preprocessing:
            return self._behind(contract)
        model = at_input(self.model, size_px, name=self.name)
        twin = self._behind(contract)
        twin.model = model
        twin.form = dataclasses.replace(self.form, window_px=None)
        return twin

    def _check_size(self, contract: Preprocessing) -> None:
        seen = self.form.window_px or contract.size_px
        wanted = input_px(self.model) or seen
        changed = self.form.window_px is not None and contract.size_px != self.preprocessing.size_px
        if contract.resize != "native" and (changed or seen != wanted):
            raise UserError(
                f"expected a contract of {self.preprocessing.size_px if changed else wanted} px for {self.name}, got {contract.size_px} px; "
                f"take `at_size({contract.size_px})` of the encoder first"
            )

    def seen(self, x: Tensor) -> Tensor:
        """What the network gets of the contract's output [B, C, H, W]: central window, and zeros where it has channels without a band."""
        contract, side = self.preprocessing, x.shape[-1]
        wanted = input_px(self.model) if self.form.window_px is None else contract.size_px
        if (
            x.ndim != 4
            or x.shape[1] != len(contract.bands)
            or (wanted is not None and tuple(x.shape[2:]) != (wanted, wanted))
        ):
            sides = "H, W" if wanted is None else f"{wanted}, {wanted}"
            raise UserError(
                f"expected input [B, {len(contract.bands)}, {sides}] for {self.name}, got {tuple(x.shape)}; "
                "pass the output of its preprocessing, with resize = to_size or crop for images of another size"
            )
        if self.form.window_px is not None:
            start = (side - self.form.window_px) // 2
            end = start + self.form.window_px
            x = x[..., start:end, start:end]
        for channel in self.form.blank:
            zeros = torch.zeros_like(x[:, :1])
            x = torch.cat([x[:, :channel], zeros, x[:, channel:]], dim=1)
        return x.contiguous()

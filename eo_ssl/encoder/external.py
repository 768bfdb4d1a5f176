"""External encoders: networks that others trained, behind a contract like ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from eo_ssl.encoder.adapters import (
    encode_positions,
    encode_whole,
    get_dim,
    get_input_px,
    get_position_dim,
    name_pooling,
    pool_images,
    resize_input,
)
from eo_ssl.encoder.protocol import EncoderBase, hash_tensors, resize_contract
from eo_ssl.errors import UserError
from eo_ssl.preprocessing import Preprocessing

_Pooling = Literal["own", "mean"]


@dataclass(frozen=True, slots=True)
class Readout:
    """What is needed beside the weights to say what a foreign network computes."""

    architecture: str
    "its name in its library"
    pooling: _Pooling = "own"
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


class ExternalEncoder(EncoderBase):
    """A network of timm, torchvision or TorchGeo with a contract: images reach it by name of band and in its unit."""

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing,
        *,
        name: str,
        readout: Readout,
        provenance: Mapping[str, Any],
    ) -> None:
        self_pooling = name_pooling(model) if readout.pooling == "own" else "mean"
        origin = {**provenance, "architecture": readout.architecture, "pooling": self_pooling}
        super().__init__(name, preprocessing, origin)
        self.model: Any = model
        self.readout = readout
        self.pooling = self_pooling
        self._check_size(preprocessing)
        self.eval()

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return get_dim(self.model) if self.readout.pooling == "own" else get_position_dim(self.model)

    @property
    def fingerprint(self) -> str:
        """Sha256 over weights, architecture, pooling, window and contract."""
        readout = {**dataclasses.asdict(self.readout), "pooling": self.pooling, "blank": list(self.readout.blank)}
        return hash_tensors(self.model.state_dict(), {"form": readout, "preprocessing": self.preprocessing.to_json()})

    def features(self, x: Tensor, *, valid: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, D] by the named pooling; missing pixels are the band's mean."""
        if self.readout.pooling == "mean":
            return self.tokens(x).mean(dim=1)
        return pool_images(self.model, self.seen(x))

    def tokens(self, x: Tensor, *, valid: Tensor | None = None) -> Tensor:
        """Positions of the last map: [B, C, H, W] -> [B, N, D]."""
        return encode_positions(self.model, self.seen(x))

    def encode(self, x: Tensor, *, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`features` and `tokens` in one pass."""
        vectors, positions = encode_whole(self.model, self.seen(x))
        return (positions.mean(dim=1) if self.readout.pooling == "mean" else vectors), positions

    def at_size(self, size_px: int) -> Self:
        """Return this encoder for whole images brought to another side.

        At the size it has nothing changes, a published central window included; at any other it sees the whole image.
        Position codes
        are interpolated (bicubic, antialiased: timm's resampling).

        Raises:
            UserError: a size that its patches do not tile, naming the nearest ones, or weights that belong to one size.
        """
        contract = resize_contract(self.preprocessing, size_px)
        if contract == self.preprocessing:
            return self._with_contract(contract)
        model = resize_input(self.model, size_px, name=self.name)
        twin = self._with_contract(contract)
        twin.model = model
        twin.readout = dataclasses.replace(self.readout, window_px=None)
        return twin

    def _check_size(self, contract: Preprocessing) -> None:
        seen = self.readout.window_px or contract.size_px
        wanted = get_input_px(self.model) or seen
        changed = self.readout.window_px is not None and contract.size_px != self.preprocessing.size_px
        if contract.resize != "native" and (changed or seen != wanted):
            raise UserError(
                f"expected a contract of {self.preprocessing.size_px if changed else wanted} px for {self.name}, got"
                f" {contract.size_px} px; "
                f"take `at_size({contract.size_px})` of the encoder first"
            )

    def seen(self, x: Tensor) -> Tensor:
        """What the network gets of the contract's output [B, C, H, W]: its window, zeros for channels without band."""
        contract, side = self.preprocessing, x.shape[-1]
        wanted = get_input_px(self.model) if self.readout.window_px is None else contract.size_px
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
        self.check_prepared(x)
        if self.readout.window_px is not None:
            start = (side - self.readout.window_px) // 2
            end = start + self.readout.window_px
            x = x[..., start:end, start:end]
        for channel in self.readout.blank:
            zeros = torch.zeros_like(x[:, :1])
            x = torch.cat([x[:, :channel], zeros, x[:, channel:]], dim=1)
        return x.contiguous()

"""What an encoder is to everything that uses one, and what all encoders here have in common."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from eo_ssl.errors import expect
from eo_ssl.fingerprints import fingerprint
from eo_ssl.preprocessing import Preprocessing, apply_conversion, describe_input
from eo_ssl.sensors import Quantity

_SAMPLED = 4096  # values of a batch that are looked at


@runtime_checkable
class Encoder(Protocol):
    """What is asked of an encoder: call it with physical values, or ``features`` with its contract's output."""

    @property
    def preprocessing(self) -> Preprocessing: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def dim(self) -> int: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    @property
    def provenance(self) -> Mapping[str, Any]: ...  # noqa: D102
    def __call__(
        self,
        images: npt.NDArray[Any] | Tensor,
        *,
        bands: Sequence[str],
        quantity: Quantity | str | None,
        sensor: str,
    ) -> Tensor:
        """Physical values [B, C, H, W] or [C, H, W] -> vectors [B, D] float32; see `EncoderBase.forward`."""
        ...

    def features(self, x: Tensor, *, valid: Tensor | None = None) -> Tensor:
        """[B, C, H, W] float32 -> one vector per image, [B, D] float32.

        ``valid`` [B, C, H, W] bool comes from the contract too and says where x was measured; None for everywhere.
        Elsewhere x holds the band's mean, which is what a network was trained on and what a statistic must leave out.
        """
        ...

    def tokens(self, x: Tensor, *, valid: Tensor | None = None) -> Tensor:
        """[B, C, H, W] float32 -> one vector per position, row by row, [B, N, D] float32; valid as for features."""
        ...

    def at_size(self, size_px: int) -> Encoder:
        """Return the same weights for images brought to another side; the size it has already gives the same bits."""
        ...

    def with_preprocessing(self, contract: Preprocessing) -> Encoder:
        """Return the same weights behind another contract that fits them: another normalisation, policy or resizing."""
        ...


class EncoderBase(nn.Module, ABC):
    """Name, contract and origin of an encoder, and the call that prepares images by the contract and encodes them."""

    def __init__(self, name: str, preprocessing: Preprocessing, provenance: Mapping[str, Any]) -> None:
        super().__init__()
        self.name = name
        self.preprocessing = preprocessing
        self.provenance: Mapping[str, Any] = dict(provenance)

    @torch.no_grad()
    def forward(
        self,
        images: npt.NDArray[Any] | Tensor,
        *,
        bands: Sequence[str],
        quantity: Quantity | str | None,
        sensor: str,
        metadata: npt.NDArray[np.float32] | Tensor | None = None,
    ) -> Tensor:
        """Return the features [B, D] float32 of physical values: checked, prepared by the contract, encoded.

        Args:
            images: [B, C, H, W], or [C, H, W] for one image, floating point, in ``quantity``; not finite = invalid.
            bands: C names, any known spelling, in any order.
            quantity: what the numbers are, such as ``toa_reflectance``; None for an array that nobody tagged, which is
                then judged by its values.
            sensor: whose band names these are.
            metadata: [B, 5] float32, what is known of the images beside their pixels, as `make_metadata` makes it, for
                encoders whose contract takes some; None for nothing known.

        Raises:
            UserError: another sensor or quantity, implausible values, missing bands, metadata that the encoder does not
                take, or no such array.
        """
        batch = _as_batch(images).to(self._device())
        x, valid = self.preprocessing(batch, bands=bands, quantity=quantity, sensor=sensor)
        expect(
            metadata is None or self.preprocessing.metadata,
            expected=f"no metadata for {self.name}, which is told nothing beside images",
            got="some",
            remedy="leave them out, or train an encoder with --model.metadata",
        )
        return self.features(x, valid=valid, **describe_input(self.preprocessing, metadata, side_px=batch.shape[-1]))

    @abstractmethod
    def features(self, x: Tensor, *, valid: Tensor | None = None) -> Tensor:
        """[B, C, H, W] float32, output of the contract -> one vector per image, [B, D] float32."""

    @abstractmethod
    def tokens(self, x: Tensor, *, valid: Tensor | None = None) -> Tensor:
        """[B, C, H, W] float32, output of the contract -> one vector per position, [B, N, D] float32, row by row."""

    def encode(self, x: Tensor, *, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`features` and `tokens` of one input, in one pass through a network."""
        return self.features(x, valid=valid), self.tokens(x)

    @property
    def fingerprint(self) -> str:
        """Sha256 over weights and contract; provenance and the order of the file do not enter."""
        return hash_tensors(
            self.state_dict(), {"encoder": type(self).__name__, "preprocessing": self.preprocessing.to_json()}
        )

    def at_size(self, size_px: int) -> Self:
        """Return this encoder for images brought to ``size_px``; its weights know no size, so they are shared.

        Raises:
            UserError: less than one pixel.
        """
        contract = resize_contract(self.preprocessing, size_px)
        self._check_size(contract)
        return self._with_contract(contract)

    def with_preprocessing(self, contract: Preprocessing) -> Self:
        """Return this encoder behind ``contract``, weights shared.

        Raises:
            UserError: other bands, or another order of them, than the weights were made for; a size that they do not
                take.
        """
        expect(
            contract.bands == self.preprocessing.bands,
            expected=f"a contract with the bands {', '.join(self.preprocessing.bands)} of {self.name} in this order",
            got=", ".join(contract.bands),
            remedy="weights belong to bands, so change the contract's other fields only",
        )
        self._check_size(contract)
        return self._with_contract(contract)

    def check_prepared(self, x: Tensor) -> None:
        """Refuse numbers that are no output of the contract, such as digital numbers that were never normalised.

        Told apart are numbers whose median no plausible image has after the contract. Reflectance that lies within the
        plausible range of the normalised values (0.2, say, where they reach from -5 to 30) cannot be told.

        Args:
            x: [B, C, H, W] float32, said to be the contract's output.

        Raises:
            UserError: its median lies outside what the contract makes of its plausible range.
        """
        if torch.compiler.is_compiling():  # a graph that is exported has no values yet
            return
        low, high = measure_output_range(self.preprocessing)
        median = float(x.detach().flatten()[:: max(1, x.numel() // _SAMPLED) | 1].median()) if x.numel() else 0.0
        if not low <= median <= high:  # NaN neither; no call of expect, whose sentence would be made for every batch
            bands = ", ".join(self.preprocessing.bands)
            expect(
                False,
                expected=f"the output of the contract of {self.name}, within {low:.3g} ... {high:.3g}",
                got=f"a median of {median:.3g}",
                remedy="give physical values to the encoder itself, encoder(images, bands=..., quantity="
                f"{self.preprocessing.quantity.value!r}, sensor={self.preprocessing.sensor!r}), which prepares {bands}",
            )

    def _device(self) -> torch.device:
        """Where its weights are."""
        tensor = next(chain(self.parameters(), self.buffers()), None)
        return torch.device("cpu") if tensor is None else tensor.device

    def _check_size(self, contract: Preprocessing) -> None:
        """Refuse a size that the weights do not take; these take any."""

    def _with_contract(self, contract: Preprocessing) -> Self:
        """A twin that shares all weights, with registries of its own so that a part can be exchanged in it alone."""
        twin = copy.copy(self)
        for registry in ("_modules", "_buffers", "_parameters"):
            twin.__dict__[registry] = dict(self.__dict__[registry])
        twin.preprocessing = contract
        return twin


def _as_batch(images: npt.NDArray[Any] | Tensor) -> Tensor:
    """Images [B, C, H, W] of an array or tensor [B, C, H, W] or [C, H, W]; what a masked array hides is invalid."""
    expect(
        isinstance(images, np.ndarray | Tensor) and images.ndim in (3, 4),
        expected="an array or tensor [B, C, H, W] or [C, H, W]",
        got=f"{type(images).__name__} {tuple(getattr(images, 'shape', ()))}",
        remedy="stack the bands of an image along the first dimension",
    )
    if isinstance(images, Tensor):
        return images if images.ndim == 4 else images[None]
    expect(
        np.issubdtype(images.dtype, np.floating),
        expected="physical values as floating-point numbers",
        got=f"an array of {images.dtype}",
        remedy="apply the product's scale and offset",
    )
    if isinstance(images, np.ma.MaskedArray):
        images = images.filled(np.nan)
    x = torch.from_numpy(np.ascontiguousarray(images, dtype=images.dtype.newbyteorder("=")))
    return x if x.ndim == 4 else x[None]


@lru_cache(maxsize=256)
def measure_output_range(contract: Preprocessing) -> tuple[float, float]:
    """Least and greatest value of any band that ``contract`` makes of its plausible range, normalised."""
    ends = torch.tensor(contract.range).view(1, 1, 1, 2)
    for name in contract.convert:
        ends = apply_conversion(ends, name)
    pairs = ends.flatten().sort().values.repeat(len(contract.bands), 1)  # [C, 2]
    if contract.clip is not None:
        low, high = torch.tensor(contract.clip, dtype=pairs.dtype).view(-1, 2).unbind(dim=1)
        pairs = pairs.clamp(low[:, None], high[:, None])
    if contract.missing == "zero":
        pairs = torch.cat([pairs, torch.zeros(len(pairs), 1)], dim=1)
    mean, std = (torch.tensor(values).view(-1, 1) for values in (contract.mean, contract.std))
    ready = (pairs - mean) / std
    return min(float(ready.min()), 0.0), max(float(ready.max()), 0.0)  # 0 is what invalid pixels become


def resize_contract(contract: Preprocessing, size_px: int) -> Preprocessing:
    """Return ``contract`` with images interpolated to ``size_px``."""
    expect(size_px >= 1, expected="a size of at least 1 px", got=size_px, remedy="give a positive number")
    return dataclasses.replace(contract, size_px=size_px, resize="to_size")


def check_multiple(size_px: int, *, patch_px: int, name: str) -> None:
    """Refuse a side that patches of ``patch_px`` do not tile, naming the nearest ones that they do."""
    below = size_px // patch_px * patch_px
    near = " or ".join(str(side) for side in (below, below + patch_px) if side > 0)
    expect(
        size_px >= 1 and size_px % patch_px == 0,
        expected=f"a size that is a multiple of the patch of {patch_px} px of {name}",
        got=f"{size_px} px",
        remedy=f"choose {near}",
    )


def hash_tensors(tensors: Mapping[str, Tensor], identity: Mapping[str, Any]) -> str:
    """Fingerprint of named tensors (name, dtype, shape, bytes) together with plain values."""
    rows = []
    for key in sorted(tensors):
        values = tensors[key].detach().cpu().contiguous()
        digest = hashlib.sha256(values.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        rows.append([key, str(values.dtype), list(values.shape), digest])
    return fingerprint({"tensors": rows, "identity": dict(identity)})

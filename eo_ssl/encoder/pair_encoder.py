"""What evaluation, fine-tuning and export ask of an encoder of two sensors, whatever joins them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from eo_ssl.encoder.protocol import Encoder


class PairEncoder(nn.Module, ABC):
    """One vector for a radar and an optical image of the same ground, each behind a contract of its own."""

    name: str
    radar: Encoder
    "of radar images alone; its contract is that of the radar images of a pair"
    optical: Encoder
    "of optical images alone, likewise"
    size_px: int
    "side of both images as the network takes them"
    reads_valid: bool
    "whether it leaves out what is invalid"

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of a feature vector."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Sha256 over all weights and both contracts."""

    @property
    @abstractmethod
    def provenance(self) -> Mapping[str, Any]:
        """Where the weights come from, as of an encoder of one sensor."""

    @property
    @abstractmethod
    def trunks(self) -> tuple[nn.Module, ...]:
        """Transformers inside, whose ``blocks`` a training may skip by chance."""

    @property
    @abstractmethod
    def words(self) -> str:
        """What joins the sensors, in words, for tables and cards."""

    @abstractmethod
    def features(
        self,
        radar: Tensor,
        optical: Tensor,
        *,
        radar_valid: Tensor | None = None,
        optical_valid: Tensor | None = None,
    ) -> Tensor:
        """One vector for each pair of images, [B, D] float32.

        Args:
            radar: [B, C, H, W] float32, output of the radar encoder's contract.
            optical: [B, C, H, W] float32, output of the optical encoder's contract.
            radar_valid: [B, C, H, W] bool, of the contract; None for everywhere.
            optical_valid: the same of the optical image.

        Raises:
            UserError: images of different grids of patches, or what an encoder refuses.
        """

    @abstractmethod
    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Layer of each parameter by name, from the images to the vector; timm asks its networks by this name."""

    @abstractmethod
    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are never drawn towards zero, as timm asks its networks."""

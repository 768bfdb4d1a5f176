"""Our trained encoder: a vision transformer with a named pooling."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Self

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from eo_ssl.encoder.protocol import Frozen, check_multiple, content, resized
from eo_ssl.errors import UserError
from eo_ssl.models.vit import VitConfig
from eo_ssl.preprocessing import Preprocessing

Pooling = Literal["cls", "mean"]


class VitEncoder(Frozen):
    """A vision transformer of ours with a named pooling."""

    def __init__(
        self,
        model: VisionTransformer,
        preprocessing: Preprocessing,
        *,
        architecture: VitConfig,
        pooling: Pooling,
        name: str = "vit",
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name, preprocessing, provenance or {})
        check_fit(architecture, preprocessing, pooling)
        self.model = model
        self.architecture = architecture
        self.pooling: Pooling = pooling
        self.eval()

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return int(self.model.embed_dim)

    @property
    def fingerprint(self) -> str:
        """Sha256 over weights, architecture, pooling and contract."""
        return content(self.model.state_dict(), identity(self.architecture, self.pooling, self.preprocessing))

    def features(self, x: Tensor, *, valid: Tensor | None = None) -> Tensor:
        """Class token, or mean of the patch tokens: [B, C, H, W] -> [B, D]; missing pixels are the band's mean, as in training."""
        encoded = self._encoded(x)  # [B, P + N, D]
        return encoded[:, 0] if self.pooling == "cls" else encoded[:, self.model.num_prefix_tokens :].mean(dim=1)

    def tokens(self, x: Tensor) -> Tensor:
        """Patch tokens, without class token: [B, C, H, W] -> [B, N, D]."""
        return self._encoded(x)[:, self.model.num_prefix_tokens :]

    def at_size(self, size_px: int) -> Self:
        """Return this encoder for images of another side, its position codes interpolated (bicubic, antialiased: timm's resampling).

        Sine-cosine codes are interpolated like learned ones: the images show the same ground with more or fewer pixels, so a patch
        keeps its place in the image, between places seen in training. Codes computed anew would put the patches of a larger image at
        coordinates that no training image had.

        Raises:
            UserError: a size that is no multiple of the patch; the nearest ones are named.
        """
        check_multiple(size_px, patch_px=self.architecture.patch_size, name=self.name)
        twin = self._behind(resized(self.preprocessing, size_px))
        if size_px != self.architecture.img_size:
            twin.model = copy.deepcopy(self.model)
            twin.model.set_input_size(img_size=(size_px, size_px))
            twin.architecture = dataclasses.replace(self.architecture, img_size=size_px)
        return twin

    def _check_size(self, contract: Preprocessing) -> None:
        size = self.architecture.img_size
        if contract.resize != "native" and contract.size_px != size:
            raise UserError(
                f"expected a contract of {size} px for {self.name}, got {contract.size_px} px; "
                f"take `at_size({contract.size_px})` of the encoder first"
            )

    def _encoded(self, x: Tensor) -> Tensor:
        size = self.architecture.img_size
        if tuple(x.shape[1:]) != (self.architecture.in_chans, size, size):
            raise UserError(
                f"expected input [B, {self.architecture.in_chans}, {size}, {size}] for {self.name}, got {tuple(x.shape)}; "
                "pass the output of its preprocessing, with resize = to_size or crop for images of another size"
            )
        encoded: Tensor = self.model.forward_features(x)
        return encoded


def check_fit(architecture: VitConfig, preprocessing: Preprocessing, pooling: str) -> None:
    """Refuse an unknown pooling, and an architecture for other bands or another size than the contract gives."""
    if pooling not in ("cls", "mean"):
        raise UserError(
            f"expected pooling cls or mean, got {pooling!r}; the class token or the mean of the patch tokens"
        )
    got = (architecture.in_chans, architecture.img_size)
    wanted = (
        len(preprocessing.bands),
        architecture.img_size if preprocessing.resize == "native" else preprocessing.size_px,
    )
    if got != wanted:
        raise UserError(
            f"expected an architecture for the contract's {wanted[0]} bands and {wanted[1]} px, got {got[0]} bands and {got[1]} px; match them"
        )


def identity(architecture: VitConfig, pooling: str, preprocessing: Preprocessing) -> dict[str, Any]:
    """Return everything but the weights that makes two encoders the same."""
    return {"architecture": architecture.to_json(), "pooling": pooling, "preprocessing": preprocessing.to_json()}

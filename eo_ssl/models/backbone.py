"""What an objective may ask of a network: images with named bands in, one vector per image and one per patch out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from eo_ssl.errors import UserError, expect, suggest_nearest
from eo_ssl.image_metadata import WIDTH, MetadataKind
from eo_ssl.models.attention import find_gaps
from eo_ssl.preprocessing import Preprocessing


@dataclass(frozen=True, slots=True)
class View:
    """Images as a network sees them; `pixels` is what enters it."""

    image: Tensor
    """[B, C, H, W] float32, normalised; holds any value where invalid."""
    valid: Tensor
    """[B, C, H, W] bool."""
    bands: tuple[str, ...]
    """Names of C: a network finds its channels by name, never by position."""
    stream: str = "tile"
    """Stream of the item that it was made of, which is the name of its encoder too."""
    metadata: Tensor | None = None
    """[B, 5] float32, of each image beside its pixels: days since 2015-01-01, longitude and latitude of the tile's
    middle, degrees, side of a pixel of this view on the ground, metres, and angle of incidence, degrees; NaN where
    unknown, None for nothing known."""
    seed: int | None = None
    """Of what a network in training draws for this view, such as metadata that it leaves out; None draws nothing."""
    bands_seed: int | None = None
    """Of the bands that a network in training leaves out, the same for all views of a step; None leaves out none."""

    @property
    def pixels(self) -> Tensor:
        """The image with invalid pixels at zero, the band's mean after normalisation: [B, C, H, W] float32."""
        # what a file holds in place of missing data must reach neither a network nor a loss
        if self.valid.is_cpu and find_gaps(self.valid) is None:  # a GPU would have to wait for the answer
            return self.image
        return torch.where(self.valid, self.image, self.image.new_zeros(()))

    @property
    def lonlat(self) -> Tensor | None:
        """[B, 2] float32, longitude and latitude, degrees; NaN where unknown, None for nothing known."""
        return None if self.metadata is None else self.metadata[:, 1:3]

    def __len__(self) -> int:
        """Images of the view."""
        return len(self.image)


def join_views(views: Sequence[View]) -> View:
    """Views of one stream and size, one after the other."""
    known = None
    if any(view.metadata is not None for view in views):
        unknown = [view.image.new_full((len(view), WIDTH), torch.nan, dtype=torch.float32) for view in views]
        known = torch.cat(
            [nothing if view.metadata is None else view.metadata for view, nothing in zip(views, unknown, strict=True)]
        )
    image, valid = torch.cat([view.image for view in views]), torch.cat([view.valid for view in views])
    return replace(views[0], image=image, valid=valid, metadata=known)


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a network makes of a view."""

    pooled: Tensor
    """[B, D], one vector per image."""
    patches: Tensor
    """[B, N, D], one vector per patch in raster order, or per patch that was kept."""
    prefix: Tensor
    """[B, P, D], class and register tokens; P = 0 for a network without."""
    seen: Tensor | None = None
    """[B, N] bool, patches that took part; None for all. What stands for the others tells of the image around them."""


class Backbone(nn.Module, ABC):
    """A network around a timm model, or one of ours, whose weights are saved as it has them."""

    reads_valid: ClassVar[bool] = False
    """Whether it leaves out what is invalid; others see the band's mean there."""
    network: nn.Module
    """The timm model or our own; its state dict is what an encoder's file holds."""
    config: BackboneConfig
    """What rebuilds it without its weights."""
    dim: int
    """Length of a feature vector."""

    def __init__(self, network: nn.Module, config: BackboneConfig) -> None:
        """Wrap `network`, which `config` describes."""
        super().__init__()
        self.network, self.config = network, config

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of its input channels, in order."""
        return self.config.bands

    @abstractmethod
    def forward(self, view: View) -> Tokens:
        """Encode every patch of the view, of any size that the patches or strides divide."""

    @abstractmethod
    def at_size(self, size_px: int) -> Self:
        """The same weights for images of another side, pixels; position codes are interpolated."""

    def without_metadata(self) -> Self:
        """The same network for images of which nothing else is known, without what would encode it: the same bits."""
        return self

    def mark_input(self, x: Tensor, valid: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What `network` alone takes of pixels [B, C, H, W], valid or zero: its input, and options beside it."""
        return x, {}

    def channels(self, view: View) -> Tensor:
        """The view's pixels with channels in this network's order: [B, C, H, W] float32.

        Raises:
            UserError: the view lacks a band of the network.
        """
        return self.order_bands(view).pixels

    def order_bands(self, view: View) -> View:
        """The view with its channels in this network's order.

        Raises:
            UserError: the view lacks a band of the network.
        """
        if view.bands == self.bands:
            return view
        absent = [band for band in self.bands if band not in view.bands]
        if absent:
            raise UserError(
                f"expected a view with the bands {', '.join(self.bands)}, got {', '.join(view.bands)} without"
                f" {', '.join(absent)}; make the view of a stream that holds them"
            )
        order = [view.bands.index(band) for band in self.bands]
        return replace(view, image=view.image[:, order], valid=view.valid[:, order], bands=self.bands)


class MaskableBackbone(Backbone):
    """A transformer: it encodes a part of the patches, or a token in place of some; masked objectives need one."""

    patch_px: int
    """Side of a patch, pixels."""
    grid: tuple[int, int]
    """Rows and columns of patches of an image of the size it was built for."""

    @abstractmethod
    def visible(self, view: View, keep: Tensor) -> Tokens:
        """Encode the patches `keep` [B, K] int64 (raster indices) alone, which then see only each other.

        With `keep` [B, M, K] each image is encoded M times, other patches each time: M * B rows, those of an image
        beside each other.
        """

    @abstractmethod
    def masked(self, view: View, mask: Tensor, token: Tensor) -> Tokens:
        """Encode all positions, with `token` [D] in place of the patches where `mask` [B, N] is true."""

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(cast(nn.Sequential, self.network.blocks))

    def layers(self, view: View, *, last: int, part: Literal["block", "mlp"]) -> list[Tensor]:
        """What the `last` blocks make of every patch, before the final norm: [B, N, D] each, the deepest at the end.

        Args:
            view: encoded whole.
            last: number of blocks.
            part: `block` for what a block gives to the next, `mlp` for what its second half adds.
        """
        blocks = list(cast(nn.Sequential, self.network.blocks))[-last:]
        found: list[Tensor] = []
        # A compiled block may be one that was traced without the hook of a part inside of it.
        plain = torch.compiler.set_stance("force_eager") if part == "mlp" else nullcontext()
        with (
            plain,
            _hooked(
                (block if part == "block" else cast(nn.Module, block.mlp)).register_forward_hook(
                    lambda module, inputs, output: found.append(output)
                )
                for block in blocks
            ),
        ):
            prefix = self.forward(view).prefix.shape[1]
        return [tokens[:, prefix:] for tokens in found]

    def visible_layers(self, view: View, keep: Tensor) -> tuple[Tokens, list[Tensor]]:
        """What `visible` gives, and what entered each block on the way: [B, P + K, D] each, P prefix tokens first."""
        found: list[Tensor] = []
        with _hooked(
            block.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0]))
            for block in cast(nn.Sequential, self.network.blocks)
        ):
            tokens = self.visible(view, keep)
        return tokens, found


@contextmanager
def _hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Hooks of modules that act inside the block alone."""
    kept = list(handles)
    try:
        yield
    finally:
        for handle in kept:
            handle.remove()


class Architecture(ABC):
    """A frozen dataclass chosen by its class name: what builds a backbone for named bands and an image size."""

    family: ClassVar[str]
    """Its name in the file of an encoder."""
    title: ClassVar[str]
    """What it is called in a sentence."""
    short: ClassVar[str]
    """What it is called in a table."""
    name: str
    """Name registered in timm."""
    pooling: str
    """How its positions become one vector: `mean`, `cls` or `avg`."""
    metadata: tuple[MetadataKind, ...] = ()
    """What it may be told of an image beside its pixels."""

    @abstractmethod
    def build(self, bands: tuple[str, ...], size_px: int, seed: int, *, sensor: str = "") -> Backbone:
        """A backbone with initial weights drawn from `seed`.

        Args:
            bands: names of the input channels, in order.
            size_px: side of the images, pixels.
            seed: of the initial weights.
            sensor: registered name of the sensor whose bands they are, for networks that must know what a band is.

        Raises:
            UserError: a name that timm does not know, or options that do not fit the size.
        """

    @abstractmethod
    def to_json(self, *, bands: int, size_px: int) -> dict[str, Any]:
        """Plain values that the file of an encoder holds, without the pooling; `from_json` takes them."""

    @classmethod
    @abstractmethod
    def from_json(cls, values: Mapping[str, Any], *, pooling: str) -> Self:
        """The architecture of an encoder's file.

        Raises:
            UserError: an unknown field.
        """

    @abstractmethod
    def timm_options(self, *, bands: int, size_px: int) -> dict[str, Any]:
        """What `timm.create_model` takes beside the name so that the network gives the pooled vector of an image."""

    @property
    def in_timm(self) -> bool:
        """Whether timm rebuilds the network from `name` and `timm_options`, which else are of its trunk."""
        return True

    @property
    def variant(self) -> str:
        """What it is called where it matters that timm cannot name it."""
        return self.title

    def adapt_contract(self, contract: Preprocessing) -> Preprocessing:
        """The contract of an encoder of this architecture that is trained under `contract`: what more it accepts."""
        return replace(contract, metadata=self.metadata)

    def averaged(self) -> Architecture:
        """The same network with the mean of its positions for a vector, told nothing: that needs no trained token."""
        return self


@dataclass(frozen=True, slots=True)
class BackboneConfig:
    """What rebuilds a backbone without its weights."""

    model: Architecture
    bands: tuple[str, ...]
    """Names of the input channels, in order."""
    size_px: int
    """Side of the images, pixels."""
    sensor: str = ""
    """Registered name of the sensor whose bands they are; empty for networks that need not know."""

    def build(self, seed: int = 0) -> Backbone:
        """The backbone with initial weights drawn from `seed`."""
        return self.model.build(self.bands, self.size_px, seed, sensor=self.sensor)

    def to_json(self) -> dict[str, Any]:
        """Plain values: registered name, sizes and options."""
        return self.model.to_json(bands=len(self.bands), size_px=self.size_px)

    @property
    def timm_options(self) -> dict[str, Any]:
        """What `timm.create_model` takes beside the name so that the network gives the pooled vector of an image."""
        return self.model.timm_options(bands=len(self.bands), size_px=self.size_px)


def check_fields(values: Mapping[str, Any], known: Sequence[str], *, title: str) -> None:
    """Refuse fields of an encoder's file that its architecture does not have.

    Raises:
        UserError: naming the first.
    """
    for key in values:
        expect(
            key in known,
            expected=f"the fields {', '.join(known)} of a {title}",
            got=f"'{key}'{suggest_nearest(key, known)}",
            remedy="remove or rename it",
        )


@contextmanager
def seed_weights(seed: int) -> Iterator[None]:
    """Draw initial weights from `seed` inside the block and leave torch's global generator as it was.

    timm and torch initialise from the global generator only, so it is borrowed, not used.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def require_maskable(backbone: Backbone, *, method: str) -> MaskableBackbone:
    """The backbone under its own type.

    Raises:
        UserError: a network that cannot leave out patches.
    """
    if not isinstance(backbone, MaskableBackbone):
        raise UserError(
            f"expected a transformer for {method}, which hides patches, got {type(backbone).__name__};"
            " choose --model Vit, or an objective that compares whole images"
        )
    return backbone

"""An encoder that timm cannot name, as a module of its own: program and weights in one file that torch opens."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eo_ssl.encoder import FusedEncoder, TrainedEncoder
from eo_ssl.export.standalone import FillInvalid, make_transforms

MODULE_FILE = "module/encoder.pt2"
MODULE_LINE = 'torch.export.load("module/encoder.pt2").module()'
"""What opens it, inside the bundle."""


def list_inputs(encoder: TrainedEncoder | FusedEncoder) -> dict[str, TrainedEncoder]:
    """Names of the images that an encoder takes, and the encoder whose contract each is prepared by."""
    if isinstance(encoder, FusedEncoder):
        return {"radar": encoder.radar, "optical": encoder.optical}
    return {"image": encoder}


class FeatureModule(nn.Module):
    """Features of an encoder, of its normalised input or of physical values at its input size.

    A network that leaves out what is invalid is told so by values that are not a number, in either input.
    """

    def __init__(self, encoder: TrainedEncoder, *, physical: bool = False) -> None:
        super().__init__()
        self.encoder, self.marked = encoder, encoder.backbone.reads_valid
        self.before = _make_steps(encoder, physical=physical, marked=self.marked)

    def forward(self, image: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, D]."""
        x = self.before(image)
        if not self.marked:
            return self.encoder.features(x)
        x, valid = _take_marks(x)
        return self.encoder.features(x, valid=valid)


class PairModule(nn.Module):
    """Features of an encoder of two sensors, of both normalised inputs or of physical values at its input size.

    What is invalid is not a number in either input: networks that leave it out are told so, others see zeros there.
    """

    def __init__(self, encoder: FusedEncoder, *, physical: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.first, self.second = (
            _make_steps(part, physical=physical, marked=True) for part in list_inputs(encoder).values()
        )

    def forward(self, radar: Tensor, optical: Tensor) -> Tensor:
        """[B, C, H, W] of each sensor -> [B, D]."""
        first, first_valid = _take_marks(self.first(radar))
        second, second_valid = _take_marks(self.second(optical))
        return self.encoder.features(first, second, radar_valid=first_valid, optical_valid=second_valid)


def _make_steps(encoder: TrainedEncoder, *, physical: bool, marked: bool) -> nn.Module:
    """What stands before a network; `marked` keeps what is invalid not a number."""
    if not physical:
        return nn.Identity()
    steps = make_transforms(json.loads(json.dumps(encoder.preprocessing.to_json())), resize=False)
    return nn.Sequential(*(step for step in steps if not (marked and type(step) is FillInvalid)))


def _take_marks(x: Tensor) -> tuple[Tensor, Tensor]:
    valid = ~torch.isnan(x)
    return torch.where(valid, x, 0.0), valid


def make_graph_inputs(
    encoder: TrainedEncoder | FusedEncoder, *, physical: bool = False
) -> tuple[nn.Module, tuple[Tensor, ...], dict[str, Any]]:
    """Return a module to export in evaluation mode, examples of its inputs, and which of their sides are free."""
    module = (PairModule if isinstance(encoder, FusedEncoder) else FeatureModule)(encoder, physical=physical)  # type: ignore[arg-type]
    parts, batch = list_inputs(encoder), torch.export.Dim("batch")
    sides = {name: (len(part.architecture.bands), part.architecture.size_px) for name, part in parts.items()}
    examples = tuple(torch.zeros(2, bands, side, side) for bands, side in sides.values())
    return module.eval(), examples, {name: {0: batch} for name in parts}


def make_module(encoder: TrainedEncoder | FusedEncoder) -> bytes:
    """Return a program of torch.export, ``image`` [batch, C, s, s] float32 -> features [batch, D], the batch free.

    Of an encoder of two sensors the inputs are ``radar`` and ``optical``. Where the network leaves out what is invalid,
    that is NaN in the input.
    """
    module, examples, free = make_graph_inputs(encoder)
    with torch.no_grad():
        program = torch.export.export(module, examples, dynamic_shapes=free)
    out = io.BytesIO()
    torch.export.save(program, out)
    return out.getvalue()


@torch.no_grad()
def run_module(folder: Path, *images: Tensor) -> Tensor:
    """Return what a user of torch alone gets from the bundle ``folder``: images [n, C, s, s] -> features [n, D]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own file
        features: Tensor = torch.export.load(folder / MODULE_FILE).module()(*images)
    return features

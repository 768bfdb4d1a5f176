"""An encoder that timm cannot name, as a module of its own: program and weights in one file that torch opens."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from eo_ssl.encoder import TrainedEncoder
from eo_ssl.export.standalone import FillInvalid, make_transforms

MODULE_FILE = "module/encoder.pt2"
MODULE_LINE = 'torch.export.load("module/encoder.pt2").module()'
"""What opens it, inside the bundle."""


class FeatureModule(nn.Module):
    """Features of an encoder, of its normalised input or of physical values at its input size.

    A network that leaves out what is invalid is told so by values that are not a number, in either input.
    """

    def __init__(self, encoder: TrainedEncoder, *, physical: bool = False) -> None:
        super().__init__()
        self.encoder, self.marked = encoder, encoder.backbone.reads_valid
        self.before: nn.Module = nn.Identity()
        if physical:
            contract = json.loads(json.dumps(encoder.preprocessing.to_json()))
            steps = make_transforms(contract, resize=False)
            self.before = nn.Sequential(*(step for step in steps if not (self.marked and type(step) is FillInvalid)))

    def forward(self, image: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, D]."""
        x = self.before(image)
        if not self.marked:
            return self.encoder.features(x)
        valid = ~torch.isnan(x)
        return self.encoder.features(torch.where(valid, x, 0.0), valid=valid)


def make_module(encoder: TrainedEncoder) -> bytes:
    """Return a program of torch.export, ``image`` [batch, C, s, s] float32 -> features [batch, D], the batch free.

    Where the network leaves out what is invalid, that is NaN in ``image``.
    """
    side = encoder.architecture.size_px
    example = torch.zeros(2, len(encoder.architecture.bands), side, side)
    free = {"image": {0: torch.export.Dim("batch")}}
    with torch.no_grad():
        program = torch.export.export(FeatureModule(encoder).eval(), (example,), dynamic_shapes=free)
    out = io.BytesIO()
    torch.export.save(program, out)
    return out.getvalue()


@torch.no_grad()
def run_module(folder: Path, x: Tensor) -> Tensor:
    """Return what a user of torch alone gets from the bundle ``folder`` for ``x`` [n, C, s, s]: features [n, D]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own file
        features: Tensor = torch.export.load(folder / MODULE_FILE).module()(x)
    return features

"""The encoder of two sensors: both encoders of a run, each behind its contract, and what joins their tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from timm.models import group_parameters
from torch import Tensor, nn

from eo_ssl.commits import commit
from eo_ssl.documents import check_not_newer
from eo_ssl.encoder.protocol import hash_tensors
from eo_ssl.encoder.storage import ENCODER_FILE, read_encoder, sort_header
from eo_ssl.encoder.trained import TrainedEncoder
from eo_ssl.errors import expect
from eo_ssl.fingerprints import dump_canonical_json, fingerprint
from eo_ssl.manifest import require
from eo_ssl.models import FUSIONS, FusionEncoder, MaskableBackbone, SensorFusion

FUSION_FILE = "fusion.safetensors"
FORMAT = max(fusion.format for fusion in FUSIONS.values())  # of the metadata inside the file, the newest
RADAR, OPTICAL = "s1", "s2"
"""Folders of both encoders beside the file."""

_PREFIXES = ("radar.model.", "optical.model.")
"""Of the names of the parameters of both networks."""


class FusedEncoder(nn.Module):
    """One vector for a radar and an optical image of the same ground: the mean of their joint tokens."""

    def __init__(self, radar: TrainedEncoder, optical: TrainedEncoder, fusion: SensorFusion, *, name: str) -> None:
        super().__init__()
        self.radar, self.optical, self.fusion, self.name = radar, optical, fusion, name
        self.eval()

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return self.radar.dim

    @property
    def fingerprint(self) -> str:
        """Sha256 over both encoders and what joins them, as the manifest of their run has it."""
        joined = hash_tensors(self.fusion.state_dict(), self.fusion.sizes)
        return fingerprint({RADAR: self.radar.fingerprint, OPTICAL: self.optical.fingerprint, "fusion": joined})

    @property
    def provenance(self) -> Mapping[str, Any]:
        """That of the run, which both encoders carry."""
        return self.radar.provenance

    @property
    def size_px(self) -> int:
        """Side of both images as the networks take them, pixels."""
        return self.radar.architecture.size_px

    @property
    def trunks(self) -> tuple[nn.Module, ...]:
        """The networks of both encoders."""
        return self.radar.model, self.optical.model

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Layer of each parameter by name, as timm asks its networks: both encoders side by side, what joins on top."""
        layers: dict[str, int] = {}
        for prefix, network in zip(_PREFIXES, self.trunks, strict=True):
            own = group_parameters(network, network.group_matcher(coarse=coarse), reverse=True)  # type: ignore[operator]
            layers |= {prefix + name: layer for name, layer in own.items()}
        lowest, names = max(layers.values()) + 1, [name for name, _ in self.fusion.named_parameters()]
        blocks = [int(name.split(".")[1]) if name.startswith("blocks.") else None for name in names]
        last = max((block for block in blocks if block is not None), default=0)  # the norm goes with the last block
        joined = zip(names, blocks, strict=True)
        layers |= {f"fusion.{name}": lowest + (last if block is None else block) for name, block in joined}
        return layers.__getitem__

    def no_weight_decay(self) -> set[str]:
        """Parameters that are never drawn towards zero, as timm asks its networks: positions of both encoders."""
        pairs = zip(_PREFIXES, self.trunks, strict=True)
        return {prefix + name for prefix, network in pairs for name in network.no_weight_decay()}  # type: ignore[operator]

    def without_metadata(self) -> FusedEncoder:
        """Return the encoder as it is for images of which nothing else is known: the same features, bit for bit."""
        radar, optical = self.radar.without_metadata(), self.optical.without_metadata()
        if radar is self.radar and optical is self.optical:
            return self
        self.fusion.join_encoders((radar.backbone, optical.backbone))  # type: ignore[arg-type]
        return FusedEncoder(radar, optical, self.fusion, name=self.name)

    def features(
        self,
        radar: Tensor,
        optical: Tensor,
        *,
        radar_valid: Tensor | None = None,
        optical_valid: Tensor | None = None,
        radar_metadata: Tensor | None = None,
        optical_metadata: Tensor | None = None,
    ) -> Tensor:
        """One vector for each pair of images, [B, D] float32.

        Args:
            radar: [B, C, H, W] float32, output of the radar encoder's contract.
            optical: [B, C, H, W] float32, output of the optical encoder's contract.
            radar_valid: [B, C, H, W] bool, of the contract; None for everywhere.
            optical_valid: the same of the optical image.
            radar_metadata: [B, 5], where the radar encoder's contract takes some, as `describe_input` gives it.
            optical_metadata: the same of the optical image.

        Raises:
            UserError: images of different grids of patches, or what an encoder refuses.
        """
        images = (
            (self.radar, radar, radar_valid, radar_metadata),
            (self.optical, optical, optical_valid, optical_metadata),
        )
        views = [encoder.make_view(x, valid, metadata) for encoder, x, valid, metadata in images]
        backbones: list[MaskableBackbone] = [self.radar.backbone, self.optical.backbone]  # type: ignore[list-item]
        expect(
            backbones[0].grid == backbones[1].grid,
            expected="as many patches of both sensors",
            got=" and ".join(str(rows * cols) for rows, cols in (one.grid for one in backbones)),
            remedy="give images of the same ground and size",
        )
        return self.fusion.pool(backbones, views)


def save_fusion(folder: Path, fusion: SensorFusion) -> str:
    """Write ``folder/fusion.safetensors`` and return its fingerprint; equal content, equal bytes.

    The encoders whose tokens it joins lie in the folders s1 and s2 beside it; the manifest of the run seals all three.

    Raises:
        UserError: another one is there already.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in fusion.state_dict().items()}
    metadata = {"format": str(fusion.format), "sizes": dump_canonical_json(fusion.sizes)}
    if fusion.format > FusionEncoder.format:  # the first, whose files say no kind
        metadata["kind"] = fusion.kind
    data, path = sort_header(safetensors.torch.save(tensors, metadata)), Path(folder) / FUSION_FILE
    expect(
        commit(path, data) or path.read_bytes() == data,
        expected=f"no other fusion at {path}",
        got="one with other weights",
        remedy="give another output folder",
    )
    return hash_tensors(tensors, fusion.sizes)


def is_fused(folder: str | Path) -> bool:
    """Whether ``folder`` is that of an encoder of two sensors."""
    return (Path(folder) / FUSION_FILE).is_file()


def load_fused_encoder(folder: str | Path) -> FusedEncoder:
    """The encoder of two sensors in the folder of a finished pretraining, such as that of `Croma` or `MultiMae`.

    Raises:
        UserError: no such folder, a file that is not as the run made it, or one of a newer format.
    """
    root = Path(folder)
    path = root / FUSION_FILE
    expect(
        path.is_file(),
        expected=f"an encoder of two sensors in {root}",
        got="none",
        remedy="name a folder that `eo-ssl pretrain --objective Croma` or MultiMae wrote",
    )
    require(root, "pretrain")  # compares every file of the run with its checksum
    with safetensors.safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
    check_not_newer(metadata.get("format"), FORMAT, what="fusion format", at=str(path))
    fusion = FUSIONS[metadata.get("kind", FusionEncoder.kind)](**json.loads(metadata["sizes"]))
    fusion.load_state_dict(tensors)
    radar, optical = (read_encoder(root / stream / ENCODER_FILE) for stream in (RADAR, OPTICAL))
    fusion.join_encoders((radar.backbone, optical.backbone))  # type: ignore[arg-type]
    return FusedEncoder(radar, optical, fusion, name=root.resolve().name)

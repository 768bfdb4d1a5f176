"""Encoders: anything that maps the input of its preprocessing contract to features, and how ours are saved and loaded.

Three of them need no training and are the honest baselines of every result: image statistics, random convolutional features and a
network with random weights (METHODS 4.2).
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from eo_ssl.errors import UserError, nearest
from eo_ssl.manifest import canonical_json, commit, fingerprint, require
from eo_ssl.models.vit import VitConfig, make_vit, mean_patch_token, seeded_init
from eo_ssl.preprocessing import Preprocessing

ENCODER_FILE = "encoder.safetensors"
FORMAT = 1  # of the metadata inside the weights file
WEIGHT_FREE = ("imagestats", "rcf", "random_init", "random_resnet50")
Pooling = Literal["cls", "mean"]
_RCF_BATCH = 16  # images convolved at once: 256 maps of 64 x 64 float32 are 4 MB per image


@runtime_checkable
class Encoder(Protocol):
    """What evaluation asks of an encoder; x is always the output of its own ``preprocessing``."""

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
    def features(self, x: Tensor) -> Tensor:
        """[B, C, H, W] float32 -> one vector per image, [B, D] float32."""
        ...

    def tokens(self, x: Tensor) -> Tensor:
        """[B, C, H, W] float32 -> one vector per position, [B, N, D] float32, row by row."""
        ...


class _Frozen(nn.Module):
    """Name, contract and origin, common to all encoders of this module; made in evaluation mode."""

    def __init__(self, name: str, preprocessing: Preprocessing, provenance: Mapping[str, Any]) -> None:
        super().__init__()
        self.name = name
        self.preprocessing = preprocessing
        self.provenance: Mapping[str, Any] = dict(provenance)

    @property
    def fingerprint(self) -> str:
        """Sha256 over weights and contract; provenance and the order of the file do not enter."""
        return _content(
            self.state_dict(), {"encoder": type(self).__name__, "preprocessing": self.preprocessing.to_json()}
        )


class VitEncoder(_Frozen):
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
        _check_fit(architecture, preprocessing, pooling)
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
        return _content(self.model.state_dict(), _identity(self.architecture, self.pooling, self.preprocessing))

    def features(self, x: Tensor) -> Tensor:
        """Class token, or mean of the patch tokens: [B, C, H, W] -> [B, D]."""
        encoded = self._encoded(x)  # [B, P + N, D]
        return encoded[:, 0] if self.pooling == "cls" else mean_patch_token(self.model, encoded)

    def tokens(self, x: Tensor) -> Tensor:
        """Patch tokens, without class token: [B, C, H, W] -> [B, N, D]."""
        return self._encoded(x)[:, self.model.num_prefix_tokens :]

    def _encoded(self, x: Tensor) -> Tensor:
        size = self.architecture.img_size
        if tuple(x.shape[1:]) != (self.architecture.in_chans, size, size):
            raise UserError(
                f"expected input [B, {self.architecture.in_chans}, {size}, {size}] for {self.name}, got {tuple(x.shape)}; "
                "pass the output of its preprocessing, with resize = to_size or crop for images of another size"
            )
        encoded: Tensor = self.model.forward_features(x)
        return encoded


class ImageStats(_Frozen):
    """Mean, standard deviation (unbiased), maximum and minimum of each band: 4C numbers, no weights (METHODS 4.2)."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__("imagestats", preprocessing, {"weights": "none"})

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return 4 * len(self.preprocessing.bands)

    def features(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 4C]: all means, all standard deviations, all maxima, all minima."""
        flat = x.flatten(2)  # [B, C, H*W]
        std, mean = torch.std_mean(flat, dim=2, correction=1)
        low, high = torch.aminmax(flat, dim=2)
        return torch.cat([mean, std, high, low], dim=1)

    def tokens(self, x: Tensor) -> Tensor:
        """The whole image is the one position: [B, 1, 4C]."""
        return self.features(x)[:, None]


class RandomFeatures(_Frozen):
    """Random convolutional features (MOSAIKS, Rolf et al. 2021, doi:10.1038/s41467-021-24638-z): Gaussian 3 x 3 filters, seeded."""

    weights: Tensor
    bias: Tensor

    def __init__(self, preprocessing: Preprocessing, *, features: int = 512, bias: float = -1.0, seed: int = 0) -> None:
        super().__init__("rcf", preprocessing, {"weights": "random", "seed": seed})
        if features < 2 or features % 2:
            raise UserError(f"expected an even number of random features, got {features}; each filter gives two")
        rng = torch.Generator().manual_seed(seed)
        self.register_buffer("weights", torch.randn(features // 2, len(preprocessing.bands), 3, 3, generator=rng))
        self.register_buffer("bias", torch.full((features // 2,), bias))

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return 2 * self.weights.shape[0]

    def features(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, D]: means over the valid positions of relu(y), then of relu(-y), y = filters * x + bias."""
        return torch.cat([self._pooled(part) for part in torch.split(x, _RCF_BATCH)])

    def _pooled(self, x: Tensor) -> Tensor:
        y = nn.functional.conv2d(x, self.weights, self.bias)  # [b, F/2, H-2, W-2]
        whole = y.mean(dim=(2, 3))
        positive = y.relu_().mean(dim=(2, 3))
        return torch.cat([positive, positive - whole], dim=1)  # relu(-y) = relu(y) - y

    def tokens(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, (H-2)*(W-2), D]."""
        y = nn.functional.conv2d(x, self.weights, self.bias)
        return torch.cat([y.relu(), (-y).relu()], dim=1).flatten(2).transpose(1, 2)


class RandomResNet(_Frozen):
    """ResNet-50 (timm) with random weights, batch normalisation with mean 0 and variance 1 (METHODS 4.2)."""

    def __init__(self, preprocessing: Preprocessing, *, seed: int = 0) -> None:
        super().__init__("random_resnet50", preprocessing, {"weights": "random", "seed": seed})
        self.model: Any
        with seeded_init(seed):
            self.model = timm.create_model(
                "resnet50", pretrained=False, in_chans=len(preprocessing.bands), num_classes=0
            )
        self.eval()

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return int(self.model.num_features)

    def features(self, x: Tensor) -> Tensor:
        """Mean over positions: [B, C, H, W] -> [B, 2048]."""
        pooled: Tensor = self.model(x)
        return pooled

    def tokens(self, x: Tensor) -> Tensor:
        """Last feature map: [B, C, H, W] -> [B, H/32 * W/32, 2048]."""
        grid: Tensor = self.model.forward_features(x)
        return grid.flatten(2).transpose(1, 2)


def save_encoder(
    folder: Path,
    model: VisionTransformer,
    *,
    architecture: VitConfig,
    preprocessing: Preprocessing,
    pooling: Pooling,
    provenance: Mapping[str, Any],
) -> str:
    """Write ``folder/encoder.safetensors``, weights with contract, architecture and provenance inside, and return its fingerprint.

    The state dict is plain timm; equal content gives equal bytes. The caller's manifest makes the folder a finished product.

    Args:
        folder: of the encoder.
        model: of `make_vit(architecture)`.
        architecture: what rebuilds the model.
        preprocessing: the contract; as many bands as the architecture has input channels.
        pooling: `cls` or `mean`, how a feature vector is made of the tokens.
        provenance: plain values that say where the weights come from (corpus, objective, config, seed, steps).

    Raises:
        UserError: architecture and contract do not fit, or another encoder is there already.
    """
    _check_fit(architecture, preprocessing, pooling)
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    metadata = {
        "format": str(FORMAT),
        "architecture": canonical_json({"family": "vit", "pooling": pooling, "config": architecture.to_json()}),
        "preprocessing": canonical_json(preprocessing.to_json()),
        "provenance": canonical_json(provenance),
    }
    path = Path(folder) / ENCODER_FILE
    content = _content(tensors, _identity(architecture, pooling, preprocessing))
    if (
        not commit(path, _sorted_header(safetensors.torch.save(tensors, metadata)))
        and load_encoder(path).fingerprint != content
    ):
        raise UserError(
            f"expected no other encoder at {path}, got one with other weights or another contract; give another output folder"
        )
    return content


def load_encoder(
    source: str | Path,
    *,
    preprocessing: Preprocessing | None = None,
    architecture: VitConfig | None = None,
    seed: int = 0,
) -> Encoder:
    """Return a trained encoder from its folder or weights file, or a weight-free one by its name.

    Args:
        source: folder of a finished pretraining, an ``encoder.safetensors``, or one of `WEIGHT_FREE`.
        preprocessing: contract of a weight-free encoder; a trained one brings its own.
        architecture: of ``random_init``; None for a ViT-Ti with patches of at most 8 px.
        seed: of random weights.

    Raises:
        UserError: no such encoder, an unfinished folder, a damaged file, or a contract given where it does not belong.
    """
    name = str(source)
    if name in WEIGHT_FREE:
        if preprocessing is None:
            raise UserError(
                f"expected a preprocessing contract for the weight-free encoder {name}, got none; make one from training statistics"
            )
        return _weight_free(name, preprocessing, architecture, seed)
    path = Path(source)
    if not path.exists():
        raise UserError(
            f"expected an encoder folder or one of {', '.join(WEIGHT_FREE)}, got {name!r}{nearest(name, WEIGHT_FREE)}"
        )
    if preprocessing is not None or architecture is not None:
        raise UserError(
            f"expected no contract and no architecture for the trained encoder {path}, got one; it carries its own"
        )
    if path.is_dir():
        require(path, "pretrain")
        path = path / ENCODER_FILE
    return _read(path)


def _weight_free(name: str, preprocessing: Preprocessing, architecture: VitConfig | None, seed: int) -> Encoder:
    if name == "imagestats":
        return ImageStats(preprocessing)
    if name == "rcf":
        return RandomFeatures(preprocessing, seed=seed)
    if name == "random_resnet50":
        return RandomResNet(preprocessing, seed=seed)
    if architecture is None:
        size = preprocessing.size_px
        patch = next(side for side in range(min(8, size), 0, -1) if size % side == 0)
        architecture = VitConfig(img_size=size, in_chans=len(preprocessing.bands), patch_size=patch)
    model = make_vit(architecture, seed=seed)
    origin = {"weights": "random", "seed": seed}
    return VitEncoder(
        model, preprocessing, architecture=architecture, pooling="mean", name="random_init", provenance=origin
    )


def _read(path: Path) -> VitEncoder:
    remedy = "train it again with `eo-ssl pretrain`, or give the file that `save_encoder` wrote"
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
        architecture, pooling = json.loads(metadata["architecture"]), ""
        contract, provenance = (json.loads(metadata[key]) for key in ("preprocessing", "provenance"))
        family, pooling = architecture["family"], architecture["pooling"]
        config = VitConfig.from_json(architecture["config"])
    except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(
            f"expected an encoder of this library in {path}, got {type(error).__name__}: {str(error)[:120]}; {remedy}"
        ) from error
    if metadata.get("format") != str(FORMAT) or family != "vit":
        raise UserError(
            f"expected encoder format {FORMAT} of family vit in {path}, got {metadata.get('format')} and {family}; {remedy}"
        )
    model = make_vit(config)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(
            f"expected weights of {config.timm_name} in {path}, got others ({str(error).splitlines()[-1].strip()[:120]}); {remedy}"
        ) from error
    name = path.parent.name if path.name == ENCODER_FILE else path.stem
    return VitEncoder(
        model, Preprocessing.from_json(contract), architecture=config, pooling=pooling, name=name, provenance=provenance
    )


def _check_fit(architecture: VitConfig, preprocessing: Preprocessing, pooling: str) -> None:
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


def _identity(architecture: VitConfig, pooling: str, preprocessing: Preprocessing) -> dict[str, Any]:
    return {"architecture": architecture.to_json(), "pooling": pooling, "preprocessing": preprocessing.to_json()}


def _content(tensors: Mapping[str, Tensor], identity: Mapping[str, Any]) -> str:
    """Fingerprint of named tensors (name, dtype, shape, bytes) together with plain values."""
    rows = []
    for key in sorted(tensors):
        values = tensors[key].detach().cpu().contiguous()
        digest = hashlib.sha256(values.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        rows.append([key, str(values.dtype), list(values.shape), digest])
    return fingerprint({"tensors": rows, "identity": dict(identity)})


def _sorted_header(data: bytes) -> bytes:
    """The same safetensors file with its header's keys sorted; safetensors writes metadata in an arbitrary order.

    Layout: 8 bytes little-endian header length, JSON header padded with spaces to a multiple of 8, tensor bytes.
    """
    (length,) = struct.unpack("<Q", data[:8])
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]

"""Any encoder by its name: trained ones from their folder, external ones by their spec, weight-free ones by a word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl

from torch import Tensor

from eo_ssl.encoder.empirical import FITTED, EmpiricalFeatures
from eo_ssl.encoder.encoder_translation import translate_encoder
from eo_ssl.encoder.external import ExternalEncoder
from eo_ssl.encoder.first_layer import order_first_layer
from eo_ssl.encoder.protocol import Encoder, resize_contract
from eo_ssl.encoder.remoteclip import load_remoteclip
from eo_ssl.encoder.specs import is_spec, parse_spec
from eo_ssl.encoder.storage import ENCODER_FILE, read_encoder
from eo_ssl.encoder.timm_weights import load_timm
from eo_ssl.encoder.torchgeo_weights import load_torchgeo
from eo_ssl.encoder.trained import TrainedEncoder
from eo_ssl.encoder.weight_free import ImageStats, RandomFeatures, RandomResNet
from eo_ssl.errors import UserError, expect, suggest_nearest
from eo_ssl.image_metadata import order_kinds
from eo_ssl.manifest import MANIFEST, require
from eo_ssl.models import BackboneConfig, Vit
from eo_ssl.preprocessing import Preprocessing

FOLDER_OPTIONS = ("sensor", "missing", "metadata")
"""Behind a folder and `?`: the sensor whose bands its encoder is to know by their wavelength; what stands in place of
bands that are not given (fill_mean, zero) in an encoder that refuses to do without; what alone it is to be told of
images beside their pixels (time,gsd or none), out of what it takes."""
WEIGHT_FREE = ("imagestats", "rcf", "random_init", "random_resnet50")
_ROUTES: dict[str, Callable[..., ExternalEncoder]] = {
    "torchgeo": load_torchgeo,
    "timm": load_timm,
    "remoteclip": load_remoteclip,
}


def load_encoder(
    source: str | Path,
    *,
    preprocessing: Preprocessing | None = None,
    architecture: BackboneConfig | None = None,
    seed: int = 0,
    images: Tensor | None = None,
) -> Encoder:
    """Return an encoder: a trained one from its folder or file, an external one by its spec, a weight-free one by name.

    Args:
        source: folder of a finished pretraining, an ``encoder.safetensors``, one of `WEIGHT_FREE` or `FITTED`, or a
            spec such as
            ``torchgeo:ResNet50_Weights.SENTINEL2_ALL_MOCO?size=64``, ``timm:resnet50.a1_in1k?contract=imagenet`` or
            ``remoteclip:FILE`` (`route:name[@random][?option=value&...]`, see `specs.OPTIONS`). A folder may end in
            ``?sensor=landsat8_oli`` for the bands of that sensor (`translate_encoder`), or in ``?missing=fill_mean``.
        preprocessing: contract of a weight-free encoder, or instead of the published one of an external encoder; a
            trained one
            brings its own.
        architecture: of ``random_init``, such as that of a `TrainedEncoder`; None for a ViT-Ti with patches of at
            most 8 px.
        seed: of random weights, or of the patches of a fitted encoder.
        images: [n, C, H, W] float32, training images prepared by the contract, which a fitted encoder takes its
            filters from.

    Raises:
        UserError: no such encoder, an unfinished folder, a folder of several encoders, a damaged file, or a contract
            given where
            it does not belong.
    """
    name = str(source)
    if is_spec(name):
        expect(
            architecture is None,
            expected=f"no architecture for {name}",
            got="one",
            remedy="its name says it, leave it out",
        )
        spec = parse_spec(name)
        if preprocessing is not None and spec.size_px is not None:  # before any check of the size
            preprocessing = resize_contract(preprocessing, spec.size_px)
        encoder = _ROUTES[spec.route](spec, preprocessing=preprocessing, seed=seed)
        return encoder if spec.size_px is None else encoder.at_size(spec.size_px)
    known = (*WEIGHT_FREE, *FITTED)
    if name in known:
        if preprocessing is None:
            raise UserError(
                f"expected a preprocessing contract for the weight-free encoder {name}, got none;"
                " make one from training statistics (`eo-ssl evaluate` does)"
            )
        if name in FITTED:
            return _fit_encoder(name, preprocessing, images, seed)
        return _make_weight_free(name, preprocessing, architecture, seed)
    folder, asked, query = name.rpartition("?")
    if asked and not Path(name).exists():
        return _change(load_encoder(folder, preprocessing=preprocessing, architecture=architecture), query, name=name)
    path = Path(source)
    expect(
        path.exists(),
        expected=f"an encoder folder or one of {', '.join(known)}",
        got=f"{name!r}{suggest_nearest(name, known)}",
        remedy="give the folder that `eo-ssl pretrain` wrote",
    )
    expect(
        preprocessing is None and architecture is None,
        expected=f"no contract and no architecture for the trained encoder {path}",
        got="one",
        remedy="it carries its own",
    )
    if path.is_dir():
        return _open_folder(path)
    beside = path.parent / MANIFEST
    return _open_folder(path.parent) if path.name == ENCODER_FILE and beside.is_file() else read_encoder(path)


def _change(encoder: Encoder, query: str, *, name: str) -> Encoder:
    """The encoder of a folder with what stands behind its `?`."""
    options = dict(parse_qsl(query, keep_blank_values=True))
    strange = [option for option in options if option not in FOLDER_OPTIONS]
    if strange or not options or not isinstance(encoder, TrainedEncoder):
        raise UserError(
            f"expected a folder of a trained encoder with options out of {', '.join(FOLDER_OPTIONS)}, got {name}"
            f"{suggest_nearest(strange[0], FOLDER_OPTIONS) if strange else ''}; write FOLDER?sensor=NAME"
        )
    if "sensor" in options:
        encoder = translate_encoder(encoder, sensor=options["sensor"])
    if "metadata" in options:
        encoder = _tell(encoder, options["metadata"], name=name)
    if "missing" not in options:
        return encoder
    expect(
        options["missing"] in ("fill_mean", "zero") and encoder.preprocessing.missing == "refuse",
        expected="missing=fill_mean or missing=zero for an encoder that refuses missing bands",
        got=f"{name}, which does {encoder.preprocessing.missing}",
        remedy="leave it out",
    )
    contract = replace(encoder.preprocessing, missing=options["missing"])  # type: ignore[arg-type]
    return encoder.with_preprocessing(contract)


def _tell(encoder: TrainedEncoder, wanted: str, *, name: str) -> TrainedEncoder:
    """The encoder that is told some alone of what it takes: kinds with commas between, or none."""
    kinds = () if wanted == "none" else order_kinds(wanted.split(","))
    taken = encoder.preprocessing.metadata
    expect(
        set(kinds) <= set(taken),
        expected=f"metadata=none, or some of {', '.join(taken)}" if taken else "no metadata: it is told nothing",
        got=name,
        remedy="correct it, or leave it out",
    )
    return encoder.with_preprocessing(replace(encoder.preprocessing, metadata=kinds))


def _open_folder(folder: Path) -> Encoder:
    """The only encoder of a finished pretraining, after a look at all its files."""
    manifest = require(folder, "pretrain")
    several = sorted(str(file.parent) for file in folder.glob(f"*/{ENCODER_FILE}"))
    path = folder / ENCODER_FILE
    expect(
        path.exists() or not several,
        expected=f"one encoder in {folder}",
        got=f"a folder of {len(several)}: {', '.join(several)}",
        remedy=f"name the one you mean, such as {several[0] if several else folder}",
    )
    return read_encoder(path, expected=manifest.fingerprint)


def _fit_encoder(name: str, preprocessing: Preprocessing, images: Tensor | None, seed: int) -> Encoder:
    if images is None:
        raise UserError(
            f"expected training images for {name}, got none; give some that its contract prepared (images=),"
            " its filters are cut out of them"
        )
    return EmpiricalFeatures.fit(preprocessing, images, seed=seed)


def _make_weight_free(
    name: str, preprocessing: Preprocessing, architecture: BackboneConfig | None, seed: int
) -> Encoder:
    if name == "imagestats":
        return ImageStats(preprocessing)
    if name == "rcf":
        return RandomFeatures(preprocessing, seed=seed)
    if name == "random_resnet50":
        return RandomResNet(preprocessing, seed=seed)
    bands, size_px = preprocessing.bands, preprocessing.size_px
    if architecture is None:
        patch = next(side for side in range(min(8, size_px), 0, -1) if size_px % side == 0)
        architecture = BackboneConfig(Vit(patch_size=patch), bands, size_px)
    config = replace(architecture, model=architecture.model.averaged(), bands=bands, sensor=preprocessing.sensor)
    origin, backbone = {"weights": "random", "seed": seed}, config.build(seed)
    if config.model.in_timm or type(config.model) is Vit:
        order_first_layer(backbone.network, preprocessing, name=name)
    return TrainedEncoder(backbone, preprocessing, name="random_init", provenance=origin)

"""The bundle: everything a stranger needs to use an encoder without this library, written as one product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from eo_ssl.commits import commit
from eo_ssl.encoder import Encoder, FusedEncoder, TrainedEncoder, is_fused, load_encoder, load_fused_encoder
from eo_ssl.errors import UserError
from eo_ssl.export import contract_file, parity
from eo_ssl.export.bench_adapter import make_bench_files
from eo_ssl.export.checksums import check_files
from eo_ssl.export.contract_file import PREPROCESS_FILE
from eo_ssl.export.encoder_module import MODULE_FILE, make_module
from eo_ssl.export.model_card import CARD_FILE, BundleFacts, render_model_card
from eo_ssl.export.onnx_graph import GRAPHS, PHYSICAL_GRAPH, export_graph, require_onnx
from eo_ssl.export.parity import PARITY_FILE
from eo_ssl.export.stac_item import ITEM_FILE, make_item, require_stac_model
from eo_ssl.export.terms import Terms
from eo_ssl.export.timm_folder import TIMM_CONFIG, TIMM_WEIGHTS, make_timm_config, make_timm_weights
from eo_ssl.export.torchgeo_checkpoints import (
    CLASSIFICATION_FILE,
    SEGMENTATION_FILES,
    choose_decoder,
    make_classification_checkpoint,
    make_segmentation_checkpoint,
)
from eo_ssl.export.torchgeo_naming import find_torchgeo_name, resize_for_torchgeo
from eo_ssl.export.weights_enum import describe_weights, make_weights_files
from eo_ssl.fingerprints import compute_sha256, fingerprint
from eo_ssl.manifest import Manifest, open_product, require

STAGE = "export"
_UNSTATED = "not stated"
Files = Iterator[tuple[str, Callable[[], bytes]]]
"""Path and maker of each file, one after another so that few copies of the weights are held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a bundle holds beside the routes that every bundle has."""

    onnx: bool = True
    "an ONNX graph of the encoder"
    onnx_preprocessing: bool = False
    "a second graph that takes physical values: conversion, clipping, normalisation and filling inside"
    terms: Terms = field(default_factory=Terms)
    results: tuple[Mapping[str, Any], ...] = ()
    "rows of an evaluation of this encoder"
    results_fingerprint: str = ""
    licence: str = "other"
    "licence of the weights, as the Hugging Face hub spells it"
    publication: str = _UNSTATED
    repo: str = _UNSTATED
    overwrite: bool = False

    def config(self) -> dict[str, Any]:
        """What decides the bytes of the bundle, beside the encoder and the results."""
        kept = ("onnx", "onnx_preprocessing", "licence", "publication", "repo")
        return {name: getattr(self, name) for name in kept} | {"terms": self.terms.to_json()}


@dataclass(frozen=True, slots=True)
class Bundle:
    """A finished bundle."""

    folder: Path
    manifest: Manifest
    made: bool
    "False where the folder held this bundle already"

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of its files, the manifest aside."""
        return tuple(self.manifest.summary["files"])

    @property
    def opened_by(self) -> str:
        """Library that opens the network as it was trained."""
        return "torch" if MODULE_FILE in self.files else "timm"


def load_exportable(source: Path, *, name: str | None = None) -> Encoder | FusedEncoder:
    """Return the encoder of one sensor or of two in the folder ``source``, called ``name`` where one is given.

    Raises:
        UserError: as `load_encoder` and `load_fused_encoder`.
    """
    loaded = load_fused_encoder(source) if is_fused(source) else load_encoder(source)
    if name is not None and isinstance(loaded, TrainedEncoder | FusedEncoder):
        loaded.name = name
    return loaded


def export(encoder: Encoder | FusedEncoder, out: Path, *, options: Options | None = None) -> Bundle:
    """Write ``encoder`` to the folder ``out`` in every form that this library knows; a killed export is resumed.

    One that is told more than pixels is written as it is where nothing else is known, and its card says so.

    Raises:
        UserError: no trained encoder of this library, packages for ONNX missing, or a folder with something else in it.
    """
    out, options = Path(out), options or Options()
    if not isinstance(encoder, TrainedEncoder | FusedEncoder):
        raise UserError(
            f"expected a trained encoder of this library, got {encoder.name};"
            " only what `eo-ssl pretrain` made can be exported"
        )
    require_stac_model()
    if options.onnx or options.onnx_preprocessing:
        require_onnx()
    config = options.config() | {"name": encoder.name}
    inputs = {"encoder": encoder.fingerprint}
    if options.results_fingerprint:
        inputs["results"] = options.results_fingerprint
    with open_product(out, stage=STAGE, config=config, inputs=inputs, overwrite=options.overwrite) as product:
        if product.done:
            made = require(out, STAGE)
            check_files(out, made)
            return Bundle(out, made, made=False)
        encoder = encoder.without_metadata()
        if isinstance(encoder, FusedEncoder):
            facts, files = _describe_pair(encoder, options)
        else:
            configurations = _configure(encoder, options.terms)
            facts, files = configurations.facts, _list_files(configurations, options)
        names = []
        for name, make in files:
            if not (out / name).exists():  # of a killed export, made of the same
                commit(out / name, make())
            names.append(name)
        digests = {name: compute_sha256(out / name) for name in sorted(names)}
        manifest = product.sign(fingerprint(digests), summary={**facts, "files": digests})
    return Bundle(out, manifest, made=True)


@dataclass(frozen=True, slots=True)
class _Configurations:
    """An encoder in the configurations it is exported in, with its parity."""

    native: TrainedEncoder
    torchgeo: TrainedEncoder | None
    "as TorchGeo names it, which is the native one where the network takes any size"
    content: dict[str, Any]
    "of preprocess.json"
    tensors: dict[str, Tensor]
    "of the parity file"
    facts: dict[str, Any]
    "of the manifest"


def _configure(encoder: TrainedEncoder, terms: Terms) -> _Configurations:
    naming = find_torchgeo_name(encoder.architecture)
    other = resize_for_torchgeo(encoder, naming.model) if naming.model else None
    content = contract_file.describe_configurations(encoder, other, reason=naming.reason)
    tensors = {"images": parity.generate_images(encoder.preprocessing, size_px=encoder.architecture.size_px)}
    for name, model in (("native", encoder), ("torchgeo", other)):
        if model is not None:
            tensors[f"{name}.input"], tensors[f"{name}.features"] = parity.compute_reference(model, tensors["images"])
    resized = other is not None and other is not encoder
    change = parity.mean_cosine(tensors["native.features"], tensors["torchgeo.features"]) if resized else None
    facts = {"torchgeo": naming.model, "torchgeo_left_out": naming.reason, "cosine_native_to_torchgeo": change}
    facts["cosine_between_images"] = parity.measure_similarity(tensors["native.features"])
    return _Configurations(encoder, other, content, tensors, facts | terms.to_json())


def _list_files(configurations: _Configurations, options: Options) -> Files:
    """Those of an encoder of one image."""
    encoder, other, content = configurations.native, configurations.torchgeo, configurations.content
    yield PREPROCESS_FILE, lambda: contract_file.to_bytes(content)
    about = {"pooling": encoder.pooling, "name": encoder.name}
    yield PARITY_FILE, lambda: parity.to_bytes(configurations.tensors, about)
    if encoder.architecture.model.in_timm:
        yield TIMM_CONFIG, lambda: make_timm_config(encoder, licence=options.licence)
        yield TIMM_WEIGHTS, lambda: make_timm_weights(encoder)
        for name, data in make_bench_files(encoder).items():
            yield name, partial(bytes, data)
    else:
        yield MODULE_FILE, lambda: make_module(encoder)
    method, dataset, weights = name_method(encoder), name_dataset(encoder), ""
    if other is not None:
        meta = describe_weights(
            other, dataset=dataset, method=method, publication=options.publication, repo=options.repo
        )
        meta["non_commercial"] = options.terms.non_commercial
        yield CLASSIFICATION_FILE, partial(make_classification_checkpoint, other)
        yield SEGMENTATION_FILES[choose_decoder(other)], partial(make_segmentation_checkpoint, other)
        for name, data in make_weights_files(other, meta).items():
            weights = name if name.endswith(".pth") else weights
            yield name, partial(bytes, data)
    yield from _list_graphs(encoder, options)
    facts = BundleFacts(
        dataset=dataset,
        method=method,
        torchgeo=configurations.facts["torchgeo"],
        decoder="" if other is None else choose_decoder(other),
        reason=configurations.facts["torchgeo_left_out"],
        change=configurations.facts["cosine_native_to_torchgeo"],
        apart=configurations.facts["cosine_between_images"],
        weights=weights,
        graphs=_name_graphs(options),
    )
    yield from _list_papers(encoder, content, facts, options)


def _list_pair_files(
    encoder: FusedEncoder, content: dict[str, Any], tensors: dict[str, Tensor], apart: float, options: Options
) -> Files:
    """Those that both contracts, torch, onnxruntime, catalogues and people take of an encoder of two sensors."""
    yield PREPROCESS_FILE, lambda: contract_file.to_bytes(content)
    yield PARITY_FILE, lambda: parity.to_bytes(tensors, {"pooling": content["pooling"], "name": encoder.name})
    yield MODULE_FILE, lambda: make_module(encoder)
    yield from _list_graphs(encoder, options)
    facts = BundleFacts(
        dataset=name_dataset(encoder),
        method=name_method(encoder),
        torchgeo=None,
        decoder="",
        reason=content["torchgeo_left_out"],
        change=None,
        apart=apart,
        weights="",
        graphs=_name_graphs(options),
    )
    yield from _list_papers(encoder, content, facts, options)


def _name_graphs(options: Options) -> tuple[str, ...]:
    wanted = zip(GRAPHS, (options.onnx, options.onnx_preprocessing), strict=True)
    return tuple(name for name, made in wanted if made)


def _list_graphs(encoder: TrainedEncoder | FusedEncoder, options: Options) -> Files:
    for name in _name_graphs(options):
        yield name, partial(export_graph, encoder, physical=name == PHYSICAL_GRAPH)


def _list_papers(
    encoder: TrainedEncoder | FusedEncoder, content: dict[str, Any], facts: BundleFacts, options: Options
) -> Files:
    """Item and card."""
    terms, licence = options.terms, options.licence
    yield ITEM_FILE, lambda: make_item(encoder, content, facts, licence=licence, non_commercial=terms.non_commercial)
    yield CARD_FILE, lambda: render_model_card(encoder, content, facts, terms, options.results, licence=licence)


def _describe_pair(encoder: FusedEncoder, options: Options) -> tuple[dict[str, Any], Files]:
    """What the manifest says of an encoder of two sensors, and its files."""
    content, tensors = contract_file.describe_sensors(encoder), parity.compute_pairs(encoder)
    apart = parity.measure_similarity(tensors["joint.features"])
    facts = {"torchgeo": None, "torchgeo_left_out": content["torchgeo_left_out"], "cosine_native_to_torchgeo": None}
    facts |= {"cosine_between_images": apart, **options.terms.to_json()}
    return facts, _list_pair_files(encoder, content, tensors, apart, options)


def name_method(encoder: TrainedEncoder | FusedEncoder) -> str:
    """Return the objective that the encoder's provenance names."""
    config = encoder.provenance.get("config", {})
    return str(config.get("objective", encoder.provenance.get("objective", _UNSTATED)))


def name_dataset(encoder: TrainedEncoder | FusedEncoder) -> str:
    """Return the corpora that the encoder's provenance names, with the first 12 letters of their fingerprints."""
    inputs = encoder.provenance.get("inputs", {})
    corpora = [
        f"{key.removeprefix('corpus ')} {value[:12]}" for key, value in inputs.items() if key.startswith("corpus ")
    ]
    return ", ".join(corpora) or _UNSTATED

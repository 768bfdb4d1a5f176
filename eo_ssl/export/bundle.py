"""The bundle: everything a stranger needs to use an encoder without this library, written as one product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from eo_ssl.encoder import Encoder, VitEncoder
from eo_ssl.errors import UserError
from eo_ssl.export import contract_file, parity
from eo_ssl.export.bench_adapter import bench_files
from eo_ssl.export.configurations import at_224, torchgeo_name
from eo_ssl.export.contract_file import PREPROCESS_FILE
from eo_ssl.export.model_card import CARD_FILE, Facts, model_card
from eo_ssl.export.onnx_graph import GRAPHS, PHYSICAL_GRAPH, graph_bytes, require_onnx
from eo_ssl.export.parity import PARITY_FILE
from eo_ssl.export.stac_item import ITEM_FILE, item_bytes, require_stac_model
from eo_ssl.export.terms import Terms
from eo_ssl.export.timm_folder import TIMM_CONFIG, TIMM_WEIGHTS, timm_config, timm_weights
from eo_ssl.export.torchgeo_checkpoints import (
    CLASSIFICATION_FILE,
    SEGMENTATION_FILE,
    classification_bytes,
    segmentation_bytes,
)
from eo_ssl.export.weights_enum import enum_meta, weights_files
from eo_ssl.manifest import Clock, Manifest, commit, file_sha256, fingerprint, finish, plan, require

STAGE = "export"
_UNSTATED = "not stated"


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


def export(encoder: Encoder, out: Path, *, options: Options | None = None) -> Bundle:
    """Write ``encoder`` to the folder ``out`` in every form that this library knows; a killed export is resumed.

    Raises:
        UserError: not one of our vision transformers, packages for ONNX missing, or a folder with something else in it.
    """
    started, out, wanted = Clock(), Path(out), options or Options()
    if not isinstance(encoder, VitEncoder):
        raise UserError(
            f"expected a trained encoder of this library, got {encoder.name}; only what `eo-ssl pretrain` made can be exported"
        )
    require_stac_model()
    if wanted.onnx or wanted.onnx_preprocessing:
        require_onnx()
    made: dict[str, Any] = {
        "stage": STAGE,
        "config": wanted.config() | {"name": encoder.name},
        "inputs": {"encoder": encoder.fingerprint},
    }
    if wanted.results_fingerprint:
        made["inputs"]["results"] = wanted.results_fingerprint
    if plan(out, **made, overwrite=wanted.overwrite) == "done":
        return Bundle(out, require(out, STAGE), made=False)
    leaving = _measured(encoder, wanted.terms)
    written = []
    for name, make in _files(leaving, wanted):
        if not (out / name).exists():  # of a killed export, made of the same
            commit(out / name, make())
        written.append(name)
    digests = {name: file_sha256(out / name) for name in sorted(written)}
    summary = {**leaving.facts, "files": digests}
    manifest = finish(out, **made, product=fingerprint(digests), started=started, summary=summary)
    return Bundle(out, manifest, made=True)


@dataclass(frozen=True, slots=True)
class _Leaving:
    """An encoder in both configurations, with its parity."""

    native: VitEncoder
    torchgeo: VitEncoder | None
    content: dict[str, Any]
    "of preprocess.json"
    tensors: dict[str, Tensor]
    "of the parity file"
    facts: dict[str, Any]
    "of the manifest"


def _measured(encoder: VitEncoder, terms: Terms) -> _Leaving:
    naming = torchgeo_name(encoder.architecture)
    other = at_224(encoder, naming.model) if naming.model else None
    content = contract_file.document(encoder, other, reason=naming.reason)
    tensors = {"images": parity.parity_images(encoder.preprocessing, size_px=encoder.architecture.img_size)}
    for name, one in (("native", encoder), ("torchgeo", other)):
        if one is not None:
            tensors[f"{name}.input"], tensors[f"{name}.features"] = parity.expected(one, tensors["images"])
    change = None if other is None else parity.mean_cosine(tensors["native.features"], tensors["torchgeo.features"])
    facts = {"torchgeo": naming.model, "torchgeo_left_out": naming.reason, "cosine_native_to_torchgeo": change}
    facts["cosine_between_images"] = parity.cosine_between(tensors["native.features"])
    return _Leaving(encoder, other, content, tensors, facts | terms.to_json())


def _files(leaving: _Leaving, options: Options) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Path and maker of each file, one after another so that few copies of the weights are held."""
    encoder, other, content = leaving.native, leaving.torchgeo, leaving.content
    said = {"pooling": encoder.pooling, "name": encoder.name}
    yield PREPROCESS_FILE, lambda: contract_file.to_bytes(content)
    yield PARITY_FILE, lambda: parity.to_bytes(leaving.tensors, said)
    yield TIMM_CONFIG, lambda: timm_config(encoder, licence=options.licence)
    yield TIMM_WEIGHTS, lambda: timm_weights(encoder)
    for name, data in bench_files(encoder).items():
        yield name, partial(bytes, data)
    method, dataset, weights = method_of(encoder), dataset_of(encoder), ""
    if other is not None:
        meta = enum_meta(other, dataset=dataset, method=method, publication=options.publication, repo=options.repo)
        meta["non_commercial"] = options.terms.non_commercial
        yield CLASSIFICATION_FILE, partial(classification_bytes, other)
        yield SEGMENTATION_FILE, partial(segmentation_bytes, other)
        for name, data in weights_files(other, meta).items():
            weights = name if name.endswith(".pth") else weights
            yield name, partial(bytes, data)
    graphs = [name for name, asked in zip(GRAPHS, (options.onnx, options.onnx_preprocessing), strict=True) if asked]
    for name in graphs:
        yield name, partial(graph_bytes, encoder, physical=name == PHYSICAL_GRAPH)
    known = leaving.facts
    facts = Facts(
        dataset=dataset,
        method=method,
        torchgeo=known["torchgeo"],
        reason=known["torchgeo_left_out"],
        change=known["cosine_native_to_torchgeo"],
        apart=known["cosine_between_images"],
        weights=weights,
        graphs=tuple(graphs),
    )
    terms, licence = options.terms, options.licence
    yield ITEM_FILE, lambda: item_bytes(encoder, content, facts, licence=licence, non_commercial=terms.non_commercial)
    yield CARD_FILE, lambda: model_card(encoder, content, facts, terms, options.results, licence=licence)


def method_of(encoder: VitEncoder) -> str:
    """Return the objective that the encoder's provenance names."""
    config = encoder.provenance.get("config", {})
    return str(config.get("objective", encoder.provenance.get("objective", _UNSTATED)))


def dataset_of(encoder: VitEncoder) -> str:
    """Return the corpora that the encoder's provenance names, with the first 12 letters of their fingerprints."""
    inputs = encoder.provenance.get("inputs", {})
    corpora = [
        f"{key.removeprefix('corpus ')} {value[:12]}" for key, value in inputs.items() if key.startswith("corpus ")
    ]
    return ", ".join(corpora) or _UNSTATED

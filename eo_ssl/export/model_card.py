"""``README.md`` of a bundle: a model card with the metadata the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eo_ssl.encoder import VitEncoder
from eo_ssl.export.terms import Terms

CARD_FILE = "README.md"
_TASKS_MODULE = Path(__file__).with_name("torchgeo_tasks.py")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the other files of the bundle turned out to be."""

    dataset: str
    "corpora with the first letters of their fingerprints"
    method: str
    "objective"
    torchgeo: str | None
    "timm name at 224 px"
    reason: str
    "why there is none"
    change: float | None
    "mean cosine between native features and those at 224 px, over the parity images"
    apart: float
    "mean cosine between native features of different parity images"
    weights: str
    "name of the bare .pth"
    graphs: tuple[str, ...]
    "ONNX files"


def model_card(
    encoder: VitEncoder,
    content: Mapping[str, Any],
    facts: Facts,
    terms: Terms,
    results: Sequence[Mapping[str, Any]],
    *,
    licence: str,
) -> bytes:
    """Return the card.

    Args:
        encoder: as it was trained.
        content: of preprocess.json.
        facts: of the other files.
        terms: licences of the training data.
        results: rows of an evaluation of this encoder, may be empty.
        licence: of the weights, as the hub spells it.
    """
    restricted = terms.non_commercial
    head = {
        "library_name": "timm",
        "license": licence,
        "pipeline_tag": "image-feature-extraction",
        "tags": ["timm", "torchgeo", "earth-observation", "self-supervised", encoder.preprocessing.sensor]
        + (["non-commercial"] if restricted else []),
    }
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {encoder.name}",
        _summary(encoder, facts),
        *(["**The training data forbid commercial use, and so do these weights.**"] if restricted else []),
        "## What goes in\n\n" + "\n".join(f"- {line}" for line in content["configurations"]["native"]["words"]),
        "## How to load it\n\n" + _loading(encoder, facts),
        "## Training\n\n" + _training(encoder, facts),
        "## Results\n\n" + _results(results),
        "## Data, attribution, licence\n\n" + _terms(terms, licence),
        "## Checks\n\n`parity.safetensors` holds generated images, the inputs made of them and the features every route must give, to 1e-5 "
        "(onnxruntime: 1e-4 of the value besides). `eo-ssl export --verify FOLDER` loads each route as its users do and compares.",
    ]
    return ("\n\n".join(parts) + "\n").encode()


def _summary(encoder: VitEncoder, facts: Facts) -> str:
    architecture = encoder.architecture
    count = sum(parameter.numel() for parameter in encoder.model.parameters())
    pooled = "class token" if encoder.pooling == "cls" else "mean of the patch tokens"
    return (
        f"A vision transformer ({architecture.timm_name}, {count / 1e6:.1f} million parameters, patches of {architecture.patch_size} px) for "
        f"{len(encoder.preprocessing.bands)} bands of {encoder.preprocessing.sensor}, trained without labels ({facts.method}) at {architecture.img_size} px. "
        f"A feature vector is the {pooled}, {encoder.dim} numbers."
    )


def _loading(encoder: VitEncoder, facts: Facts) -> str:
    chans, size = encoder.architecture.in_chans, encoder.architecture.img_size
    timm_lines = (
        f'```python\nimport timm\n\nmodel = timm.create_model("local-dir:timm", pretrained=True).eval()\n'
        f"features = model(x)  # x [n, {chans}, {size}, {size}] normalised as preprocess.json says -> [n, {encoder.dim}]\n```"
    )
    listed = "\n".join(f"- `{name}` with onnxruntime, `image` -> `features`." for name in facts.graphs)
    graphs = [listed] if listed else []
    hub = 'From the Hugging Face hub: `timm.create_model("hf-hub:OWNER/NAME", pretrained=True)`.'
    if facts.torchgeo is None:
        lost = f"**TorchGeo's checkpoints are left out:** {facts.reason}. timm opens the encoder as it is."
        return "\n\n".join([timm_lines, hub, lost, *graphs])
    pool = (
        ""
        if encoder.pooling == "cls"
        else "\nTorchGeo's classifier reads the class token, this encoder's features are the mean of the patch tokens: "
        '`task.model.reset_classifier(10, global_pool="avg")` puts the classifier there.\n'
    )
    lines = (
        f"```python\nfrom weights import WEIGHTS, samples\n\n{_import_of_tasks()}\n"
        f'task = ClassificationTask("{facts.torchgeo}", weights="torchgeo_classification.ckpt", in_channels={chans}, num_classes=10)\n'
        f'task = SemanticSegmentationTask("dpt", "tu-{facts.torchgeo}", weights="torchgeo_segmentation_dpt.ckpt", in_channels={chans}, num_classes=10)\n'
        f'task = ClassificationTask("{facts.torchgeo}", weights=WEIGHTS, in_channels={chans}, num_classes=10)\n'
        f"datamodule.aug = {_stored(encoder)}\n```\n{pool}"
    )
    change = (
        f"TorchGeo's tasks take 224 px. Positions were resampled for that, patches stay {encoder.architecture.patch_size} px, images are interpolated. "
        f"This changes what is computed: the mean cosine between the features of an image at {size} px and at 224 px is **{facts.change:.4f}**, "
        f"between those of different images at {size} px it is {facts.apart:.4f}. Both are over the images of the parity file, which are generated "
        "noise around the training means and not scenes."
    )
    return "\n\n".join([timm_lines, hub, lines.strip(), change, *graphs])


def _import_of_tasks() -> str:
    """The lines that import TorchGeo's tasks from any of its versions."""
    source = _TASKS_MODULE.read_text(encoding="utf-8")
    return source[source.index("try:\n") :]


def _stored(encoder: VitEncoder) -> str:
    """The transform of samples for data as they are usually stored."""
    quantity = encoder.preprocessing.quantity
    if quantity.is_reflectance:
        return f'samples("{quantity.value}", scale=1e-4)  # the contract, for data stored as reflectance x 10,000'
    return f'samples("{quantity.value}", scale=1.0)  # the contract, for data stored as they are'


def _training(encoder: VitEncoder, facts: Facts) -> str:
    config = encoder.provenance.get("config", {})
    kept = ("objective", "steps", "batch_size", "lr", "seed", "split", "streams")
    rows = [f"- data: {facts.dataset}", *(f"- {key}: {config[key]}" for key in kept if key in config)]
    rows.append("- pretraining seeds: 1" if "seed" in config else "- pretraining: not stated")
    return "\n".join([*rows, f"- fingerprint of the encoder: `{encoder.fingerprint}`"])


def _results(results: Sequence[Mapping[str, Any]]) -> str:
    if not results:
        return "None were given with this export."
    head = ("task", "protocol", "amount", "metric", "value", "95 % interval", "n test", "split")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in results:
        bounds = "none" if row["low"] is None else f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
        cells = (
            row["task"],
            row["protocol"],
            row["amount"],
            row["metric"],
            f"{100 * row['value']:.1f}",
            bounds,
            row["n_test"],
            row["split"],
        )
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(
        [*lines, "", "Values in per cent. One pretraining seed: the interval does not cover another training run."]
    )


def _terms(terms: Terms, licence: str) -> str:
    if not terms.licences:
        return (
            f"Licence of the weights: {licence}. **The licences of the training data are not stated here**: the export was made without its corpora, "
            "so whether commercial use is allowed is not known."
        )
    lines = [
        f"- {item['card']}: {item['licence']}"
        + (" (non-commercial)" if item["non_commercial"] else "")
        + f". {item['attribution']}"
        for item in terms.licences
    ]
    return "\n".join([f"Licence of the weights: {licence}.", "", *lines])

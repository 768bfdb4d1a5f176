"""Training that goes on from an encoder instead of random weights, under the contract that encoder was trained with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eo_ssl.corpus import Corpus
from eo_ssl.encoder import (
    Encoder,
    ExternalEncoder,
    TrainedEncoder,
    collect_licences,
    has_task_contract,
    is_spec,
    load_encoder,
    rebuild_backbone,
)
from eo_ssl.errors import UserError, expect
from eo_ssl.models import Architecture, Backbone, MaskableBackbone, Vit
from eo_ssl.preprocessing import Preprocessing, StreamLike
from eo_ssl.pretraining.training_data import DataSelection, TrainingData, open_training_data
from eo_ssl.printable import make_console


@dataclass(frozen=True, slots=True)
class InitialEncoder:
    """An encoder, made here or elsewhere, whose weights, bands and normalisation a run goes on with."""

    source: str
    """Where it lies, or its name."""
    encoder: Encoder
    backbone: Backbone
    """Its network."""

    @classmethod
    def of(cls, source: str | Path, *, model: Architecture, contract: Preprocessing | None = None) -> InitialEncoder:
        """Read the encoder in `source`.

        Args:
            source: folder of a finished pretraining, the file of an encoder, or the name of one made elsewhere, such as
                ``torchgeo:ViTSmall16_Weights.SENTINEL2_ALL_DINO`` or ``timm:resnet50?contract=training&file=PATH``.
            model: the architecture that was asked for; the default means that of the encoder.
            contract: of the training data, for a name with ``contract=training``.

        Raises:
            UserError: no encoder with a network that this library trains, a damaged one, or one of another
                architecture.
        """
        encoder = load_encoder(source, preprocessing=contract)
        if isinstance(encoder, ExternalEncoder):
            backbone = rebuild_backbone(encoder)
        elif isinstance(encoder, TrainedEncoder):
            backbone = encoder.backbone
        else:
            raise UserError(f"expected a trained encoder to begin from, got {source}; name one with weights")
        expect(
            model in (Vit(), backbone.config.model),
            expected=f"the architecture of {source}, {backbone.config.model}",
            got=model,
            remedy="leave out --model",
        )
        return cls(str(source), encoder, backbone)

    @property
    def model(self) -> Architecture:
        """Its architecture."""
        return self.backbone.config.model

    def choose_bands(self, wanted: Sequence[str] | None, streams: Sequence[StreamLike]) -> tuple[str, ...]:
        """Its bands, which the streams must hold.

        Raises:
            UserError: others are wanted, or a stream is of another sensor or lacks one.
        """
        own = self.encoder.preprocessing
        for stream in streams:
            self._check_same("sensor", own.sensor, stream.sensor)
            absent = [band for band in own.bands if band not in stream.bands]
            expect(
                not absent,
                expected=f"tiles with the bands {', '.join(own.bands)} of {self.source}",
                got=f"some without {', '.join(absent)}",
                remedy=self._remedy("train on a stream that holds them"),
            )
        expect(  # whatever their order: tiles are read by the names of their bands
            set(wanted or own.bands) == set(own.bands),
            expected=f"the bands {', '.join(own.bands)} of {self.source}",
            got=", ".join(wanted or ()),
            remedy="leave out --bands",
        )
        return own.bands

    def take_over(self, data: TrainingData) -> TrainingData:
        """The data under the contract of the encoder, for tiles of their size and pixel spacing; licences add up.

        Raises:
            UserError: data of several streams, of another sensor or of another quantity.
        """
        expect(
            len(data.items.contracts) == 1,
            expected=f"items of one stream for {self.source}",
            got=sorted(data.items.contracts),
            remedy="train on tiles or places",
        )
        ((stream, found),) = data.items.contracts.items()
        own = self.encoder.preprocessing
        for field in ("sensor", "final_quantity"):
            self._check_same(field, getattr(own, field), getattr(found, field))
        plausible = own.range if own.quantity == found.quantity else found.range
        kept = {key: getattr(own, key) for key in ("clip", "mean", "std", "missing", "fewest_bands")}
        contract = dataclasses.replace(found, **kept, range=plausible)
        data.items.contracts = {stream: contract}
        name = Path(self.source).name if isinstance(self.encoder, TrainedEncoder) else self.encoder.name
        licences = collect_licences(self.encoder.name, self.encoder.provenance)
        return add_sources(data, {f"encoder {name}": self.encoder.fingerprint}, licences)

    def _check_same(self, field: str, own: str, found: str) -> None:
        """Refuse data of another sensor or quantity."""
        expect(
            own == found,
            expected=f"data of {field} {own}, as {self.source} was trained on",
            got=found,
            remedy=self._remedy("train another encoder on these data"),
        )

    def _remedy(self, otherwise: str) -> str:
        """What to do about data that weights were not made for."""
        if not self.encoder.name.startswith("timm:"):
            return otherwise
        return f"{otherwise}, or let the tiles decide bands and normalisation by ?contract=training"

    def copy_backbones(self, contracts: Mapping[str, Preprocessing]) -> dict[str, Backbone]:
        """A backbone for the stream with the weights of the encoder, its position codes interpolated to the size."""
        made = {}
        for stream, contract in contracts.items():
            backbone = deepcopy(self.backbone)
            made[stream] = backbone.at_size(contract.size_px).train()
        return made

    def describe(self) -> dict[str, Any]:
        """What the manifest of a run says of it."""
        return {"encoder": self.source, "fingerprint": self.encoder.fingerprint}

    def list_changes(self, contract: Preprocessing, streams: Sequence[StreamLike]) -> list[str]:
        """What differs between the encoder as it is and as training begins with it, a sentence each.

        Args:
            contract: under which the tiles are read.
            streams: the tiles come from.
        """
        own, backbone = self.encoder.preprocessing, self.backbone
        said = []
        unused = sorted({band for stream in streams for band in stream.bands} - set(own.bands))
        if unused:
            said.append(f"bands {', '.join(unused)} of the tiles are not used, it has no input for them")
        if isinstance(backbone, MaskableBackbone) and contract.size_px != backbone.config.size_px:
            side = contract.size_px // backbone.patch_px
            said.append(
                f"position codes of {backbone.grid[0]} x {backbone.grid[1]} patches are interpolated to {side} x {side}"
            )
        if (own.resize, own.size_px) != (contract.resize, contract.size_px):
            said.append(
                f"its images were brought to {own.size_px} px ({own.resize}), tiles of {contract.size_px} px enter as"
                " they are"
            )
        if not (own.gsd_m[0] <= contract.gsd_m[0] and contract.gsd_m[1] <= own.gsd_m[1]):
            said.append(
                f"its pixels were of {own.gsd_m[0]:g} to {own.gsd_m[1]:g} m, these are of {contract.gsd_m[0]:g} m"
            )
        kept = self.encoder.provenance
        said += [str(kept[key]) for key in ("first_layer", "remark") if kept.get(key)]
        said += ["its weights are random"] if kept.get("weights") == "random" else []
        if isinstance(self.encoder, ExternalEncoder):
            if self.encoder.readout.window_px is not None:
                said.append(f"of its images it saw the central {self.encoder.readout.window_px} px")
            if any(key.startswith("head.") for key in self.encoder.model.state_dict()):
                said.append("the projection behind its vector is left out")
        return said


def add_sources(data: TrainingData, inputs: Mapping[str, str], licences: Sequence[dict[str, Any]]) -> TrainingData:
    """The same data of a run that rests on encoders too, by name and fingerprint; each licence stands once."""
    every = [*data.licences, *licences]
    kept = [licence for number, licence in enumerate(every) if licence not in every[:number]]
    return dataclasses.replace(data, inputs={**data.inputs, **inputs}, licences=kept)


def open_continued_data(
    selection: DataSelection, *, init: str | Path | None, model: Architecture
) -> tuple[TrainingData, InitialEncoder | None]:
    """The training data, and the encoder that training goes on from, under whose contract they then are.

    What differs from the encoder as it is, is said in a sentence each.

    Args:
        selection: which data.
        init: folder or name of the encoder; None for random weights.
        model: the architecture that was asked for.

    Raises:
        UserError: as `open_training_data` and `InitialEncoder`.
    """
    if init is None:
        data = open_training_data(selection)
        data.items.contracts = {
            stream: model.adapt_contract(contract) for stream, contract in data.items.contracts.items()
        }
        return data, None
    contract = None
    if is_spec(str(init)) and has_task_contract(str(init)):
        found = open_training_data(selection).items.contracts
        expect(len(found) == 1, expected=f"items of one stream for {init}", got=sorted(found), remedy="train on tiles")
        (contract,) = found.values()
    initial = InitialEncoder.of(init, model=model, contract=contract)
    corpora = [Corpus.open(path) for path in selection.corpora]
    streams = [
        stream
        for corpus in corpora
        for name, stream in corpus.streams.items()
        if selection.streams is None or name in selection.streams
    ]
    bands = initial.choose_bands(selection.bands, streams)
    data = initial.take_over(open_training_data(dataclasses.replace(selection, bands=bands)))
    (contract,) = data.items.contracts.values()
    for change in initial.list_changes(contract, streams):
        make_console().print(f"{init}: {change}", soft_wrap=True, highlight=False)
    return data, initial

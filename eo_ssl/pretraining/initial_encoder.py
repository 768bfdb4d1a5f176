"""Training that goes on from an encoder instead of random weights, under the contract that encoder was trained with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eo_ssl.encoder import TrainedEncoder, load_encoder
from eo_ssl.errors import UserError, expect
from eo_ssl.models import Architecture, Backbone, Vit
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.pretraining.training_data import DataSelection, TrainingData, open_training_data


@dataclass(frozen=True, slots=True)
class InitialEncoder:
    """A trained encoder whose weights, bands and normalisation a run goes on with."""

    source: str
    """Where it lies."""
    encoder: TrainedEncoder

    @classmethod
    def of(cls, source: Path, *, model: Architecture) -> InitialEncoder:
        """Read the encoder in `source`.

        Args:
            source: folder of a finished pretraining, or the file of an encoder.
            model: the architecture that was asked for; the default means that of the encoder.

        Raises:
            UserError: no trained encoder of this library, a damaged one, or one of another architecture.
        """
        encoder = load_encoder(source)
        if not isinstance(encoder, TrainedEncoder):
            raise UserError(
                f"expected a trained encoder to begin from, got {source}; weights of other makers cannot be continued"
            )
        expect(
            model in (Vit(), encoder.architecture.model),
            expected=f"the architecture of {source}, {encoder.architecture.model}",
            got=model,
            remedy="leave out --model",
        )
        return cls(str(source), encoder)

    @property
    def model(self) -> Architecture:
        """Its architecture."""
        return self.encoder.architecture.model

    def choose_bands(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        """Its bands, which the streams must hold.

        Raises:
            UserError: others are wanted.
        """
        own = self.encoder.preprocessing.bands
        expect(
            tuple(wanted or own) == own,
            expected=f"the bands {', '.join(own)} of {self.source}",
            got=", ".join(wanted or ()),
            remedy="leave out --bands",
        )
        return own

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
            said = {"of": getattr(own, field), "in": getattr(found, field)}
            expect(
                said["of"] == said["in"],
                expected=f"data of {field} {said['of']}, as {self.source} was trained on",
                got=said["in"],
                remedy="train another encoder on these data",
            )
        contract = dataclasses.replace(
            found, clip=own.clip, mean=own.mean, std=own.std, missing=own.missing, range=own.range
        )
        data.items.contracts = {stream: contract}
        licences = [*data.licences, *self.encoder.provenance.get("licences", [])]
        return dataclasses.replace(
            data,
            inputs={**data.inputs, f"encoder {Path(self.source).name}": self.encoder.fingerprint},
            licences=[licence for number, licence in enumerate(licences) if licence not in licences[:number]],
        )

    def copy_backbones(self, contracts: Mapping[str, Preprocessing]) -> dict[str, Backbone]:
        """A backbone for the stream with the weights of the encoder, its position codes interpolated to the size."""
        made = {}
        for stream, contract in contracts.items():
            backbone = deepcopy(self.encoder.backbone)
            made[stream] = backbone.at_size(contract.size_px).train()
        return made

    def describe(self) -> dict[str, Any]:
        """What the manifest of a run says of it."""
        return {"encoder": self.source, "fingerprint": self.encoder.fingerprint}


def open_continued_data(
    selection: DataSelection, *, init: Path | None, model: Architecture
) -> tuple[TrainingData, InitialEncoder | None]:
    """The training data, and the encoder that training goes on from, under whose contract they then are.

    Args:
        selection: which data.
        init: folder of the encoder; None for random weights.
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
    initial = InitialEncoder.of(init, model=model)
    bands = initial.choose_bands(selection.bands)
    return initial.take_over(open_training_data(dataclasses.replace(selection, bands=bands))), initial

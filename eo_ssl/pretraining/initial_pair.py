"""Training that goes on from an encoder of two sensors: both of its encoders, and what joins them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eo_ssl.encoder import FusedEncoder, collect_licences, load_fused_encoder
from eo_ssl.encoder.fused_encoder import OPTICAL, RADAR
from eo_ssl.errors import expect
from eo_ssl.models import Architecture, Backbone
from eo_ssl.objectives import Objective
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.pretraining.initial_encoder import InitialEncoder, add_sources
from eo_ssl.pretraining.training_data import TrainingData
from eo_ssl.printable import make_console


@dataclass(frozen=True, slots=True)
class InitialPair:
    """An encoder of two sensors, whose weights, bands and normalisation a run on pairs of both goes on with."""

    source: str
    """Where it lies."""
    encoder: FusedEncoder
    parts: Mapping[str, InitialEncoder]
    """The encoder of each stream."""

    @classmethod
    def of(cls, source: str | Path, *, model: Architecture) -> InitialPair:
        """Read the encoder of two sensors in the folder `source`.

        Args:
            source: folder of a finished pretraining on pairs, such as that of `Croma`.
            model: the architecture that was asked for; the default means that of the encoder.

        Raises:
            UserError: a damaged encoder, or one of another architecture.
        """
        encoder = load_fused_encoder(source)
        parts = {stream: InitialEncoder.of(Path(source) / stream, model=model) for stream in (RADAR, OPTICAL)}
        return cls(str(source), encoder, parts)

    @property
    def model(self) -> Architecture:
        """The architecture of both encoders."""
        return self.parts[RADAR].model

    def take_over(self, data: TrainingData) -> TrainingData:
        """The data under the contracts of both encoders, for tiles of their size and pixel spacing; licences add up.

        Raises:
            UserError: no pairs of a radar and an optical stream, or streams of another sensor, quantity or bands.
        """
        expect(
            set(data.items.contracts) == set(self.parts),
            expected=f"pairs of a radar and an optical stream for {self.source}, an encoder of two sensors",
            got=f"items of {', '.join(data.items.contracts)}",
            remedy=f"train on such pairs (--items pairs), or go on from one of its encoders, such as {self.source}/s2",
        )
        for stream, part in self.parts.items():
            part.choose_bands(None, [reader.stream for reader in data.items.sources[stream].readers])
        data.items.contracts = {stream: self.parts[stream].adopt(one) for stream, one in data.items.contracts.items()}
        licences = collect_licences(self.encoder.name, self.encoder.provenance)
        return add_sources(data, {f"encoder {self.encoder.name}": self.encoder.fingerprint}, licences)

    def copy_backbones(self, contracts: Mapping[str, Preprocessing]) -> dict[str, Backbone]:
        """A backbone for each stream with the weights of its encoder."""
        found: dict[str, Backbone] = {}
        for stream, contract in contracts.items():
            found |= self.parts[stream].copy_backbones({stream: contract})
        return found

    def fill(self, objective: Objective) -> None:
        """Give what joins the sensors in ``objective`` the weights of the encoder, or say that nothing does.

        Raises:
            UserError: it joins them in another way.
        """
        mine, theirs = self.encoder.fusion, objective.fused
        if theirs is None:
            said = f"{self.source}: what joins its sensors is left out, {type(objective).__name__} joins none"
            make_console().print(said, soft_wrap=True, highlight=False)
            return
        shapes = [f"{type(one).__name__} of {_name_sizes(one.sizes)}" for one in (mine, theirs)]
        expect(
            shapes[0] == shapes[1],
            expected=f"a method that joins the sensors as {self.source} does, by a {shapes[0]}",
            got=f"a {shapes[1]}",
            remedy="choose the method and the sizes of that run, such as --objective.fusion_depth of Croma",
        )
        theirs.load_state_dict(mine.state_dict())

    def describe(self) -> dict[str, Any]:
        """What the manifest of a run says of it."""
        return {"encoder": self.source, "fingerprint": self.encoder.fingerprint}

    def list_changes(self, data: TrainingData) -> list[str]:
        """What differs between the encoder as it is and as training begins with it, a sentence each."""
        said = []
        for stream, part in self.parts.items():
            streams = [reader.stream for reader in data.items.sources[stream].readers]
            changes = part.list_changes(data.items.contracts[stream], streams)
            said += [f"{stream}: {change}" for change in changes]
        return said


def _name_sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items()) or "no size"

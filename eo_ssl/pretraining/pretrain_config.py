"""Everything that a run was asked for beside its data, as the manifest records it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from eo_ssl.curation import DynamicConfig
from eo_ssl.curation.report import to_plain
from eo_ssl.errors import expect
from eo_ssl.models import METADATA_FIELDS, Architecture, Backbone, copy_merged
from eo_ssl.objectives import Location, Method, Objective, ViewSpec, derive_seed
from eo_ssl.objectives.views import PHYSICAL
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.pretraining.adaptation import Adaptation, Whole, count_trained
from eo_ssl.pretraining.branching import Branch
from eo_ssl.pretraining.fit import FitConfig
from eo_ssl.pretraining.initial_encoder import InitialEncoder
from eo_ssl.pretraining.initial_pair import InitialPair
from eo_ssl.pretraining.module import OptimizerConfig
from eo_ssl.pretraining.training_data import TrainingData

LOCATED = 2**32  # part of the seed of what places add: streams of items are counted from 0
LATER = ("schedule", "cooldown_steps", "lr_constant", "anneal_steps", "horizon", "layer_decay")
"""Options of the optimiser that version 0.1 did not have: unsaid where they are as it was."""


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """Everything that was asked for, beside the data."""

    objective: Method
    views: Mapping[str, ViewSpec]
    model: Architecture
    optimizer: OptimizerConfig
    prune: DynamicConfig | None
    location: Location | None
    training: FitConfig
    split: str
    items: str
    dates: int
    steps: int
    batch_size: int
    lr: float
    seed: int
    precision: str
    world: int
    accumulate: int
    initial: InitialEncoder | InitialPair | None = None
    """What training begins from; None for random weights."""
    adapt: Adaptation = Whole()  # noqa: RUF009  (frozen)
    """What of it is trained."""
    branch: Branch | None = None
    """The run that this one goes on from."""
    compiled: bool = False
    """Whether blocks are compiled, which rounds otherwise."""

    def __post_init__(self) -> None:
        """Refuse frozen random weights, and a teacher that would stand still for the rest of a run without an end."""
        expect(
            self.initial is not None or isinstance(self.adapt, Whole),
            expected=f"an encoder to go on from for adapt {type(self.adapt).__name__}",
            got="random weights",
            remedy="name it with --init, or train the whole encoder",
        )
        expect(
            self.optimizer.schedule != "infinite" or getattr(self.objective, "momentum_end", 0) < 1,
            expected="a teacher that goes on following its student in schedule infinite",
            got="a momentum_end of 1",
            remedy="set --objective.momentum_end below 1, such as 0.9995",
        )

    @property
    def method(self) -> str:
        """Name of the method."""
        return type(self.objective).__name__

    def resolved(self, data: TrainingData) -> dict[str, Any]:
        """The configuration as the manifest records it."""
        plain: dict[str, Any] = to_plain(asdict(replace(self, initial=None, adapt=Whole(), branch=None)))
        del plain["initial"], plain["adapt"], plain["branch"]
        if not self.compiled:
            del plain["compiled"]
        if not self.training.encoders_at:  # unsaid, as by versions that kept none
            del plain["training"]["encoders_at"]
        if self.branch is not None:
            plain["branch"] = str(self.branch.source)
        if self.initial is not None:
            plain["init"] = self.initial.describe()
        if not isinstance(self.adapt, Whole):
            plain["adapt"] = {"name": type(self.adapt).__name__, "options": to_plain(asdict(self.adapt))}  # type: ignore[call-overload]
        plain |= {"objective": self.method, "options": plain["objective"]}
        if self.optimizer.algorithm == OptimizerConfig.algorithm:  # unsaid, as by versions that had no other
            del plain["optimizer"]["algorithm"], plain["optimizer"]["momentum"]
        for name in LATER:
            if plain["optimizer"][name] == getattr(OptimizerConfig, name):
                del plain["optimizer"][name]
        if plain["options"].get("momentum_end") == 1:
            del plain["options"]["momentum_end"]
        if self.location is None:  # unsaid too
            del plain["location"]
        model = self.model if self.initial is None else self.initial.model
        plain["model"] = {"name": type(model).__name__, "options": to_plain(asdict(model))}  # type: ignore[call-overload]
        for name in METADATA_FIELDS if not model.metadata else ():  # unsaid, as by versions without
            plain["model"]["options"].pop(name, None)
        for spec, views in zip(
            self.views.values(), plain["views"].values(), strict=True
        ):  # unsaid, as by versions without
            for unsaid in set(PHYSICAL) - set(spec.list_changes(PHYSICAL)):
                del views[unsaid]
        if self.prune is not None:  # selectors of equal options are not the same
            plain["prune"]["selector"] = self.prune.method.name
        contracts = {stream: contract.to_json() for stream, contract in data.items.contracts.items()}
        return plain | {"streams": data.stream_names, "preprocessing": contracts}

    def summarise(self, data: TrainingData, objective: Objective) -> dict[str, Any]:
        """What the manifest says of a finished run beside its results."""
        plain = copy_merged(nn.ModuleDict(objective.embedders))  # which may share weights
        facts = {
            "tiles": len(data.pool),
            "benchmark_tiles_left_out": data.left_out,
            "objective": self.method,
            "steps": self.steps,
            "parameters": sum(part.numel() for part in plain.parameters()),
        }
        if not isinstance(self.adapt, Whole):
            facts["trained_parameters"] = count_trained(objective.encoder)
        return facts

    def build_objective(self, contracts: Mapping[str, Preprocessing]) -> Objective:
        """The objective around one encoder for each stream, fresh unless training goes on from one.

        Raises:
            UserError: encoders or streams that the method cannot be trained with.
        """
        encoders = self._build_encoders(contracts) if self.initial is None else self.initial.copy_backbones(contracts)
        for encoder in encoders.values():
            self.adapt.apply(encoder, seed=self.seed + 2)
        objective = self.objective.build(encoders, seed=self.seed + 1)
        if self.initial is not None:
            self.initial.fill(objective)
        objective.accept(contracts)
        self._refuse_answers(objective)
        return objective

    def _build_encoders(self, contracts: Mapping[str, Preprocessing]) -> dict[str, Backbone]:
        """Fresh encoders by stream."""
        encoders = {}
        for place, (stream, contract) in enumerate(contracts.items()):
            seed = derive_seed(self.seed, place) if place else self.seed
            encoders[stream] = self.model.build(contract.bands, contract.size_px, seed, sensor=contract.sensor)
        return encoders

    def build_task(self, contracts: Mapping[str, Preprocessing]) -> Objective:
        """The objective, and beside it the contrast with places where that was asked for."""
        objective = self.build_objective(contracts)
        if self.location is None:
            return objective
        located = self.location.wrap(objective, derive_seed(self.seed, LOCATED))
        self._refuse_answers(located)
        return located

    def _refuse_answers(self, objective: Objective) -> None:
        """Refuse encoders that would be told what the objective asks for, beside the images or instead of them."""
        asked = self.model.metadata if self.initial is None else self.initial.model.metadata
        beside = "" if self.location is None else " with location"
        remedy = "leave out the others, or choose a method that fills in or predicts, such as Mae"
        expect(
            set(asked) <= set(objective.told),
            expected=f"model.metadata out of {', '.join(objective.told) or 'nothing'} for {self.method}{beside}, which"
            " matches what could be matched by such numbers instead of images",
            got=", ".join(asked),
            remedy=remedy,
        )

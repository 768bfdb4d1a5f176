"""Everything that a run was asked for beside its data, as the manifest records it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from eo_ssl.curation import DynamicConfig
from eo_ssl.curation.report import to_plain
from eo_ssl.models import Architecture
from eo_ssl.objectives import Location, Method, Objective, ViewSpec, derive_seed
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.pretraining.fit import FitConfig
from eo_ssl.pretraining.initial_encoder import InitialEncoder
from eo_ssl.pretraining.module import OptimizerConfig
from eo_ssl.pretraining.training_data import TrainingData

LOCATED = 2**32  # part of the seed of what places add: streams of items are counted from 0


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
    initial: InitialEncoder | None = None
    """What training begins from; None for random weights."""

    @property
    def method(self) -> str:
        """Name of the method."""
        return type(self.objective).__name__

    def resolved(self, data: TrainingData) -> dict[str, Any]:
        """The configuration as the manifest records it."""
        plain: dict[str, Any] = to_plain(asdict(replace(self, initial=None)))
        del plain["initial"]
        if self.initial is not None:
            plain["init"] = self.initial.describe()
        plain |= {"objective": self.method, "options": plain["objective"]}
        if self.optimizer.algorithm == OptimizerConfig.algorithm:  # unsaid, as by versions that had no other
            del plain["optimizer"]["algorithm"], plain["optimizer"]["momentum"]
        if self.location is None:  # unsaid too
            del plain["location"]
        model = self.model if self.initial is None else self.initial.model
        plain["model"] = {"name": type(model).__name__, "options": to_plain(asdict(model))}  # type: ignore[call-overload]
        contracts = {stream: contract.to_json() for stream, contract in data.items.contracts.items()}
        return plain | {"streams": data.stream_names, "preprocessing": contracts}

    def build_objective(self, contracts: Mapping[str, Preprocessing]) -> Objective:
        """The objective around one encoder for each stream, fresh unless training goes on from one."""
        if self.initial is not None:
            return self.objective.build(self.initial.copy_backbones(contracts), seed=self.seed + 1)
        encoders = {}
        for place, (stream, contract) in enumerate(contracts.items()):
            seed = derive_seed(self.seed, place) if place else self.seed
            encoders[stream] = self.model.build(contract.bands, contract.size_px, seed)
        return self.objective.build(encoders, seed=self.seed + 1)

    def build_task(self, contracts: Mapping[str, Preprocessing]) -> Objective:
        """The objective, and beside it the contrast with places where that was asked for."""
        objective = self.build_objective(contracts)
        return objective if self.location is None else self.location.wrap(objective, derive_seed(self.seed, LOCATED))

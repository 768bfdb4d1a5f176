"""A run that goes on from a checkpoint of another: for more steps, on a corpus that has grown, or to anneal."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eo_ssl.commits import replace
from eo_ssl.corpus import Corpus, list_snapshots
from eo_ssl.documents import read_json
from eo_ssl.errors import expect
from eo_ssl.fingerprints import compute_sha256, dump_canonical_json
from eo_ssl.manifest import MANIFEST, UNFINISHED, require
from eo_ssl.models import Architecture
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.pretraining.adaptation import Adaptation
from eo_ssl.pretraining.checkpoints import find_sound_checkpoint, save_checkpoint
from eo_ssl.pretraining.continued_data import open_continued_data
from eo_ssl.pretraining.initial_encoder import add_sources
from eo_ssl.pretraining.module import OptimizerConfig, compute_lr_share, compute_weight_decay
from eo_ssl.pretraining.pruning import keep_cost_alone
from eo_ssl.pretraining.sampler import ItemSampler
from eo_ssl.pretraining.training_data import DataSelection, TrainingData

RECORD = "branch.json"
"""What a run that goes on from another says of it; written when its first checkpoint is there."""
MAY_DIFFER = frozenset({"steps", "training", "split", "streams", "preprocessing", "branch", "optimizer"})
ANNEALING = ("anneal_steps", "lr_end")
DATA = ("corpus ", "subset ", "pairs ")  # how the names of inputs that hold data begin


@dataclass(frozen=True, slots=True)
class Branch:
    """The run that another goes on from, finished or not, and the newest checkpoint of it."""

    source: Path
    """Its folder."""
    checkpoint: Path
    """With weights, moments of the optimiser, order of the items and everything else that a resume needs."""
    step: int
    """Of the checkpoint."""
    config: Mapping[str, Any]
    """What the run was asked for."""
    inputs: Mapping[str, str]
    """Fingerprints of what it learns from."""

    @classmethod
    def of(cls, source: Path) -> Branch:
        """Read the run in `source`.

        Raises:
            UserError: no pretraining, or one without a sound checkpoint.
        """
        try:
            said = read_json(source / UNFINISHED, remedy="give another run")
        except FileNotFoundError:
            require(source, "pretrain")
            said = read_json(source / MANIFEST, remedy="give another run")
        expect(
            said.get("stage") == "pretrain",
            expected=f"a run of pretrain in {source}",
            got=f"one of {said.get('stage')}",
            remedy="give the folder of a pretraining",
        )
        checkpoint = find_sound_checkpoint(source / "checkpoints")
        if checkpoint is None:
            expect(
                False,
                expected=f"a checkpoint in {source / 'checkpoints'}",
                got="none",
                remedy="begin from the weights of its encoder with --init",
            )
            raise AssertionError
        step = int(checkpoint.name.removeprefix("step_").partition(".")[0])
        return cls(source, checkpoint, step, said["config"], said["inputs"])

    @property
    def contracts(self) -> dict[str, Preprocessing]:
        """What the encoders of the run accept, by stream."""
        return {stream: Preprocessing.from_json(values) for stream, values in self.config["preprocessing"].items()}

    def choose_bands(self, selection: DataSelection) -> DataSelection:
        """The selection with the bands of the run, where it names none."""
        if selection.kind == "pairs" or selection.bands is not None:
            return selection
        (contract,) = self.contracts.values()
        return dataclasses.replace(selection, bands=contract.bands)

    def take_over(self, data: TrainingData, selection: DataSelection) -> TrainingData:
        """The data under the contracts of the run, whose encoders know no other; licences add up.

        Raises:
            UserError: other streams, sensors, quantities or sizes, or corpora that are not those of the run, as they
                were or grown by snapshots.
        """
        contracts, found = self.contracts, data.items.contracts
        for field in ("sensor", "final_quantity", "bands", "size_px"):
            said = [{stream: getattr(each, field) for stream, each in some.items()} for some in (contracts, found)]
            expect(
                said[0] == said[1],
                expected=f"data of {field} {said[0]}, as those of {self.source}",
                got=said[1],
                remedy="train another encoder on these data",
            )
        data.items.contracts = contracts
        return add_sources(data, {}, [each for corpus in self._find_corpora(selection) for each in corpus.licences()])

    def _find_corpora(self, selection: DataSelection) -> list[Corpus]:
        """The corpora of the run, at the snapshots that it learns from."""
        there: dict[str, Corpus] = {}
        for path in selection.corpora:
            for number in list_snapshots(path):
                corpus = Corpus.open(path, snapshot=number)
                there[corpus.fingerprint] = corpus
        wanted = {name: content for name, content in self.inputs.items() if name.startswith("corpus ")}
        absent = [name for name, content in wanted.items() if content not in there]
        expect(
            not absent,
            expected=f"the corpora of {self.source}, each as it was or with newer snapshots",
            got=f"none that was {', '.join(absent)}",
            remedy="name them with --corpus, or begin from the weights alone with --init",
        )
        return [there[content] for content in wanted.values()]

    def check(self, wanted: Mapping[str, Any], data: TrainingData, *, by_row: bool) -> None:
        """Refuse settings under which the run could not go on as it was.

        Args:
            wanted: the resolved configuration of the run that goes on.
            data: what it learns from.
            by_row: whether its objective keeps numbers of each row of the data.

        Raises:
            UserError: naming what differs, a last step that the checkpoint has passed, or a learning rate that would
                jump.
        """
        expect(
            not by_row or self._shares_data(wanted, data),
            expected=f"the data of {self.source} for {wanted['objective']}, which keeps numbers of each of its rows",
            got="others",
            remedy="begin from the weights alone with --init",
        )
        new = json.loads(dump_canonical_json(wanted))
        different = _list_differences(self.config, new)
        expect(
            not different,
            expected=f"the settings of {self.source}, from which this run goes on",
            got=f"others of {', '.join(different)}",
            remedy="give them as they were, or begin from the weights alone with --init",
        )
        expect(
            self.step < new["steps"],
            expected=f"more steps than the {self.step} that {self.source} has made",
            got=new["steps"],
            remedy="raise --steps, which counts from its first step",
        )
        (rate, decay, horizon), (new_rate, new_decay, new_horizon) = (
            _find_pace(config, self.step) for config in (self.config, new)
        )
        expect(
            math.isclose(rate, new_rate) and math.isclose(decay, new_decay) and horizon == new_horizon,
            expected=f"the schedule of {self.source} up to its step {self.step}, {rate:.3g} of the peak rate",
            got=f"{new_rate:.3g}" if not math.isclose(rate, new_rate) else "another weight decay or horizon",
            remedy="keep --steps of a cosine, which ends; an infinite schedule goes on, and anneals from that step on",
        )

    def _shares_data(self, wanted: Mapping[str, Any], data: TrainingData) -> bool:
        """Whether a run of the configuration `wanted` draws from the same tiles: of its corpora, streams and split."""
        own, other = (
            ({name: made for name, made in inputs.items() if name.startswith(DATA)}, some["split"], some["streams"])
            for inputs, some in ((self.inputs, self.config), (data.inputs, wanted))
        )
        return own == other

    def plant(self, folder: Path, wanted: Mapping[str, Any], data: TrainingData) -> None:
        """Write the checkpoint, the log and the events of pruning up to it into `folder`, unless they are there.

        Where the data are others, the run goes on with their pool, in a new epoch, and prunes it from the beginning.

        Args:
            folder: of the run that goes on.
            wanted: its resolved configuration.
            data: what it learns from.
        """
        if (folder / RECORD).exists():
            return
        state: dict[str, Any] = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        loops = state["loops"]["fit_loop"]
        loops["epoch_loop.batch_progress"]["is_last_batch"] = False  # of the run that has ended, not of this one
        same = self._shares_data(wanted, data)
        if not same:
            (loader,) = loops["state_dict"]["combined_loader"]
            own = loader["sampler"]
            sampler = ItemSampler(data.pool, weights=data.weights, batch_size=1, seed=own["seed"])
            loader["sampler"] = sampler.state_dict() | {"epoch": own["epoch"] + 1}
            state["callbacks"].pop("ViewSpread", None)
            if "DynamicPruning" in state["callbacks"]:
                state["callbacks"]["DynamicPruning"] = keep_cost_alone(state["callbacks"]["DynamicPruning"])
        log = self.source / "log.jsonl"
        if log.exists():
            replace(folder / log.name, log.read_bytes()[: state["callbacks"]["RunLog"]["lines"]["size"]])
        if same and (self.source / "pruning").exists():
            shutil.copytree(self.source / "pruning", folder / "pruning", dirs_exist_ok=True)
        save_checkpoint(folder / "checkpoints", self.step, lambda path: torch.save(state, path))
        record = {"run": str(self.source), "step": self.step, "checkpoint": compute_sha256(self.checkpoint)}
        replace(folder / RECORD, json.dumps({**record, "grown": not same}, indent=1).encode())


def open_start(
    selection: DataSelection, *, init: str | Path | None, branch: Path | None, model: Architecture, adapt: Adaptation
) -> tuple[TrainingData, dict[str, Any]]:
    """The training data, and what a run begins from: the encoder `initial`, the run `branch`, and what is trained.

    Args:
        selection: which data.
        init: the encoder whose weights training begins with; None for random weights, or those of the checkpoint.
        branch: folder of the run that training goes on from; None for none.
        model: the architecture that was asked for.
        adapt: what of the encoder is trained.

    Raises:
        UserError: as `open_continued_data` and `Branch`.
    """
    origin = None if branch is None else Branch.of(branch)
    chosen = selection if origin is None else origin.choose_bands(selection)
    data, initial = open_continued_data(chosen, init=init, model=model)
    if origin is not None:
        data = origin.take_over(data, chosen)
    return data, {"initial": initial, "branch": origin, "adapt": adapt}


def _list_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Names of settings that differ and may not."""
    names = [name for name in sorted({*old, *new} - MAY_DIFFER) if old.get(name) != new.get(name)]
    pair = [{key: value for key, value in some["optimizer"].items() if key not in ANNEALING} for some in (old, new)]
    keys: Sequence[str] = sorted({*pair[0], *pair[1]})
    return [*names, *(f"optimizer.{key}" for key in keys if pair[0].get(key) != pair[1].get(key))]


def _find_pace(config: Mapping[str, Any], step: int) -> tuple[float, float, int]:
    """Share of the learning rate and weight decay of the step after `step` finished ones, and the horizon."""
    optimizer, total = OptimizerConfig(**config["optimizer"]), config["steps"]
    rate = compute_lr_share(step, total=total, config=optimizer)
    decay = compute_weight_decay(step, total=total, config=optimizer)
    return rate, decay, optimizer.count_horizon(total)

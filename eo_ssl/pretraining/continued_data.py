"""The training data of a run that goes on from an encoder, under its contract, with a sentence for each change."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from eo_ssl.corpus import Corpus
from eo_ssl.encoder import has_task_contract, is_fused, is_spec
from eo_ssl.errors import expect
from eo_ssl.models import Architecture
from eo_ssl.pretraining.initial_encoder import InitialEncoder
from eo_ssl.pretraining.initial_pair import InitialPair
from eo_ssl.pretraining.training_data import DataSelection, TrainingData, open_training_data
from eo_ssl.printable import make_console


def open_continued_data(
    selection: DataSelection, *, init: str | Path | None, model: Architecture
) -> tuple[TrainingData, InitialEncoder | InitialPair | None]:
    """The training data, and the encoder that training goes on from, under whose contract they then are.

    What differs from the encoder as it is, is said in a sentence each.

    Args:
        selection: which data.
        init: folder or name of the encoder; None for random weights.
        model: the architecture that was asked for.

    Raises:
        UserError: as `open_training_data`, `InitialEncoder` and `InitialPair`.
    """
    if init is None:
        data = open_training_data(selection)
        data.items.contracts = {
            stream: model.adapt_contract(contract) for stream, contract in data.items.contracts.items()
        }
        return data, None
    if is_fused(init):
        pair = InitialPair.of(init, model=model)
        data = pair.take_over(open_training_data(selection))
        _tell(init, pair.list_changes(data))
        return data, pair
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
    _tell(init, initial.list_changes(contract, streams))
    return data, initial


def _tell(init: str | Path, changes: Sequence[str]) -> None:
    for change in changes:
        make_console().print(f"{init}: {change}", soft_wrap=True, highlight=False)

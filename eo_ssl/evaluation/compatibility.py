"""What is refused before anything is computed or written: encoders that do not fit a task, amounts it does not have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from eo_ssl.errors import UserError
from eo_ssl.evaluation.candidates import Candidate
from eo_ssl.evaluation.draws import draw
from eo_ssl.evaluation.extraction import about
from eo_ssl.evaluation.features import Source
from eo_ssl.evaluation.methods import trainable, trains
from eo_ssl.evaluation.settings import Settings
from eo_ssl.evaluation.tasks import Task


def check_compatibility(task: Task, compared: Sequence[Candidate], settings: Settings) -> Task:
    """Return ``task`` with a note on encoders that a protocol leaves out, for want of a network to train.

    Each trained encoder is shown one image of each source under its contract, so that bands, quantity, sensor, values and sizes are judged.

    Raises:
        UserError: an encoder, or an amount of training samples, that does not fit the task, or nobody is left.
    """
    task = replace(task, notes=(*task.notes, *_left_out(task, compared, settings)))
    for amount in settings.amounts:
        draw(task, amount, draws=1, seed=settings.seed)
    for one in compared:
        if one.trained is None and one.reference and not task.partners:
            continue  # its contract is made of the task's own images
        about(one, task)
        for run in one.runs:
            for part, sources in ((run, task.sources), (run.second, task.partners)):
                if part is not None and part.trained is not None:
                    _show(part, task, sources)
    return task


def _left_out(task: Task, compared: Sequence[Candidate], settings: Settings) -> list[str]:
    """Sentences on encoders that have no network to train."""
    plain = [one for one in compared if not one.reference]
    missing = {one.name for one in plain if not trainable(one, task)} if any(map(trains, settings.protocols)) else set()
    left = [one.name for one in plain if one.name in missing]
    trained = [protocol for protocol in settings.protocols if trains(protocol)]
    if len(left) == len(plain) and len(trained) == len(settings.protocols):
        raise UserError(
            f"expected an encoder with a network to train for {', '.join(trained)}, got {', '.join(left)}; add a trained one, or random_init"
        )
    return [f"{', '.join(trained)}: without {', '.join(left)}, which have no network to train"] if left else []


def _show(one: Candidate, task: Task, sources: Sequence[Source]) -> None:
    """Prepare the first image of each source as ``one`` does."""
    encoder = one.encoder(task, task.folds[0])
    for source in sources:
        image = torch.empty((1, *source.shape), dtype=torch.float32)
        source.read(np.zeros(1, dtype=np.int64), image.numpy())
        encoder.preprocessing(image, bands=source.bands, quantity=source.quantity, sensor=source.sensor)

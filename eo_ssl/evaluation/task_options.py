"""Tasks by name with their options: labels of a corpus, MSTAR with its controls, and the published benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from eo_ssl.cards import load_card
from eo_ssl.corpus import Corpus
from eo_ssl.errors import UserError, suggest_nearest
from eo_ssl.evaluation.benchmarks import BENCHMARKS, load_benchmark
from eo_ssl.evaluation.mstar import CLUTTER_PX, make_mstar_task
from eo_ssl.evaluation.tasks import HeldOut, Task, make_corpus_task

TASKS = ("corpus", "mstar_soc", *BENCHMARKS)
"""Names of all tasks."""


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Options of a task; None: the default of the task."""

    name: str | None = None
    "in the results"
    streams: list[str] | None = None
    "of the corpus"
    clutter: Path | None = None
    "mstar_soc: corpus with 128-px crops of the same chips"
    sensor: str | None = None
    "corpus: name the bands of all streams as those of this sensor"
    classes: list[str] | None = None
    "corpus: label names to tell apart"
    held_out: HeldOut = "unseen"
    "corpus: which tiles are tested"
    variant: str | None = None
    "benchmark: bands, sensor or split"
    card: str | None = None
    "benchmark: what the bands of the files are"


_UNUSED = {"corpus": ("clutter", "variant", "card"), "mstar_soc": ("sensor", "classes", "variant", "card")}
_UNUSED_BY_BENCHMARKS = ("clutter", "sensor", "classes", "streams")


def open_task(kind: str, data: Path, options: TaskOptions) -> Task:
    """Return the task ``kind`` on ``data``; options that it has no use for are refused rather than ignored.

    Raises:
        UserError: a name out of none of `TASKS`, such an option, or what the task itself refuses.
    """
    if kind not in TASKS:
        raise UserError(f"expected a task out of {', '.join(TASKS)}, got {kind!r}{suggest_nearest(kind, TASKS)}")
    values = asdict(options)
    given = [option for option in _UNUSED.get(kind, _UNUSED_BY_BENCHMARKS) if values[option] is not None]
    if given:
        raise UserError(f"expected options of task {kind}, got {', '.join(given)}; leave out what it has no use for")
    if kind in BENCHMARKS:
        card = load_card(options.card) if options.card else None
        found = load_benchmark(kind, data, variant=options.variant, card=card)
        return replace(found, name=options.name) if options.name else found
    corpus = Corpus.open(data)
    if kind == "corpus":
        parts = [(corpus, stream) for stream in options.streams or [_only(corpus, list(corpus.streams))]]
        return make_corpus_task(
            parts,
            name=options.name or data.name,
            sensor=options.sensor,
            classes=options.classes,
            held_out=options.held_out,
        )
    crops = Corpus.open(options.clutter) if options.clutter is not None else corpus
    wide = _only(crops, [key for key, stream in crops.streams.items() if stream.size_px == CLUTTER_PX])
    small = [key for key, stream in corpus.streams.items() if stream.size_px != CLUTTER_PX]
    chips = options.streams or [_only(corpus, small)]
    if len(chips) != 1:
        raise UserError(f"expected one stream of chips for mstar_soc, got {', '.join(chips)}; name one")
    return make_mstar_task((corpus, chips[0]), clutter=(crops, wide), name=options.name or "mstar_soc")


def _only(corpus: Corpus, options: Sequence[str]) -> str:
    if len(options) != 1:
        raise UserError(
            f"expected one stream to choose in {corpus.root}, got {', '.join(options) or 'none'} out of "
            f"{', '.join(corpus.streams)}; name it with "
            f"--streams, or ingest the crops that are missing (mstar_soc needs a stream of {CLUTTER_PX} px for its "
            "clutter control)"
        )
    return options[0]

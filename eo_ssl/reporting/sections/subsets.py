"""Curated subsets: how many tiles were chosen by what, what that did to balance and places, and what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eo_ssl.corpus import Corpus, StreamReader
from eo_ssl.curation import CurationReport
from eo_ssl.errors import UserError
from eo_ssl.reporting.formatting import (
    MISSING,
    flatten_config,
    format_count,
    format_duration,
    format_number,
    format_share,
)
from eo_ssl.reporting.products import FinishedProduct, read_json
from eo_ssl.reporting.sections.selections import COLUMNS, SelectionView, describe_selection, open_origin
from eo_ssl.reporting.selected_tiles import read_subset_tiles


@dataclass(frozen=True, slots=True)
class SubsetView:
    """One curated subset."""

    name: str
    "folder name"
    anchor: str
    "id in the page"
    sentence: str
    "what was done"
    facts: tuple[tuple[str, str], ...]
    "counts and cost"
    selection: SelectionView
    "what it did"
    notes: tuple[str, ...]
    "what the selection had to change, and what this view lacks"
    parameters: tuple[tuple[str, str], ...]
    "of the selector"
    n_rows: int
    "before"
    n_kept: int
    "after"


def describe_subset(product: FinishedProduct, corpora: Sequence[FinishedProduct], *, position: int) -> SubsetView:
    """Everything the page shows about one subset; its tiles are drawn where its corpus is among the inputs."""
    report = CurationReport.from_json(read_json(product.path / "curation_report.json"))
    tiles = read_subset_tiles(product.path, report)
    corpus = open_origin(corpora, {report.corpus_fingerprint, product.manifest.inputs.get("corpus", "")})
    stream = product.manifest.config.get("stream")
    notes = list(report.notes)
    if corpus is None:
        selection = describe_selection(report, tiles, None, None)
        notes.append("Its corpus is not among the inputs of this report, hence no pictures.")
    else:
        reader = _open_stream(product, corpus)
        index = corpus.index(reader.stream.name, columns=list(COLUMNS), rows=tiles.rows)
        selection = describe_selection(report, tiles, reader, index)
    return SubsetView(
        name=product.name,
        anchor=f"subset-{position + 1}",
        sentence=_sentence(report, str(stream or ""), "" if corpus is None else corpus.root.name),
        facts=(
            ("Tiles before", format_number(report.n_rows)),
            ("Tiles kept", f"{format_number(report.n_kept)} ({format_share(report.n_kept / max(report.n_rows, 1))})"),
            *_tell_effective(report),
            ("Copies dropped", format_number(sum(n for why, n in report.reasons.items() if why != "not drawn"))),
            ("Clusters", format_number(len(report.cluster_rows)) if report.cluster_rows else MISSING),
            ("Selection took", format_duration(report.cost.select_s)),
            ("Tiles embedded", format_number(report.cost.forward_equivalents)),
        ),
        selection=selection,
        notes=(*notes, *selection.notes),
        parameters=(
            ("method", report.method),
            ("seed", format_number(report.seed)),
            *flatten_config(report.parameters),
        ),
        n_rows=report.n_rows,
        n_kept=report.n_kept,
    )


def _tell_effective(report: CurationReport) -> tuple[tuple[str, str], ...]:
    if not report.weighs or report.effective_rows is None:
        return ()
    share = format_share(report.effective_rows / max(report.n_rows, 1))
    return (("Tiles effective", f"{format_number(round(report.effective_rows))} ({share})"),)


def _sentence(report: CurationReport, stream: str, corpus: str) -> str:
    verb = "weighed" if report.weighs else "kept"
    rows = f"{format_number(report.n_kept)} of {format_count(report.n_rows, 'tile')}"
    where = f" from {stream} of {corpus}" if stream and corpus else f" from {stream}" if stream else ""
    return f"{rows} {verb} by the method {report.method}{where}."


def _open_stream(product: FinishedProduct, corpus: Corpus) -> StreamReader:
    stream = product.manifest.config.get("stream")
    if stream is None and len(corpus.streams) == 1:
        stream = next(iter(corpus.streams))
    if stream not in corpus.streams:
        raise UserError(
            f"expected a stream of {corpus.root.name} in the subset {product.name}, got {stream!r}: curate again"
        )
    return corpus.stream(str(stream))

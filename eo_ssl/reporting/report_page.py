"""The report: views of all products put into one HTML text that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from eo_ssl.cards import list_cards, load_card
from eo_ssl.encoder import check_encoder
from eo_ssl.reporting.formatting import format_count, format_number, format_share, format_size
from eo_ssl.reporting.products import FinishedProduct, filter_stage, find_products
from eo_ssl.reporting.sections import (
    BundleView,
    ContrastView,
    CorpusView,
    EmbeddingView,
    PairView,
    PruningView,
    SubsetView,
    TaskScores,
    Training,
    describe_bundle,
    describe_contrasts,
    describe_corpus,
    describe_embeddings,
    describe_pairings,
    describe_prunings,
    describe_subset,
    describe_trainings,
    group_scores,
    list_packages,
    list_steps,
    sum_costs,
)
from eo_ssl.reporting.templating import render_template

SECTIONS = (
    ("overview", "Overview"),
    ("ingested", "What was ingested"),
    ("curated", "What was curated"),
    ("training", "How training went"),
    ("results", "Results"),
    ("provenance", "Provenance"),
)
# section that stands only where there is something to show -> its name, and the section it precedes
OPTIONAL = {
    "paired": ("How pairs fit", "curated"),
    "exported": ("What was handed off", "provenance"),
    "embedded": ("What was embedded", "provenance"),
}
DEFAULT_TITLE = "From archive to believable number"


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the page shows."""

    title: str
    "heading"
    note: str
    "a caveat shown first; empty = none"
    products: tuple[FinishedProduct, ...]
    "in the order of the flow"
    corpora: tuple[CorpusView, ...]
    "section 2"
    pairings: tuple[PairView, ...]
    "after section 2, if there are any"
    subsets: tuple[SubsetView, ...]
    "section 3"
    prunings: tuple[PruningView, ...]
    "section 3"
    trainings: tuple[Training, ...]
    "section 4"
    tasks: tuple[TaskScores, ...]
    "section 5"
    contrasts: tuple[ContrastView, ...]
    "section 5"
    bundles: tuple[BundleView, ...]
    "after section 5, if there are any"
    embeddings: tuple[EmbeddingView, ...]
    "after section 5, if there are any"

    @property
    def sections(self) -> tuple[tuple[str, str], ...]:
        """(id, name) of the sections of this page, in order."""
        there = {"paired": self.pairings, "exported": self.bundles, "embedded": self.embeddings}
        sections: list[tuple[str, str]] = []
        for section in SECTIONS:
            sections += [(id_, name) for id_, (name, before) in OPTIONAL.items() if before == section[0] and there[id_]]
            sections.append(section)
        return tuple(sections)

    @property
    def numbers(self) -> tuple[tuple[str, str], ...]:
        """The key numbers; a stage that is not there has none."""
        pairs: list[tuple[str, str]] = []
        if self.corpora:
            pairs += [
                ("Products", format_number(sum(c.n_products for c in self.corpora))),
                ("Tiles", format_number(sum(c.n_tiles for c in self.corpora))),
                ("On disk", format_size(sum(c.nbytes for c in self.corpora))),
            ]
        if self.subsets:
            kept = sum(s.n_kept for s in self.subsets) / max(sum(s.n_rows for s in self.subsets), 1)
            pairs.append(("Kept by curation", format_share(kept)))
        if self.trainings:
            pairs.append(("Encoders trained", format_number(len(self.trainings))))
        if self.tasks:
            pairs.append(("Results", format_number(sum(len(g.rows) for t in self.tasks for g in t.groups))))
        return tuple(pairs)

    @property
    def flow(self) -> tuple[tuple[str, str, str], ...]:
        """(section, stage, what it made) along the flow; an empty text where a stage is not there."""
        corpora, subsets, rows = self.corpora, self.subsets, sum(len(g.rows) for t in self.tasks for g in t.groups)
        embedded = sum(e.n_rows for e in self.embeddings)
        left = (
            ("exported", "Hand-off", format_count(len(self.bundles), "bundle") if self.bundles else ""),
            ("embedded", "Embeddings", format_count(embedded, "row or map", "rows and maps") if embedded else ""),
        )
        return (
            ("ingested", "Corpus", format_count(len(corpora), "corpus", "corpora") if corpora else ""),
            (
                "curated",
                "Curation",
                format_count(len(subsets) + len(self.prunings), "selection") if subsets or self.prunings else "",
            ),
            ("training", "Encoder", format_count(len(self.trainings), "encoder") if self.trainings else ""),
            (
                "results",
                "Evaluation",
                f"{format_count(rows, 'row')}, {format_count(len(self.tasks), 'task')}" if rows else "",
            ),
            *(stage for stage in left if stage[2]),
        )


def collect_report(inputs: Sequence[Path], *, title: str = DEFAULT_TITLE, note: str = "") -> Report:
    """Find the products in some folders and make every view of them.

    Args:
        inputs: product folders, or folders that hold them.
        title: heading of the page.
        note: a caveat printed first, such as that a run proves the pipeline and not the encoder.

    Raises:
        UserError: an input holds no finished product, or a product is not what its manifest says.
    """
    products = find_products(inputs)
    corpora, encoders = filter_stage(products, "ingest"), filter_stage(products, "pretrain")
    for encoder in encoders:
        check_encoder(encoder.path, encoder.manifest)
    return Report(
        title=title,
        note=note,
        products=products,
        corpora=tuple(describe_corpus(p, i) for i, p in enumerate(corpora)),
        pairings=describe_pairings(filter_stage(products, "pair")),
        subsets=tuple(describe_subset(p, corpora, position=i) for i, p in enumerate(filter_stage(products, "curate"))),
        prunings=tuple(describe_prunings(encoders, corpora)),
        trainings=tuple(describe_trainings(encoders)),
        tasks=tuple(group_scores(filter_stage(products, "evaluate"), encoders)),
        contrasts=tuple(describe_contrasts(filter_stage(products, "evaluate"))),
        bundles=tuple(describe_bundle(p, i) for i, p in enumerate(filter_stage(products, "export"))),
        embeddings=tuple(describe_embeddings(p, i) for i, p in enumerate(filter_stage(products, "embed"))),
    )


def render_report(report: Report) -> str:
    """The HTML of a report."""
    return render_template(
        "report.html",
        report=report,
        sections=report.sections,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        steps=list_steps(report.products),
        packages=list_packages(report.products),
        cost=sum_costs(report.products),
        owners=group_owners(report),
        citations=list_citations(report),
    )


def group_owners(report: Report) -> list[tuple[str, str, list[str]]]:
    """(attribution, licence, products) of all data behind the page, each once."""
    owners: dict[tuple[str, str], list[str]] = {}
    views: list[CorpusView | BundleView | EmbeddingView] = [*report.corpora, *report.bundles, *report.embeddings]
    for view in views:
        for licence, attribution in view.owners:
            owners.setdefault((attribution, licence), []).append(view.name)
    return [(attribution, licence, names) for (attribution, licence), names in owners.items()]


def list_citations(report: Report) -> list[tuple[str, str]]:
    """(card title, citation) of the shipped cards that the products name in their settings."""
    named = {word for product in report.products for word in _collect_texts(product.manifest.config)}
    cards = [load_card(name) for name in list_cards() if name in named]
    return [(card.title, card.citation) for card in cards if card.citation]


def _collect_texts(value: object) -> set[str]:
    """All texts and keys inside nested settings."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, dict):
        return set(value).union(*(_collect_texts(v) for v in value.values()))
    if isinstance(value, list):
        return set().union(*(_collect_texts(v) for v in value))
    return set()

"""Balance and diversity of a selection as lines of a table: before, by chance and after, each with how to read it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eo_ssl.curation import Balance, CurationReport
from eo_ssl.reporting.formatting import format_fixed, format_number, format_share

# field of Balance, or what follows from it -> name, how to read it, whether more is better (None: neither)
MEASURES: dict[str, tuple[str, str, bool | None]] = {
    "rows": ("Tiles", "What the figures below are measured on.", None),
    "cluster_entropy": (
        "Cluster entropy",
        "Evenness over the clusters: 1 where all are equally full, 0 where one holds everything.",
        True,
    ),
    "effective_clusters": (
        "Effective clusters",
        "As many equally full clusters would be as even (exp of the entropy).",
        True,
    ),
    "top_entropy": (
        "Coarse entropy",
        "The same over the coarsest clusters, where balancing starts.",
        True,
    ),
    "cluster_gini": (
        "Gini of cluster sizes",
        "Inequality: 0 where all clusters are equally full, near 1 where few hold nearly everything.",
        False,
    ),
    "occupied_clusters": ("Occupied clusters", "Clusters with at least one tile; the others are lost.", True),
    "neighbour_distance": (
        "Neighbour distance",
        "Mean cosine distance to the most similar other tile: near 0 where tiles repeat each other.",
        True,
    ),
    "vendi": (
        "Vendi score",
        "As many wholly different tiles would be as diverse: 1 where all look alike to the encoder.",
        True,
    ),
    "coverage": (
        "Coverage",
        "Share of all tiles with one of the set nearby: what is not covered has nothing like it left.",
        True,
    ),
    "label_entropy": ("Label entropy", "Evenness over the labels; a diagnosis, never used to select.", None),
}
INFORMATION_WORDS = (
    "How much the cluster of a tile tells of its product, month or brightness: 0 no more than by chance, 1 all of it. "
    "Where it is high, balancing clusters balances that rather than what is on the ground."
)


@dataclass(frozen=True, slots=True)
class BalanceLine:
    """One line of the balance table."""

    name: str
    "what is measured"
    words: str
    "how to read it"
    before: str
    "all tiles"
    chance: str
    "a uniform draw of as many tiles as were kept"
    after: str
    "the subset"
    better: str
    "yes, no or empty: against chance, since a small set alone changes the figures"


def tabulate_balance(report: CurationReport) -> tuple[BalanceLine, ...]:
    """The lines of the balance table, without figures that are not known and a coarse one that says the same."""
    sets = (report.before, report.chance, report.after)
    lines = []
    for field, (name, words, more_is_better) in MEASURES.items():
        values = [_read_measure(balance, field, len(report.cluster_rows)) for balance in sets]
        if values[0] is None and values[2] is None:
            continue
        if field == "top_entropy" and all(balance.top_entropy == balance.cluster_entropy for balance in sets):
            continue  # one level of clusters
        better = ""
        if more_is_better is not None and None not in values and values[2] != values[1]:
            better = "yes" if (values[2] > values[1]) == more_is_better else "no"  # type: ignore[operator]
        before, chance, after = (_format_measure(value, field) for value in values)
        lines.append(BalanceLine(name, words, before, chance, after, better))
    return tuple(lines)


def _read_measure(balance: Balance, field: str, clusters: int) -> float | None:
    if field == "effective_clusters":
        return None if balance.cluster_entropy is None else float(np.exp(balance.cluster_entropy * np.log(clusters)))
    value: float | None = getattr(balance, field)
    return value


def _format_measure(value: float | None, field: str) -> str:
    if value is None or isinstance(value, int):
        return format_number(value)
    if field == "coverage":
        return format_share(value, 1)
    return format_fixed(value, 3) if value < 1 else format_number(value)

"""The curation report: rows kept and dropped with the reasons, for every subset and event of the dynamic schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eo_ssl.errors import UserError, suggest_nearest


@dataclass(frozen=True, slots=True)
class Balance:
    """Balance and diversity of one set of rows in the space that was clustered (see ``diversity``); None: unknown."""

    rows: int
    cluster_entropy: float | None
    "entropy of the rows over the level-1 clusters / ln k"
    cluster_gini: float | None
    occupied_clusters: int | None
    neighbour_distance: float
    "mean cosine distance to the nearest other row of the set"
    vendi: float
    coverage: float
    "share of all rows within `radius` of the set"
    label_entropy: float | None
    "entropy of the labels / ln classes: a diagnosis, never used to select"
    top_entropy: float | None = None
    """entropy over the coarsest clusters / ln k: where balancing starts; the finest ones follow the density they were
    fitted to"""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds and forward passes that the selection cost."""

    select_s: float
    "wall seconds of clustering and drawing"
    measure_s: float
    "wall seconds of the figures of this report"
    forward_equivalents: int
    "forward passes of the encoder spent on embeddings; about three make one training presentation"


@dataclass(frozen=True, slots=True)
class Examples:
    """Rows of one cluster to look at, evenly spaced from its centre to its rim."""

    cluster: int
    kept: tuple[int, ...]
    dropped: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Gate:
    """How far an event trusted the features (see ``readiness``)."""

    agreement: float
    "how well rows are found again by another look at them; in reports of earlier versions that of two clusterings"
    threshold: float
    "agreement from which they are trusted in full"
    ready: bool
    "whether they were"
    none: float = 0.0
    "agreement up to which they are not trusted at all"

    @property
    def trust(self) -> float:
        """From 0, where nothing is curated, to 1."""
        return 1.0 if self.ready else max(0.0, (self.agreement - self.none) / (self.threshold - self.none))


@dataclass(frozen=True, slots=True)
class CurationReport:
    """Rows kept and dropped by reason and cluster, balance and diversity before and after, cost and provenance.

    Where rows are weighed, ``after`` and ``chance`` are of draws of as many different rows as are effective, by the
    weights and uniformly, but for the clusters of ``after``, which the weights themselves fill.
    """

    method: str
    parameters: dict[str, Any]
    seed: int | None
    n_rows: int
    n_kept: int
    reasons: dict[str, int]
    "dropped rows by reason: duplicate, same acquisition (where it was looked for), not drawn"
    cluster_rows: tuple[int, ...]
    "rows per level-1 cluster, duplicates included; empty when nothing was clustered"
    cluster_kept: tuple[int, ...]
    "rows kept per level-1 cluster; where they are weighed, draws of ``n_kept`` that fall on it"
    cluster_duplicates: tuple[int, ...]
    "rows per level-1 cluster that repeat another one: duplicates and those of the same acquisition"
    cluster_parents: tuple[tuple[int, ...], ...]
    "ancestors of every level-1 cluster, from level 2 up"
    before: Balance
    after: Balance
    chance: Balance
    "a uniform draw of as many rows as were kept: what size alone does to the figures"
    radius: float
    "radius of the coverage, in the space that was clustered"
    turnover: float | None
    "share of the kept rows that the previous pool did not hold"
    cost: Cost
    corpus_fingerprint: str
    encoder_fingerprint: str
    examples: tuple[Examples, ...]
    notes: tuple[str, ...] = ()
    "what had to be changed, in sentences"
    event: int | None = None
    "number of the event of a dynamic schedule"
    presentations: int | None = None
    "sample presentations before the event"
    gate: Gate | None = None
    effective_rows: float | None = None
    "number of equally weighted rows that would scatter as much; None in reports of earlier versions: n_kept"
    information: dict[str, float] = field(default_factory=dict)
    "what clusters say of product, month and brightness (see ``nuisances``): 0 nothing but chance, 1 all of it"
    cluster_chance: tuple[int, ...] = ()
    "rows of the uniform draw per level-1 cluster; empty when nothing was clustered, and in reports of earlier versions"
    projected_variance: tuple[float, ...] = ()
    "shares of the variance along the two directions of the map of rows; empty in reports of earlier versions"
    postponed: bool = False
    "whether the gate left the pool as it was: of earlier versions, in which it could"

    @property
    def weighs(self) -> bool:
        """Whether the kept rows come up more or less often, by weights."""
        return self.effective_rows is not None and self.effective_rows < self.n_kept - 0.5

    def renamed(self, rows: Sequence[int] | NDArray[np.int64]) -> CurationReport:
        """Return the report with row i of its examples called ``rows[i]``."""
        examples = (
            Examples(item.cluster, *(tuple(int(rows[row]) for row in part) for part in (item.kept, item.dropped)))
            for item in self.examples
        )
        return replace(self, examples=tuple(examples))

    def to_json(self) -> dict[str, Any]:
        """Return plain values that JSON can hold; infinities become 'inf' and '-inf'."""
        plain = to_plain(asdict(self))
        if not isinstance(plain, dict):
            raise TypeError("a report is a mapping")
        return plain

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CurationReport:
        """Return the report that ``to_json`` wrote.

        Raises:
            UserError: a key is unknown or missing.
        """
        names = [one.name for one in fields(cls)]
        for key in set(value) - set(names):
            meant = suggest_nearest(key, names)
            raise UserError(
                f"expected a curation report, got the unknown key {key!r}{meant}; write it again with this version"
            )
        try:
            given = dict(value)
            for name in ("before", "after", "chance"):
                given[name] = Balance(**given[name])
            given["cost"] = Cost(**given["cost"])
            given["examples"] = tuple(
                Examples(item["cluster"], tuple(item["kept"]), tuple(item["dropped"])) for item in given["examples"]
            )
            given["gate"] = None if given.get("gate") is None else Gate(**given["gate"])
            for name in ("cluster_rows", "cluster_kept", "cluster_duplicates", "notes"):
                given[name] = tuple(given[name])
            for name in ("cluster_chance", "projected_variance"):
                given[name] = tuple(given.get(name, ()))
            given["cluster_parents"] = tuple(tuple(path) for path in given["cluster_parents"])
            return cls(**given)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"expected a complete curation report, got one without or with a wrong field ({error}); curate again"
            ) from error


def to_plain(value: object) -> Any:
    """Return ``value`` with tuples as lists and infinities as 'inf' / '-inf', so that strict JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value

"""Findings: the verdict on one product and one kind of mistake, with its log-likelihood ratio and confidence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["wrong", "suspect", "cannot tell", "fine"]
Kind = Literal["offset", "scale", "unit", "order", "polarisation", "nodata", "constant", "duplicate", "metadata"]

WRONG = math.log(100.0)
"log-likelihood ratio from which a declaration is called wrong: the pixels are 100 times likelier under another one"
TELLING = math.log(20.0)
"ratio from which evidence speaks at all, for or against; between the two a declaration is suspect"
CERTAIN = 20.0
"largest ratio ever reported: the models behind it are not exact enough for more"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One kind of mistake, looked for in one product."""

    kind: Kind
    outcome: Outcome
    llr: float
    """Natural logarithm of how much likelier the pixels are under the best other declaration than under the card's own,
    within -20 ... 20. Positive speaks against the card."""
    sentence: str
    "what was found, or why nothing can be told"
    bands: tuple[str, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
    "the numbers behind it"
    remedy: Mapping[str, Any] = field(default_factory=dict)
    "keys of the card with the values that repair it; empty when the files themselves must be fetched again"

    @property
    def confidence(self) -> float:
        """Probability that the card is wrong here, 0-1, both declarations being equally likely beforehand."""
        return 1.0 / (1.0 + math.exp(-self.llr))

    def to_json(self) -> dict[str, Any]:
        """Return the finding as plain values."""
        return {
            "kind": self.kind,
            "outcome": self.outcome,
            "llr": round(self.llr, 2),
            "confidence": round(self.confidence, 4),
            "bands": list(self.bands),
            "sentence": self.sentence,
            "evidence": dict(self.evidence),
            "remedy": dict(self.remedy),
        }


def judge(llr: float) -> Outcome:
    """Return the outcome that a log-likelihood ratio against the declaration stands for."""
    if llr >= WRONG:
        return "wrong"
    if llr >= TELLING:
        return "suspect"
    return "fine" if llr <= -TELLING else "cannot tell"


def clip_ratio(llr: float) -> float:
    """Return the ratio within -20 ... 20."""
    return max(-CERTAIN, min(CERTAIN, llr))

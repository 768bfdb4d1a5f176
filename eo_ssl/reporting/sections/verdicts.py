"""Paired comparisons in words: who is better, and who is not separable from whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eo_ssl.reporting.formatting import MISSING, describe_protocol, format_count, format_number, is_share


@dataclass(frozen=True, slots=True)
class Verdict:
    """One paired comparison."""

    where: str
    "protocol and shots"
    a: str
    "first encoder"
    b: str
    "second encoder"
    difference: str
    "a - b with its interval"
    winner: str
    "the better one; empty = not separable"
    ours: bool
    "whether one of the two is a trained encoder and the other not"
    ours_wins: bool
    "whether the trained one is the better"

    @property
    def words(self) -> str:
        """`x is better` or `not separable`."""
        return f"{self.winner} is better" if self.winner else "not separable"


@dataclass(frozen=True, slots=True)
class Standing:
    """One trained encoder against all others in one place."""

    where: str
    "protocol and shots"
    encoder: str
    "the trained encoder"
    better: tuple[str, ...]
    "than these"
    level: tuple[str, ...]
    "not separable from these"
    worse: tuple[str, ...]
    "than these"


def describe_comparisons(
    comparisons: Sequence[Mapping[str, Any]], *, kinds: Mapping[str, str], metric: str
) -> tuple[Verdict, ...]:
    """Every comparison in words; those of a trained encoder with anything else first.

    Args:
        comparisons: {protocol, shots, a, b, difference, low, high, verdict}.
        kinds: encoder name -> ours, baseline or control.
        metric: of the differences.
    """
    verdicts = [_verdict(c, kinds, metric) for c in comparisons]
    return tuple(sorted(verdicts, key=lambda v: not v.ours))


def summarise_standings(verdicts: Sequence[Verdict], kinds: Mapping[str, str]) -> tuple[Standing, ...]:
    """One line per trained encoder and place: whom it beats, whom it cannot be told from, who beats it."""
    lines = []
    for where in sorted(dict.fromkeys(v.where for v in verdicts), key=[v.where for v in verdicts].index):
        for encoder in (name for name, kind in kinds.items() if kind == "ours"):
            sides: dict[str, list[str]] = {"better": [], "level": [], "worse": []}
            for v in verdicts:
                if v.where == where and encoder in (v.a, v.b):
                    other = v.b if v.a == encoder else v.a
                    sides["level" if not v.winner else "better" if v.winner == encoder else "worse"].append(other)
            if any(sides.values()):
                lines.append(Standing(where, encoder, *(tuple(names) for names in sides.values())))
    return tuple(lines)


def summarise_verdicts(verdicts: Sequence[Verdict]) -> str:
    """How many pairs could be told apart, and how trained encoders fared against the others."""
    if not verdicts:
        return ""
    told = sum(bool(v.winner) for v in verdicts)
    pairs = format_count(len(verdicts), "pair")
    words = f"{told} of {pairs} could be told apart; the others are not separable with these data."
    if told == 0:
        words = f"Not separable with these data: none of {pairs} could be told apart."
    ours = [v for v in verdicts if v.ours]
    if ours:
        better, worse = (sum(bool(v.winner) and v.ours_wins is wins for v in ours) for wins in (True, False))
        level = len(ours) - better - worse
        counts = f"better in {better}, worse in {worse}, not separable in {level}"
        words += f" Trained encoders against baselines and controls: {counts}."
    return words


def _verdict(data: Mapping[str, Any], kinds: Mapping[str, str], metric: str) -> Verdict:
    a, b = str(data["a"]), str(data["b"])
    winner = {"a": a, "b": b}.get(str(data["verdict"]), "")
    return Verdict(
        where=describe_protocol(data),
        a=a,
        b=b,
        difference=_difference(data, metric),
        winner=winner,
        ours=[kinds.get(a), kinds.get(b)].count("ours") == 1,
        ours_wins=kinds.get(winner) == "ours",
    )


def _difference(data: Mapping[str, Any], metric: str) -> str:
    """`+3.1 points [0.2, 6.0]`: points of per cent for shares."""
    texts = []
    for key in ("difference", "low", "high"):
        value = data.get(key)
        if value is None:
            texts.append(MISSING)
        elif is_share(metric):
            texts.append(f"{100 * float(value):+.1f}".replace("-", "−"))
        else:
            texts.append(format_number(float(value)).replace("-", "−"))
    unit = " points" if is_share(metric) else ""
    bounds = f" [{texts[1]}, {texts[2]}]" if data.get("low") is not None else ", no interval"
    return f"{texts[0]}{unit}{bounds}"

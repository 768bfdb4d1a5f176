"""Request for one variant of a benchmark, and the error for a data set that is not there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eo_ssl.cards import Card
from eo_ssl.errors import UserError


@dataclass(frozen=True, slots=True)
class Request:
    """One variant of one benchmark at a place."""

    name: str
    "of the task, benchmark and variant"
    root: Path
    variant: str
    cards: tuple[Card, ...]
    "of the images, and of the partner sensor where the variant has one"
    origin: str
    "where the data set is to be had"
    layout: str
    "files below the root, in words"

    @property
    def card(self) -> Card:
        """Of the images."""
        return self.cards[0]

    def absent(self, what: str) -> UserError:
        """Return the error for a data set, or a part of it, that is not there."""
        return UserError(f"expected {self.name} at {self.root} ({self.layout}), got {what}; get it from {self.origin}")

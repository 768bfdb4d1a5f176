"""What is owed to the owners of the data an encoder learned from, and whether it may be used commercially."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eo_ssl.cards import is_non_commercial
from eo_ssl.errors import UserError

Licence = Mapping[str, Any]
"""Card, licence, attribution and ``non_commercial`` of one source, as `eo_ssl.corpus.Corpus.licences` gives them."""

_OWED = {"card", "licence", "attribution", "non_commercial"}


@dataclass(frozen=True, slots=True)
class Terms:
    """Licences of the training data; none known where nobody said."""

    licences: tuple[Licence, ...] = ()

    @property
    def non_commercial(self) -> bool | None:
        """Whether a source forbids commercial use; None where not all licences are known and none forbids it."""
        if any(item["non_commercial"] or is_non_commercial(str(item["licence"])) for item in self.licences):
            return True
        return None if not self.licences or any(item["non_commercial"] is None for item in self.licences) else False

    @property
    def attributions(self) -> tuple[str, ...]:
        """Each attribution once, in order."""
        return tuple(dict.fromkeys(str(item["attribution"]) for item in self.licences if item["attribution"]))

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the manifest."""
        kept = ("card", "licence", "attribution", "source", "citation", "non_commercial")
        return {
            "non_commercial": self.non_commercial,
            "licences": [{key: item.get(key) for key in kept} for item in self.licences],
        }


def collect_terms(provenance: Mapping[str, Any], given: Mapping[str, Sequence[Licence]]) -> Terms:
    """Return the licences an encoder carries itself, or those of the corpora it was trained on.

    Args:
        provenance: of the encoder.
        given: licences by fingerprint of the corpus.

    Raises:
        UserError: a corpus that the encoder was not trained on, or some of its corpora missing.
    """
    carried = provenance.get("licences")
    if carried:
        complete = isinstance(carried, list) and all(isinstance(item, dict) and set(item) >= _OWED for item in carried)
        if not complete:
            raise UserError(
                f"expected licences with {', '.join(sorted(_OWED))} in the provenance of the encoder, got"
                f" {str(carried)[:80]!r}; train it again"
            )
        return Terms(tuple(carried))
    inputs = provenance.get("inputs", {})
    trained = {name: value for name, value in inputs.items() if name.startswith("corpus ")}
    strangers = [key[:12] for key in given if key not in trained.values()]
    if strangers:
        raise UserError(
            f"expected corpora the encoder was trained on ({_listed(trained)}), got one of fingerprint"
            f" {', '.join(strangers)}; "
            "give the corpus as it was then, or leave it out"
        )
    absent = {name: value for name, value in trained.items() if value not in given}
    if given and absent:
        raise UserError(f"expected all corpora of the encoder, got none of fingerprint {_listed(absent)}; add them")
    return Terms(tuple(licence for items in given.values() for licence in items))


def _listed(corpora: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value[:12]}" for name, value in corpora.items()) or "none recorded"

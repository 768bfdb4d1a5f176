"""What is owed to the owners of an encoder that another one is made from, beside the licences of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eo_ssl.cards import is_non_commercial


def collect_licences(name: str, origin: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Licences that pass on to what is trained from an encoder: those it carries, or that of its published weights.

    Where nobody stated one, `non_commercial` is None: not known. Random weights owe nothing.

    Args:
        name: of the encoder.
        origin: its provenance.
    """
    if "licences" in origin or origin.get("weights") == "random":
        return list(origin.get("licences", []))
    licence = origin.get("licence")
    return [
        {
            "card": name,
            "licence": str(licence or "unknown"),
            "attribution": str(origin.get("publication") or origin.get("source") or name),
            "source": str(origin.get("source", name)),
            "citation": str(origin.get("publication") or ""),
            "non_commercial": is_non_commercial(str(licence)) if licence else None,
        }
    ]

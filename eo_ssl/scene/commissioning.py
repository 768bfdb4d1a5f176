"""Data of satellites that were still being commissioned: not calibrated, so that their numbers are no quantity yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from eo_ssl.cards import Card
from eo_ssl.scene.product import Dropped, Product

CALIBRATED_SINCE = {"S1C": "2025-05-19", "S1D": "2026-04-17"}
"""Satellite -> first day whose data are calibrated (Copernicus Sentinel-1 mission news: end of commissioning)."""


def sort_out_commissioning(card: Card, products: Sequence[Product]) -> tuple[list[Product], Dropped]:
    """Return the products with calibrated data, and (product id, reason) of the others.

    With ``commissioning: accept`` in the card all are returned, the others with a remark that goes into cube and index.
    """
    kept: list[Product] = []
    dropped: Dropped = []
    for product in products:
        facts = product.acquisition
        since = CALIBRATED_SINCE.get(facts.platform, "")
        if not facts.datetime or facts.datetime >= since:
            kept.append(product)
            continue
        remark = f"commissioning data of {facts.platform}, not calibrated before {since}"
        if card.commissioning == "accept":
            remarks = "; ".join(text for text in (facts.remarks, remark) if text)
            kept.append(replace(product, acquisition=replace(facts, remarks=remarks)))
        else:
            dropped.append(
                (product.product_id, f"{remark}: set `commissioning: accept` in the card to read it all the same")
            )
    return kept, dropped

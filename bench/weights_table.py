"""The contracts of all of TorchGeo's weights as a table for the documentation."""

from __future__ import annotations

from eo_ssl.encoder import PublishedContract, derive_contract, list_weights
from eo_ssl.errors import UserError
from eo_ssl.preprocessing import Preprocessing


def tabulate_weights() -> str:
    """Return Markdown: a row per member with its contract, sources as notes, and refused members with the reason."""
    rows, refused = [], []
    notes: dict[str, int] = {}
    for weights in list_weights():
        name = f"{type(weights).__name__}.{weights.name}"
        try:
            how = derive_contract(weights)
        except UserError as error:
            refused.append(f"| {name} | {str(error).partition(': ')[2].partition('; ')[0]} |")
            continue
        note = notes.setdefault(f"{how.source}.{f' *Metadata:* {how.differs}.' if how.differs else ''}", len(notes) + 1)
        contract = how.preprocessing
        cells = (
            name,
            contract.sensor,
            contract.quantity.value,
            _bands(how),
            _normalisation(contract),
            _size(how),
            str(note),
        )
        rows.append(f"| {' | '.join(cells)} |")
    head = "| weights | sensor | quantity | bands, in the order of the channels | normalisation | size, px | from |"
    return "\n".join(
        [
            head,
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            "From:",
            "",
            *(f"{number}. {text}" for text, number in notes.items()),
            "",
            "| refused | reason |",
            "|---|---|",
            *refused,
        ]
    )


def _bands(how: PublishedContract) -> str:
    named = " ".join(how.preprocessing.bands)
    return named + "".join(f"; channel {channel} zero" for channel in how.blank)


def _normalisation(contract: Preprocessing) -> str:
    """In words, in the quantity."""
    clipped = "" if contract.clip is None else "clipped, "
    if any(contract.mean):
        return f"{clipped}z-score per band"
    scales = sorted(set(contract.std))
    return f"{clipped}x" if scales == [1.0] else f"{clipped}x / {' or '.join(f'{scale:.4g}' for scale in scales)}"


def _size(how: PublishedContract) -> str:
    contract = how.preprocessing
    if contract.resize == "native":
        return f"as they are ({contract.size_px} in training)"
    if contract.resize == "crop":
        return f"centre {contract.size_px}"
    return f"to {contract.size_px}" + (f", centre {how.window_px}" if how.window_px else "")


if __name__ == "__main__":
    print(tabulate_weights())

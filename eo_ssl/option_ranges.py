"""Ranges of numbers, and texts as keys, that no command can mean otherwise: checked before a workflow is called.

What depends on the data or on other options is checked by the workflow and the classes of its options.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eo_ssl.errors import expect

SEEDS = (0, 2**63 - 2)  # two seeds are derived by adding one
_WHOLE = (-(2**63), 2**63 - 1)
RANGES: dict[str, tuple[float, float]] = {
    # Sizes of a network: the largest published have 48 blocks of 6,400 numbers.
    "depth": (1, 1_000),
    "decoder_depth": (1, 1_000),
    "predictor_depth": (1, 1_000),
    "decoder_heads": (1, 10_000),
    "predictor_heads": (1, 10_000),
    "decoder_dim": (1, 100_000),
    "predictor_dim": (1, 100_000),
    "hidden_dim": (1, 100_000),
    "output_dim": (1, 100_000),
    "decoder_width": (1, 100_000),
    "lora_rank": (1, 100_000),
    "prototypes": (1, 10_000_000),
    "directions": (1, 1_000_000),
    "knots": (2, 10_000),
    "frequencies": (2, 10_000),
    "random_places": (0, 100_000),
    # Sides of a tile, a patch or a window, pixels: a Sentinel-2 product has 10,980, a Sentinel-1 product 30,000.
    "size_px": (4, 100_000),
    "window_px": (1, 100_000),
    "patch_size": (1, 100_000),
    # What is held in memory at a time, or begun at a time.
    "batch_size": (1, 10_000_000),
    "dates": (1, 10_000),
    "devices": (1, 64),  # each is a process at once
    "num_nodes": (1, 100_000),
    "accumulate": (1, 1_000_000),
    "count": (1, 1_000),
    "n_targets": (1, 1_000),
    "draws": (1, 100_000),
    "iterations": (1, 1_000_000),
    "n_resample": (0, 1_000_000),
    "k": (1, 1_000_000),
    "steps": (1, 10**12),
    "epochs": (0, 10**9),
}
"""By the last word of an option's name: the least and the largest number."""
MAY_BE_INFINITE = ("eta", "max_days")


def check_ranges(options: Mapping[str, Any]) -> None:
    """Refuse a number among ``options`` that is no number, is out of its range, or does not fit 64 bits.

    Keys of nested options must be texts.

    Raises:
        UserError: naming the option.
    """
    for name, number in _list_numbers(options):
        word = name.rpartition(".")[2].partition("[")[0]
        low, high = SEEDS if word.endswith("seed") else RANGES.get(word, (-math.inf, math.inf))
        if isinstance(number, int):
            low, high = max(low, _WHOLE[0]), min(high, _WHOLE[1])
        finite = math.isfinite(number) or (word in MAY_BE_INFINITE and not math.isnan(number))
        expect(finite, expected=f"a finite number for --{name}", got=number, remedy="give another one")
        bounds = f"from {low:,} to {high:,}"
        expect(low <= number <= high, expected=f"a number {bounds} for --{name}", got=number, remedy="give another one")


def _list_numbers(value: Any, name: str = "") -> Iterator[tuple[str, int | float]]:
    """All numbers of nested options, by their names on the command line."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            texts = f"texts as keys{f' of --{name}' if name else ''}"
            expect(isinstance(key, str), expected=texts, got=repr(key), remedy="put quotes around it, or correct it")
            inner = f"{name}.{key}" if name and key != "init_args" else name if name else key
            yield from _list_numbers(item, inner)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for number, item in enumerate(value):
            yield from _list_numbers(item, f"{name}[{number}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value

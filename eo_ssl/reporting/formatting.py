"""Numbers, sizes, shares, intervals and names as text: short, rounded with care, with their unit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from eo_ssl.sensors import Quantity

MISSING = "–"
MONTHS = ("J", "F", "M", "A", "M", "J", "J", "A", "S", "O", "N", "D")
# Metrics that are shares: printed in per cent. Anything else is printed as it is.
SHARE_METRICS = (
    "accuracy",
    "balanced_accuracy",
    "f1",
    "macro_f1",
    "miou",
    "iou",
    "map",
    "mean_average_precision",
    "micro_ap",
)

SPELLINGS = {
    "f1": "F1",
    "miou": "mIoU",
    "iou": "IoU",
    "map": "mAP",
    "rankme": "RankMe",
    "mae": "MAE",
    "dino": "DINO",
    "ibot": "iBOT",
    "koleo": "KoLeo",
    "jepa": "JEPA",
    "knn": "kNN",
    "knn5": "kNN-5",
    "knn5-standardised": "kNN-5, standardised",
    "knn20-cosine": "kNN-20, cosine",
    "linear-sgd": "linear, SGD",
    "lora": "LoRA",
    "micro": "micro",
    "ap": "AP",
    "r2": "R²",
}


def format_number(value: object, digits: int = 3) -> str:
    """`value` with `digits` significant digits and thin thousands spaces; a dash where there is no number."""
    if isinstance(value, bool) or value is None:
        return MISSING if value is None else str(value).lower()
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return MISSING
    if value != 0 and (abs(value) >= 1e6 or abs(value) < 10 ** -(digits + 1)):
        return f"{value:.{max(digits - 1, 0)}e}"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.{digits}g}"


def format_tick(value: float) -> str:
    """The short text of a tick or an end of a range: `0`, `2.5e−4`, `0.25`, `12`, `3k`, `2M`."""
    size = abs(value)
    if 1e-12 <= size < 0.01:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}".replace("-", "−")
    for unit, factor in (("M", 1e6), ("k", 1e3)):
        if size >= factor:
            return f"{value / factor:.4g}{unit}".replace("-", "−")
    return ("0" if size < 1e-12 else f"{value:.4g}").replace("-", "−")


def format_degrees(value: float, letters: str) -> str:
    """`12.5°E`; `letters` are those of the positive and the negative side."""
    if abs(value) < 1e-9:
        return "0°"
    return f"{abs(value):.6g}°{letters[0] if value > 0 else letters[1]}"


def format_count(value: int, noun: str, plural: str = "") -> str:
    """`value` and its noun, in the plural where it belongs: `1 tile`, `2 tiles`."""
    return f"{format_number(value)} {noun if value == 1 else plural or noun + 's'}"


def format_spread(mean: float, std: float) -> str:
    """`mean ± std`, both with the decimals that show two digits of the spread."""
    if not (math.isfinite(mean) and math.isfinite(std)):
        return MISSING
    decimals = max(0, min(6, 1 - math.floor(math.log10(float(f"{std:.1e}"))))) if std > 0 else 3
    return f"{mean:.{decimals}f} ± {std:.{decimals}f}".replace("-", "−")


def format_size(nbytes: float) -> str:
    """Bytes in decimal units (1 GB = 1e9 bytes, as disks and object stores are sold)."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= factor:
            return f"{nbytes / factor:.{1 if nbytes < 100 * factor else 0}f} {unit}"
    return f"{nbytes:.0f} B"


def format_duration(seconds: float) -> str:
    """Seconds as a person says them: `0.4 s`, `42 s`, `3 min 05 s`, `2 h 10 min`."""
    if not math.isfinite(seconds) or seconds < 0:
        return MISSING
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_share(value: float, digits: int = 0) -> str:
    """A share of one in per cent; what is not nothing never reads 0 %, and what is not all never 100 %."""
    if not math.isfinite(value):
        return MISSING
    smallest = 10**-digits
    percent = 100 * value
    if 0 < percent < smallest / 2:
        return f"< {smallest:g} %"
    if 100 - smallest / 2 < percent < 100:
        return f"> {100 - smallest:g} %"
    return f"{percent:.{digits}f} %"


def is_share(metric: str) -> bool:
    """Whether a metric is a share of one, printed in per cent."""
    return metric.lower() in SHARE_METRICS or metric.lower().endswith(("accuracy", "_f1", "_iou"))


def format_score(value: float | None, metric: str, *, unit: bool = True) -> str:
    """A metric's value: in per cent with one decimal for shares, else three significant digits."""
    if value is None or not math.isfinite(value):
        return MISSING
    if is_share(metric):
        return f"{100 * value:.1f}" + (" %" if unit else "")
    return format_number(float(value))


def format_interval(low: float | None, high: float | None, *, metric: str) -> str:
    """`[low, high]` in the unit of the metric, or nothing where there is no interval."""
    if low is None or high is None:
        return ""
    return f"[{format_score(low, metric, unit=False)}, {format_score(high, metric, unit=False)}]"


def format_percent(value: float) -> str:
    """A share of one in per cent, without the sign: `51.3`."""
    return f"{100 * value:.1f}"


def format_points(value: float) -> str:
    """A difference of shares in points, with its sign; no minus where it rounds to nothing."""
    return f"{round(100 * value, 1) + 0.0:+.1f}"


def format_fingerprint(text: str, length: int = 12) -> str:
    """The first `length` characters of a fingerprint."""
    return text[:length]


def trim_middle(text: str, width: int) -> str:
    """`text` in at most `width` characters, its middle left out where it is longer: ends tell names apart."""
    if len(text) <= width:
        return text
    head = max(width - 1, 1) // 2
    return f"{text[:head]}…{text[len(text) - max(width - 1 - head, 0) :]}"


def format_title(name: str) -> str:
    """A name joined by underscores as words: the first letter large, acronyms as they are usually written."""
    first, *rest = name.replace("_", " ").split() or [""]
    return " ".join(
        [SPELLINGS.get(first.lower(), first[:1].upper() + first[1:]), *(SPELLINGS.get(w.lower(), w) for w in rest)]
    )


def format_fixed(value: float | None, decimals: int = 2) -> str:
    """`value` with a fixed number of decimals, so that a column of them lines up."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:.{decimals}f}"


def describe_place(row: Mapping[str, object]) -> str:
    """Task, protocol and amount of training samples of a result: what rows that may be compared have in common."""
    return f"{row['task']}, {row['protocol']}, training samples: {row['amount']}"


def describe_protocol(data: Mapping[str, object]) -> str:
    """Where a result stands: protocol, and how many training samples where they are few."""
    shots, fraction = data.get("shots"), data.get("fraction")
    words = format_title(str(data.get("protocol", "")))
    if fraction:
        return f"{words} · {data['amount']} of the training samples"
    return f"{words} · {format_count(int(str(shots)), 'shot')} per class" if shots else words


def flatten_config(config: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, text) pairs in their own order; empty mappings are named too."""
    rows: list[tuple[str, str]] = []
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            rows += flatten_config(value, f"{name}.")
        elif isinstance(value, list | tuple):
            rows.append((name, ", ".join(str(v) for v in value) or "[]"))
        else:
            rows.append((name, MISSING if value is None else str(value)))
    return rows


def describe_quantity(quantity: Quantity) -> str:
    """A quantity as a reader knows it: `top-of-atmosphere reflectance`, `gamma0 (linear power)`."""
    words = quantity.value.replace("toa_", "top-of-atmosphere ").replace("boa_", "surface ").removesuffix("_db")
    return words + (" (linear power)" if quantity.is_power else " (dB)" if quantity.is_db else "")


def describe_commercial_use(forbidden: bool | None) -> str:
    """What the licences of the data say of commercial use; None where they are not known."""
    return {None: "not known", True: "forbidden", False: "not forbidden by the data"}[forbidden]


def list_owners(licences: Iterable[Mapping[str, object]]) -> tuple[tuple[str, str], ...]:
    """(licence, attribution) of some sources, each pair once."""
    return tuple(
        dict.fromkeys((str(terms.get("licence") or ""), str(terms.get("attribution") or "")) for terms in licences)
    )

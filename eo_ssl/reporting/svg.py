"""SVG elements as escaped text, and the arithmetic of an axis: scales and round ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from eo_ssl.errors import UserError


def tag(name: str, *children: Markup | str, **attributes: object) -> Markup:
    """One element; a trailing underscore of an attribute is dropped, others become hyphens; all text is escaped."""
    parts = [
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), px(value) if isinstance(value, float) else value)
        for key, value in attributes.items()
        if value is not None
    ]
    opening = Markup("<{}{}").format(name, Markup("").join(parts))
    if not children:
        return opening + Markup("/>")
    return opening + Markup(">") + Markup("").join(escape(child) for child in children) + Markup("</{}>").format(name)


def px(value: float) -> str:
    """A coordinate with one decimal and no trailing zero: enough for a screen, short in the file."""
    return f"{value:.1f}".rstrip("0").rstrip(".") if value else "0"


def drawing(children: Iterable[Markup], *, width: float, height: float, alt: str, kind: str = "chart") -> Markup:
    """An `<svg>` that scales with its column and says in words what it shows."""
    return tag(
        "svg",
        *children,
        viewBox=f"0 0 {px(width)} {px(height)}",
        width=float(width),
        height=float(height),
        role="img",
        aria_label=alt,
        class_=kind,
    )


def path(x: Sequence[float], y: Sequence[float]) -> str:
    """The `d` of a polyline; a NaN in y starts a new piece."""
    pieces, pen = [], "M"
    for a, b in zip(x, y, strict=True):
        if not math.isfinite(b):
            pen = "M"
            continue
        pieces.append(f"{pen}{px(a)} {px(b)}")
        pen = "L"
    return "".join(pieces)


def nice_ticks(low: float, high: float, *, most: int = 5) -> tuple[float, ...]:
    """At most `most` round values inside [low, high], steps of 1, 2, 2.5 or 5 times a power of ten."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return (low,)
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1.0, 2.0, 2.5, 5.0, 10.0, 20.0):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            return tuple(k * step for k in range(first, last + 1))
    return (low, high)


def log_ticks(low: float, high: float, *, most: int = 5) -> tuple[float, ...]:
    """Powers of ten inside [low, high], thinned to `most`; 1-2-5 values where fewer than two powers fit."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    powers = [10.0**k for k in range(first, last + 1)]
    if len(powers) >= 2:
        return tuple(powers[:: math.ceil(len(powers) / most)])
    return tuple(f * 10.0**k for k in range(first - 1, last + 1) for f in (1, 2, 5) if low <= f * 10.0**k <= high)


def tick_text(value: float) -> str:
    """A tick's label: `0`, `2.5e−4`, `0.25`, `12`, `3k`, `2M`."""
    size = abs(value)
    if 1e-12 <= size < 0.01:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}".replace("-", "−")
    for unit, factor in (("M", 1e6), ("k", 1e3)):
        if size >= factor:
            return f"{value / factor:.4g}{unit}".replace("-", "−")
    return ("0" if size < 1e-12 else f"{value:.4g}").replace("-", "−")


@dataclass(frozen=True, slots=True)
class Scale:
    """A map from values to pixels, linear or logarithmic."""

    low: float
    "value at `start_px`"
    high: float
    "value at `end_px`"
    start_px: float
    "pixel of the low end"
    end_px: float
    "pixel of the high end (smaller than start_px on a y axis)"
    log: bool = False
    "logarithmic: low must be > 0"

    def __post_init__(self) -> None:
        if not self.high > self.low or (self.log and self.low <= 0):
            raise UserError(
                f"an axis needs low < high{' and low > 0' if self.log else ''}, got {self.low} and {self.high}: "
                "widen the range"
            )

    def __call__(self, value: float) -> float:
        """The pixel of `value`; NaN where a logarithm has none."""
        if self.log:
            if not value > 0:
                return math.nan
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start_px + part * (self.end_px - self.start_px)

    def ticks(self, most: int = 5) -> tuple[float, ...]:
        """Round values on this axis."""
        return log_ticks(self.low, self.high, most=most) if self.log else nice_ticks(self.low, self.high, most=most)


def spread(
    values: Sequence[float], *, log: bool = False, zero: bool = False, margin: float = 0.05
) -> tuple[float, float]:
    """The (low, high) that shows all finite values with a margin; never empty, above zero for `log`."""
    finite = [float(v) for v in values if math.isfinite(v) and (v > 0 or not log)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0) if not log else (1.0, 10.0)
    if log:
        return (low / 1.15, high * 1.15) if high > low else (low / 2, high * 2)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high <= low:
        pad = abs(low) * 0.1 or 0.5
        return low - pad, high + pad
    pad = margin * (high - low)
    return (low if zero and low == 0 else low - pad), high + pad

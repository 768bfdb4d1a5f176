"""The preprocessing contract: what an encoder accepts, and the one way from named physical bands to its input tensor.

check -> convert -> order by name -> clip -> resize with mask-weighted interpolation -> normalise -> fill. Nothing is
inferred and no field has a default taken from natural images: the same contract is stored inside the weights file and
applied in training, evaluation and export.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from eo_ssl.errors import UserError, expect, suggest_nearest
from eo_ssl.fingerprints import fingerprint
from eo_ssl.image_metadata import MetadataKind, order_kinds
from eo_ssl.preprocessing.channels import check_fewest, choose_bands, order_channels, place_channels
from eo_ssl.preprocessing.conversion import apply_conversion, parse_conversion
from eo_ssl.preprocessing.interpolation import Interpolation, crop_center, interpolate_masked
from eo_ssl.preprocessing.plausibility import check_range, check_scale, check_tags
from eo_ssl.preprocessing.pooled_moments import Wide, check_moments, pool_moments
from eo_ssl.preprocessing.tags import CountedStats, StatsLike, StreamLike
from eo_ssl.sensors import Quantity
from eo_ssl.sensors import sensor as sensor_named

Resize = Literal["to_size", "native", "crop"]
Missing = Literal["refuse", "fill_mean", "zero", "any_subset"]

_CHOICES = {
    "resize": get_args(Resize),
    "interpolation": get_args(Interpolation),
    "missing": get_args(Missing),
    "invalid": ("mean_after_norm",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """The input contract of an encoder; call it with an image, its band names and quantity to get the input tensor."""

    sensor: str
    "registered sensor whose band names are used"
    quantity: Quantity
    "quantity accepted as input"
    bands: tuple[str, ...]
    "canonical names in the order of the encoder's input channels"
    convert: tuple[str, ...]
    "named conversions applied in order, such as gamma0->gamma0_db; empty for none"
    range: tuple[float, float]
    "bounds of the 1st and 99th percentile of plausible input, in `quantity`"
    clip: tuple[float, float] | tuple[tuple[float, float], ...] | None
    "bounds applied after conversion, in the final quantity: one pair for all bands, or one per band"
    mean: tuple[float, ...]
    "per band, final quantity"
    std: tuple[float, ...]
    "per band, final quantity"
    size_px: int
    "side of the encoder's input; unused when resize is native"
    gsd_m: tuple[float, float]
    "least and greatest ground sampling distance seen in training, metres"
    resize: Resize
    "to_size: interpolate square images to size_px; crop: centre crop of size_px; native: leave as it is"
    interpolation: Interpolation
    antialias: bool
    "low-pass filter when shrinking (bilinear and bicubic only)"
    missing: Missing
    "bands that are not given: refuse, fill with the mean or 0 of the final quantity, or leave out (any_subset)"
    invalid: Literal["mean_after_norm"] = "mean_after_norm"
    "pixels without a value take the mean, which is 0 after normalisation"
    fewest_bands: int = 1
    "of any_subset: the least number of bands that the network was trained and tested with"
    metadata: tuple[MetadataKind, ...] = ()
    "what it may be told of an image beside its pixels, each optional: time, place, gsd, incidence"

    def __post_init__(self) -> None:
        """Check every field against the others."""
        _check_choice("a quantity", self.quantity, [quantity.value for quantity in Quantity])
        object.__setattr__(self, "quantity", Quantity(self.quantity))
        for name in ("bands", "convert", "range", "mean", "std", "gsd_m"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.clip is not None:
            object.__setattr__(self, "clip", tuple(tuple(p) if isinstance(p, list | tuple) else p for p in self.clip))
        object.__setattr__(self, "bands", sensor_named(self.sensor).resolve_all(self.bands))
        for field, options in _CHOICES.items():
            _check_choice(field, getattr(self, field), options)
        check_moments(self.bands, self.mean, self.std)
        for name, bounds in [("range", self.range), *(("clip", pair) for pair in self._clips)]:
            expect(
                len(bounds) == 2 and bounds[0] < bounds[1],
                expected=f"{name} as (low, high) with low < high",
                got=bounds,
                remedy="correct it",
            )
        expect(
            len(self._clips) in (0, 1, len(self.bands)),
            expected=f"one pair of clip bounds, or one for each of {len(self.bands)} bands",
            got=len(self._clips),
            remedy="correct it",
        )
        expect(
            not self.antialias or self.interpolation in ("bilinear", "bicubic"),
            expected="antialias only with bilinear or bicubic",
            got=f"it with {self.interpolation}",
            remedy="set antialias to false",
        )
        expect(
            self.size_px >= 1 and 0 < self.gsd_m[0] <= self.gsd_m[1],
            expected="size_px >= 1 and 0 < gsd_m low <= high",
            got=f"{self.size_px} and {self.gsd_m}",
            remedy="correct them",
        )
        check_fewest(self.fewest_bands, self.bands, any_subset=self.missing == "any_subset")
        object.__setattr__(self, "metadata", order_kinds(self.metadata))
        _ = self.final_quantity  # refuses a conversion that does not exist

    @property
    def _clips(self) -> tuple[tuple[float, float], ...]:
        """Bounds of all bands together, or of each."""
        if self.clip is None:
            return ()
        return self.clip if isinstance(self.clip[0], tuple) else (self.clip,)

    @property
    def final_quantity(self) -> Quantity:
        """The quantity after all conversions, in which clip, mean and std are expressed."""
        quantity = self.quantity
        for name in self.convert:
            source, target = parse_conversion(name)
            expect(
                source == quantity,
                expected=f"a conversion that starts from {quantity.value}",
                got=f"{name!r}",
                remedy="order the conversions as a chain",
            )
            quantity = target
        return quantity

    @classmethod
    def of_stream(cls, stream: StreamLike, stats: StatsLike, *, bands: Sequence[str] | None = None) -> Preprocessing:
        """Return the contract of an encoder trained on ``stream``; power is normalised in dB, all else as it is.

        Bilinear interpolation with antialias, missing bands refused, and the quantity's plausible range; change further
        fields with `dataclasses.replace`.

        Args:
            stream: sensor, quantity, bands, gsd_m and size_px of the training data.
            stats: `mean` and `std` per stream band in ``stream.quantity.in_db_if_power``, training split only.
            bands: the bands to use, in input order; None for all of the stream in its order.

        Raises:
            UserError: a band that the stream lacks, statistics of another length or quantity, a band with std 0.
        """
        have = tuple(stream.bands)
        expect(
            len(have) == len(stats.mean) == len(stats.std),
            expected=f"statistics of the stream's {len(have)} bands",
            got=f"{len(stats.mean)} means",
            remedy="take the statistics of this stream",
        )
        wanted = choose_bands(stream, bands)
        index = [have.index(band) for band in wanted]
        return cls._of_moments([stream], [stats], wanted, stats.mean[index], stats.std[index])

    @classmethod
    def of_streams(
        cls, parts: Sequence[tuple[StreamLike, CountedStats]], *, bands: Sequence[str] | None = None
    ) -> Preprocessing:
        """Return the contract of an encoder trained on several streams together, each weighing by its valid pixels.

        Args:
            parts: streams of one sensor, quantity and size, each with its statistics as `of_stream` takes them.
            bands: the bands to use, in input order, which all streams must hold; None for those of the first.

        Raises:
            UserError: streams that do not fit together, or as `of_stream`.
        """
        streams, stats = [stream for stream, _ in parts], [stats for _, stats in parts]
        kinds = {(stream.sensor, Quantity(stream.quantity).value, stream.size_px) for stream in streams}
        expect(
            len(kinds) == 1,
            expected="streams of one sensor, quantity and size",
            got=" and ".join(map(str, sorted(kinds))) or "none",
            remedy="choose streams that agree",
        )
        wanted = choose_bands(streams[0], bands)
        for stream in streams[1:]:
            choose_bands(stream, wanted)
        return cls._of_moments(streams, stats, wanted, *pool_moments(stats, wanted))

    @classmethod
    def _of_moments(
        cls, streams: Sequence[StreamLike], stats: Sequence[StatsLike], bands: tuple[str, ...], mean: Wide, std: Wide
    ) -> Preprocessing:
        quantity, gsd_m = Quantity(streams[0].quantity), [float(stream.gsd_m) for stream in streams]
        final = quantity.in_db_if_power
        others = sorted({Quantity(part.quantity).value for part in stats} - {final.value})
        expect(
            not others,
            expected=f"statistics in {final.value}",
            got=", ".join(others),
            remedy="take those in dB of a power",
        )
        return cls(
            sensor=streams[0].sensor,
            quantity=quantity,
            bands=bands,
            convert=() if final == quantity else (f"{quantity.value}->{final.value}",),
            range=quantity.plausible,
            clip=None,
            mean=tuple(float(value) for value in mean),
            std=tuple(float(value) for value in std),
            size_px=streams[0].size_px,
            gsd_m=(min(gsd_m), max(gsd_m)),
            resize="to_size",
            interpolation="bilinear",
            antialias=True,
            missing="refuse",
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` accepts."""
        values = dataclasses.asdict(self)
        if self.missing != "any_subset":  # unsaid, as by versions that had no such policy
            del values["fewest_bands"]
        if not self.metadata:  # unsaid too
            del values["metadata"]
        return {
            key: list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Quantity) else value
            for key, value in values.items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Return the contract that `to_json` wrote; a missing or unknown key is refused."""
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            _check_choice("a field of a preprocessing contract", key, known)
        optional = ("metadata",) if values.get("missing") == "any_subset" else ("metadata", "fewest_bands")
        absent = [key for key in known if key not in values and key not in optional]
        expect(
            not absent,
            expected="a complete preprocessing contract",
            got=f"one without {', '.join(absent)}",
            remedy="nothing is assumed for it, so state it",
        )
        try:
            return cls(**values)
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise UserError(f"expected a preprocessing contract, got {error}; give it as it was written") from error

    def effective(self, height: int, width: int) -> Preprocessing:
        """Return the contract in the form that all contracts share which do the same to images of this size (pixels).

        What is not resized does not depend on how it would have been: features of equal inputs are computed once.
        """
        if self.resize != "native" and (height, width) != (self.size_px, self.size_px):
            return self
        size = height if self.resize == "native" else self.size_px
        return dataclasses.replace(self, size_px=size, resize="native", interpolation="nearest", antialias=False)

    @property
    def fingerprint(self) -> str:
        """Sha256 (hex) of the contract."""
        return fingerprint(self.to_json())

    def __call__(
        self, image: Tensor, *, bands: Sequence[str], quantity: Quantity | str | None, sensor: str
    ) -> tuple[Tensor, Tensor]:
        """Return the encoder's input for ``image`` and where it rests on measured pixels.

        Any permutation of the input bands gives bit-equal output; ``image`` itself is left as it is.

        Args:
            image: [B, C, H, W] floating point, physical values in `quantity`, channels named by `bands`; not finite =
                invalid.
            bands: C names, any known spelling; bands that the contract does not use are ignored.
            quantity: what the numbers are; None for a foreign array without a tag, which is then judged by its values.
            sensor: whose band names these are. Another sensor's bands need `sensors.translate_bands` first.

        Returns:
            (input [B, C', H', W'] float32, valid [B, C', H', W'] bool), C' and their order as in the contract.

        Raises:
            UserError: another sensor or quantity, values outside the plausible range, values scaled twice, a missing or
                repeated band, an image smaller than the crop.
        """
        check_tags(image, bands, given=(sensor, quantity), accepted=(self.sensor, self.quantity))
        fewest = len(self.bands) if self.missing == "refuse" else self.fewest_bands
        index = order_channels(self.sensor, tuple(bands), self.bands, fewest=fewest)
        present = [i for i in index if i is not None]
        x = image if present == list(range(image.shape[1])) else image[:, present]
        x = x.to(torch.float32).contiguous()  # one memory layout, so that every kernel below rounds alike
        valid = torch.isfinite(x)
        x = torch.where(valid, x, 0.0)  # a copy: the caller's array stays as it is
        check_range(x, valid, quantity=self.quantity, bounds=self.range)
        if quantity is None:
            self.check_scale(x, valid)
        for name in self.convert:
            x = apply_conversion(x, name)
        kept = [channel for channel, i in enumerate(index) if i is not None]
        if self.clip is not None:
            pairs = self._clips if len(self._clips) == 1 else [self._clips[channel] for channel in kept]
            low, high = x.new_tensor(pairs).view(-1, 2, 1, 1).unbind(dim=1)
            x = x.clamp_(low, high)
        x, valid = self._resize(x, valid)
        mean, std = (x.new_tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        x = x.sub_(mean[:, kept]).div_(std[:, kept]).masked_fill_(~valid, 0.0)
        if len(kept) == len(self.bands):
            return x.contiguous(), valid.contiguous()
        return place_channels(x, valid, kept, -mean / std if self.missing == "zero" else torch.zeros_like(mean))

    def check_scale(self, x: Tensor, valid: Tensor) -> None:
        """Refuse values in `quantity` that are far below those of training, or linear power called decibels.

        Args:
            x: [B, C, H, W] float32, any bands of the contract, 0 where invalid.
            valid: [B, C, H, W] bool.

        Raises:
            UserError: nothing but values that look scaled twice, or no negative decibel.
        """
        in_power = self.final_quantity.is_db and not self.quantity.is_db
        means = [10 ** (mean / 10) for mean in self.mean] if in_power else self.mean
        check_scale(x, valid, quantity=self.quantity, means=means)

    def _resize(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Bring [B, C, H, W] values and their mask to the contract's geometry."""
        if self.resize == "native" or x.shape[-2:] == (self.size_px, self.size_px):
            return x, valid
        if self.resize == "crop":
            return crop_center(x, valid, size=self.size_px)
        return interpolate_masked(
            x, valid, size=self.size_px, interpolation=self.interpolation, antialias=self.antialias
        )


def _check_choice(what: str, value: str, options: Sequence[str]) -> None:
    if value not in options:
        raise UserError(f"expected {what} out of {', '.join(options)}, got {value!r}{suggest_nearest(value, options)}")

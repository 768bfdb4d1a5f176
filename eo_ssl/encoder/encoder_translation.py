"""An encoder for the bands of another sensor, which its network knows by their wavelength or polarisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from eo_ssl.encoder.trained import TrainedEncoder
from eo_ssl.errors import UserError, expect
from eo_ssl.models import ChannelVitBackbone
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import sensor as sensor_named

NEAR = 0.05
"""Largest difference of ln(wavelength) to a band of training; ours: bands of Sentinel-2 and Landsat that see the same
colour differ by at most 0.022, and between the windows of the atmosphere values do not follow from the neighbours."""


def translate_encoder(encoder: TrainedEncoder, *, sensor: str, bands: Sequence[str] | None = None) -> TrainedEncoder:
    """Return ``encoder`` for images of another sensor in the same quantity, or for some bands of its own.

    Mean and standard deviation of a band are those of the trained band of the nearest wavelength, or of the same
    polarisation.

    Args:
        encoder: with a channel transformer.
        sensor: registered name.
        bands: of that sensor, in input order; None for all that training covered.

    Raises:
        UserError: another network, a sensor without that quantity, no band or one that training did not cover, or fewer
            bands than the encoder accepts.
    """
    backbone, own, target = encoder.backbone, encoder.preprocessing, sensor_named(sensor)
    if not isinstance(backbone, ChannelVitBackbone):
        raise UserError(
            f"expected a channel transformer to know bands of {sensor} by their wavelength, got {encoder.name}, a"
            f" {encoder.architecture.model.title}; train one with --model ChannelVit"
        )
    expect(
        own.quantity in target.quantities,
        expected=f"a sensor of {own.quantity.value} for {encoder.name}",
        got=sensor,
        remedy="choose another sensor",
    )
    expect(
        own.clip is None or (len(own.clip) == 2 and not isinstance(own.clip[0], tuple)),
        expected=f"one pair of clip bounds in the contract of {encoder.name}, or none",
        got="bounds of each band",
        remedy="change its contract",
    )
    moments = {name: _find_moments(own, sensor, name) for name in target.band_names}
    chosen = tuple(name for name in moments if moments[name]) if bands is None else target.resolve_all(bands)
    strange = [name for name in chosen if moments[name] is None]
    fewest = own.fewest_bands if own.missing == "any_subset" else len(own.bands)
    expect(
        len(chosen) >= fewest and not strange,
        expected=f"at least {fewest} bands of {sensor} that the training of {encoder.name} covers",
        got=", ".join(strange or chosen) or "none",
        remedy=f"choose out of {', '.join(name for name in moments if moments[name]) or 'another sensor'}",
    )
    pairs = [pair for name in chosen if (pair := moments[name]) is not None]
    contract = replace(
        own, sensor=sensor, bands=chosen, mean=tuple(mean for mean, _ in pairs), std=tuple(std for _, std in pairs)
    )
    remark = (
        f"bands {', '.join(chosen)} of {sensor} known by their wavelength or polarisation, normalised by the statistics"
        f" of the nearest bands of {own.sensor}"
    )
    return TrainedEncoder(
        backbone.for_bands(chosen, sensor=sensor).eval(),
        contract,
        name=encoder.name,
        provenance={**encoder.provenance, "remark": remark},
    )


def _find_moments(own: Preprocessing, sensor: str, name: str) -> tuple[float, float] | None:
    """Mean and standard deviation of the trained band nearest to ``name`` of ``sensor``; None where none is near."""
    wave, known = sensor_named(sensor).band(name).wavelength_um, sensor_named(own.sensor)
    waves = [known.band(band).wavelength_um for band in own.bands]
    if wave is None:
        place = own.bands.index(name) if name in own.bands else None
        return None if place is None or waves[place] is not None else (own.mean[place], own.std[place])
    apart = [math.inf if own_wave is None else abs(math.log(wave / own_wave)) for own_wave in waves]
    nearest = apart.index(min(apart))
    return (own.mean[nearest], own.std[nearest]) if apart[nearest] <= NEAR else None

"""What methods share that train on pairs of a radar and an optical image: their views, their encoders, their checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from eo_ssl.errors import expect
from eo_ssl.models import Backbone, MaskableBackbone, SpectralVitBackbone, View, require_maskable
from eo_ssl.objectives.parts import take_only_view
from eo_ssl.objectives.step import Batch
from eo_ssl.objectives.two_views import check_one_width
from eo_ssl.objectives.views import ViewSpec

RADAR, OPTICAL = SENSORS = ("s1", "s2")
"""Streams of the items, and names of their encoders."""
ALIGNED_VIEWS: Mapping[str, ViewSpec] = MappingProxyType(
    {
        # one crop for both, of the range of MultiMAE (the authors' utils/datasets.py); ours for CROMA
        "radar": ViewSpec(stream=RADAR, crop=(0.2, 1.0), aligned=True),
        "optical": ViewSpec(stream=OPTICAL, crop=(0.2, 1.0), aligned=True),
    }
)


def require_sensors(encoders: Mapping[str, Backbone], *, method: str) -> dict[str, MaskableBackbone]:
    """The encoders of both sensors, radar first, whose patches lie at the same places.

    Raises:
        UserError: other streams, networks that cannot hide patches or have several tokens for one, different widths or
            grids.
    """
    expect(
        set(encoders) == set(SENSORS),
        expected=f"pairs of a radar and an optical stream, s1 and s2, for {method}",
        got=", ".join(encoders),
        remedy="train on such pairs with --items pairs",
    )
    found = {stream: require_maskable(encoders[stream], method=method) for stream in SENSORS}
    for encoder in found.values():
        expect(
            not isinstance(encoder, SpectralVitBackbone),
            expected=f"a transformer with one token for a patch for {method}",
            got=type(encoder).__name__,
            remedy="choose --model Vit",
        )
    check_one_width(found)
    grids = [encoder.grid for encoder in found.values()]
    expect(
        grids[0] == grids[1],
        expected=f"tiles of one size in both streams for {method}",
        got=" and ".join(f"{rows} x {cols} patches" for rows, cols in grids),
        remedy="ingest both at one tile size and pixel spacing",
    )
    return found


def take_sensor_views(batch: Batch, encoders: Mapping[str, Backbone], *, method: str) -> tuple[View, View]:
    """The radar and the optical view of the batch, whole and of the same ground.

    Raises:
        UserError: another number of views than one of each, or another size than the encoders were built for.
    """
    views = []
    for stream in SENSORS:
        own = {stream: [view for view in batch.all_views() if view.stream == stream]}
        encoder = require_maskable(encoders[stream], method=method)
        views.append(take_only_view(dataclasses.replace(batch, views=own), encoder, method=method))
    return views[0], views[1]

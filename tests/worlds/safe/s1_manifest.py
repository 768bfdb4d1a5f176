"""manifest.safe of Sentinel-1 products, and the names under which it lists their files."""

from __future__ import annotations

from collections.abc import Sequence

from worlds.safe.container import Draft
from worlds.safe.s1_annotation import Image
from worlds.safe.templating import fill_template

_SCHEMAS = {
    "product": "s1Level1ProductSchema",
    "noise": "s1Level1NoiseSchema",
    "calibration": "s1Level1CalibrationSchema",
}
_MEASUREMENT = "s1Level1MeasurementSchema"


def add_annotation(draft: Draft, image: Image, kind: str, text: str) -> None:
    """Write the product, calibration or noise annotation of an image and list it."""
    place = "annotation/" if kind == "product" else f"annotation/calibration/{kind}-"
    draft.add(
        f"{place}{image.stem}.xml",
        text,
        identifier=kind + _packed(image),
        mime="text/xml",
        representation=_SCHEMAS[kind],
    )


def reserve_measurement(draft: Draft, image: Image) -> str:
    """List the measurement of an image and return its name."""
    name = f"measurement/{image.stem}.tiff"
    draft.reserve(name, identifier=_packed(image), mime="application/octet-stream", representation=_MEASUREMENT)
    return name


def _packed(image: Image) -> str:
    return image.stem.replace("-", "")


def render_manifest(draft: Draft, images: Sequence[Image], *, ipf: str, polarisations: Sequence[str]) -> str:
    """Return manifest.safe, all other files of the product being written; MD5 as in real products."""
    first = images[0]
    distinct = images[:1] if first.kind == "GRD" else images  # polarisations share a footprint, vignettes do not
    return fill_template(
        "s1_manifest",
        first=first,
        objects=draft.list_objects("MD5"),
        algorithm="MD5",
        annotations=[entry.identifier for entry in draft.objects if entry.representation != _MEASUREMENT],
        ipf=ipf,
        polarisations=polarisations,
        swaths=sorted({image.swath for image in images}),
        start=min(image.geometry.start for image in images),
        stop=max(image.stop for image in images),
        frames=[image.geometry.corners for image in distinct],
    )

"""manifest.safe of Sentinel-1 products."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from worlds.safe.container import DataObject, Draft, data_object_section
from worlds.safe.s1_annotation import Image
from worlds.safe.s1_spec import absolute_orbit, clock, data_take, relative_orbit

_NAMESPACES = (
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:gml="http://www.opengis.net/gml" xmlns:xfdu="urn:ccsds:schema:xfdu:1" '
    'xmlns:safe="http://www.esa.int/safe/sentinel-1.0" xmlns:s1="http://www.esa.int/safe/sentinel-1.0/sentinel-1" '
    'xmlns:s1sar="http://www.esa.int/safe/sentinel-1.0/sentinel-1/sar" '
    'xmlns:s1sarl1="http://www.esa.int/safe/sentinel-1.0/sentinel-1/sar/level-1"'
)
_SCHEMAS = {
    "product": "s1Level1ProductSchema",
    "noise": "s1Level1NoiseSchema",
    "calibration": "s1Level1CalibrationSchema",
}
_MEASUREMENT = "s1Level1MeasurementSchema"


def add_annotation(draft: Draft, image: Image, kind: str, text: str) -> None:
    """Write the product, calibration or noise annotation of an image and list it."""
    place = "annotation" if kind == "product" else f"annotation/calibration/{kind}-"
    name = f"{place}/{image.stem}.xml" if kind == "product" else f"{place}{image.stem}.xml"
    draft.add(name, text, identifier=kind + _packed(image), mime="text/xml", representation=_SCHEMAS[kind])


def reserve_measurement(draft: Draft, image: Image) -> str:
    """List the measurement of an image and return its name."""
    name = f"measurement/{image.stem}.tiff"
    draft.reserve(name, identifier=_packed(image), mime="application/octet-stream", representation=_MEASUREMENT)
    return name


def _packed(image: Image) -> str:
    return image.stem.replace("-", "")


def manifest(draft: Draft, images: Sequence[Image], *, ipf: str, polarisations: Sequence[str]) -> str:
    """Return manifest.safe, all other files of the product being written; MD5 as in real products."""

    def checksum(entry: DataObject) -> tuple[str, str]:
        return "MD5", draft.digest(entry.name, "MD5")

    first = images[0]
    level = f"esa/safe/sentinel-1.0/sentinel-1/sar/level-1/{first.kind.lower()}/standard/{first.mode.lower()}dp"
    units = "".join(_unit(draft, entry) for entry in draft.objects)
    annotations = "".join(
        f'    <metadataObject ID="{entry.identifier}Annotation" classification="DESCRIPTION" category="DMD">\n'
        f'      <dataObjectPointer dataObjectID="{entry.identifier}"/>\n    </metadataObject>\n'
        for entry in draft.objects
        if entry.representation != _MEASUREMENT
    )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<xfdu:XFDU {_NAMESPACES} version="{level}">\n  <informationPackageMap>\n'
        f'    <xfdu:contentUnit unitType="SAFE Archive Information Package" '
        f'textInfo="Sentinel-1 {first.mode} Level-1 {first.kind} Product" '
        'dmdID="acquisitionPeriod platform generalProductInformation measurementOrbitReference measurementFrameSet" pdiID="processing">\n'
        f"{units}    </xfdu:contentUnit>\n  </informationPackageMap>\n  <metadataSection>\n{annotations}"
        f"{_facts(images, ipf, polarisations)}  </metadataSection>\n"
        f"  <dataObjectSection>\n{data_object_section(draft, checksum)}  </dataObjectSection>\n</xfdu:XFDU>\n"
    )


def _unit(draft: Draft, entry: DataObject) -> str:
    """Return one unit of the package; that of a measurement names the annotations of the same image."""
    measured = entry.representation == _MEASUREMENT
    listed = [f"{kind}{entry.identifier}" for kind in _SCHEMAS]
    known = {other.identifier for other in draft.objects}
    described = "".join(f"{name}Annotation " for name in listed if name in known) if measured else ""
    reference = f' dmdID="{described}"' if measured else ""
    return (
        f'      <xfdu:contentUnit unitType="{"Measurement Data" if measured else "Metadata"} Unit" '
        f'repID="{entry.representation}"{reference}>\n'
        f'        <dataObjectPointer dataObjectID="{entry.identifier}"/>\n      </xfdu:contentUnit>\n'
    )


def _facts(images: Sequence[Image], ipf: str, polarisations: Sequence[str]) -> str:
    first = images[0]
    start = min(image.geometry.start for image in images)
    stop = max(image.stop for image in images)
    items = {
        "processing": (
            f'<safe:processing name="{first.kind} Post Processing" start="{clock(stop)}" stop="{clock(stop)}">'
            '<safe:facility country="" name="synthetic" organisation="" site="">'
            f'<safe:software name="Sentinel-1 IPF" version="{ipf}"/></safe:facility></safe:processing>'
        ),
        "platform": _platform(first, sorted({image.swath for image in images})),
        "measurementOrbitReference": _orbit(first),
        "generalProductInformation": _general(first, polarisations),
        "acquisitionPeriod": _period(first, start, stop),
        "measurementFrameSet": _frames(images),
    }
    return "".join(
        f'    <metadataObject ID="{name}" classification="DESCRIPTION" category="{"PDI" if name == "processing" else "DMD"}">\n'
        f'      <metadataWrap mimeType="text/xml" vocabularyName="SAFE"><xmlData>{body}</xmlData></metadataWrap>\n    </metadataObject>\n'
        for name, body in items.items()
    )


def _platform(image: Image, swaths: list[str]) -> str:
    listed = "".join(f"<s1sarl1:swath>{swath}</s1sarl1:swath>" for swath in swaths)
    return (
        "<safe:platform><safe:nssdcIdentifier>2014-016A</safe:nssdcIdentifier><safe:familyName>SENTINEL-1</safe:familyName>"
        f"<safe:number>{image.platform[2]}</safe:number><safe:instrument>"
        '<safe:familyName abbreviation="SAR">Synthetic Aperture Radar</safe:familyName>'
        f"<safe:extension><s1sarl1:instrumentMode><s1sarl1:mode>{image.mode}</s1sarl1:mode>{listed}</s1sarl1:instrumentMode>"
        "</safe:extension></safe:instrument></safe:platform>"
    )


def _orbit(image: Image) -> str:
    orbit = absolute_orbit(image.geometry.start)
    relative = relative_orbit(orbit, image.platform)
    numbers = "".join(
        f'<safe:{kind} type="{end}">{value}</safe:{kind}>'
        for kind, value in (("orbitNumber", orbit), ("relativeOrbitNumber", relative))
        for end in ("start", "stop")
    )
    return (
        f"<safe:orbitReference>{numbers}<safe:cycleNumber>{orbit // 175 + 14}</safe:cycleNumber>"
        "<safe:phaseIdentifier>1</safe:phaseIdentifier><safe:extension><s1:orbitProperties>"
        f"<s1:pass>{'ASCENDING' if image.ascending else 'DESCENDING'}</s1:pass>"
        f"<s1:ascendingNodeTime>{clock(image.node_time)}</s1:ascendingNodeTime></s1:orbitProperties></safe:extension></safe:orbitReference>"
    )


def _general(image: Image, polarisations: Sequence[str]) -> str:
    orbit = absolute_orbit(image.geometry.start)
    listed = "".join(
        f"<s1sarl1:transmitterReceiverPolarisation>{name}</s1sarl1:transmitterReceiverPolarisation>"
        for name in polarisations
    )
    composition = "Slice" if image.kind == "GRD" else "Individual"
    return (
        "<s1sarl1:standAloneProductInformation><s1sarl1:instrumentConfigurationID>6</s1sarl1:instrumentConfigurationID>"
        f"<s1sarl1:missionDataTakeID>{data_take(orbit)}</s1sarl1:missionDataTakeID>{listed}"
        "<s1sarl1:productClass>S</s1sarl1:productClass>"
        "<s1sarl1:productClassDescription>SAR Standard L1 Product</s1sarl1:productClassDescription>"
        f"<s1sarl1:productComposition>{composition}</s1sarl1:productComposition>"
        f"<s1sarl1:productType>{image.kind}</s1sarl1:productType>"
        "<s1sarl1:productTimelinessCategory>Fast-24h</s1sarl1:productTimelinessCategory></s1sarl1:standAloneProductInformation>"
    )


def _period(image: Image, start: datetime, stop: datetime) -> str:
    since = [(when - image.node_time).total_seconds() * 1000 for when in (start, stop)]
    return (
        f"<safe:acquisitionPeriod><safe:startTime>{clock(start)}</safe:startTime><safe:stopTime>{clock(stop)}</safe:stopTime>"
        f"<safe:extension><s1:timeANX><s1:startTimeANX>{since[0]:.6e}</s1:startTimeANX><s1:stopTimeANX>{since[1]:.6e}</s1:stopTimeANX>"
        "</s1:timeANX></safe:extension></safe:acquisitionPeriod>"
    )


def _frames(images: Sequence[Image]) -> str:
    """Return the footprints: one for all polarisations of a scene, one for each vignette of the wave mode."""
    distinct = images[:1] if images[0].kind == "GRD" else images
    frames = "".join(
        '<safe:frame><safe:footPrint srsName="http://www.opengis.net/gml/srs/epsg.xml#4326"><gml:coordinates>'
        + " ".join(f"{latitude:.6f},{longitude:.6f}" for latitude, longitude in image.geometry.corners)
        + "</gml:coordinates></safe:footPrint></safe:frame>"
        for image in distinct
    )
    return f"<safe:frameSet>{frames}</safe:frameSet>"

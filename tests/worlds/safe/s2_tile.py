"""Metadata of the granule of a Sentinel-2 SAFE product: grids, angles, masks; the vector cloud mask; the manifest."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import numpy.typing as npt
from rasterio.features import shapes

from worlds.safe.container import DataObject, Draft, data_object_section, numbers
from worlds.safe.s2_metadata import (
    MEAN_ORDER,
    PSD,
    XML_HEAD,
    XSI,
    angle_nodes,
    direction,
    footprint,
    stamp,
    tile_identifier,
    view_angles,
)
from worlds.safe.s2_scene import sun
from worlds.safe.s2_spec import L1C_BANDS, S2SafeSpec

_DETECTORS = (5, 6)  # the tile lies under two of the twelve


def tile_xml(spec: S2SafeSpec, masks: list[tuple[str, str]], cloud_percent: float) -> str:
    """Return MTD_TL.xml.

    Args:
        spec: the product.
        masks: type and name, relative to the product, of each mask.
        cloud_percent: share of the product under cloud.
    """
    level = f"Level-{spec.level[1:]}"
    made = datetime.fromisoformat(spec.generated)
    strip = f"{spec.platform}_OPER_MSI_{spec.level}_{spec.datastrip}_N{spec.baseline}"
    listed = "".join(f'      <MASK_FILENAME type="{kind}">{name}</MASK_FILENAME>\n' for kind, name in masks)
    return (
        f'{XML_HEAD}<n1:{level}_Tile_ID xmlns:n1="{PSD}/S2_PDI_{level}_Tile_Metadata.xsd" {XSI} '
        f'xsi:schemaLocation="{PSD}/S2_PDI_{level}_Tile_Metadata.xsd">\n  <n1:General_Info>\n'
        f'    <TILE_ID metadataLevel="Brief">{tile_identifier(spec)}</TILE_ID>\n'
        f'    <DATASTRIP_ID metadataLevel="Standard">{strip}</DATASTRIP_ID>\n'
        f'    <DOWNLINK_PRIORITY metadataLevel="Standard">NOMINAL</DOWNLINK_PRIORITY>\n'
        f'    <SENSING_TIME metadataLevel="Standard">{stamp(spec.sensing_time, "microseconds")}</SENSING_TIME>\n'
        f'    <Archiving_Info metadataLevel="Expertise">\n      <ARCHIVING_CENTRE>{spec.station}</ARCHIVING_CENTRE>\n'
        f"      <ARCHIVING_TIME>{stamp(made, 'microseconds')}</ARCHIVING_TIME>\n    </Archiving_Info>\n  </n1:General_Info>\n"
        f'  <n1:Geometric_Info>\n{_geocoding(spec)}    <Tile_Angles metadataLevel="Standard">\n{_sun_angles(spec)}{_views(spec)}'
        f"    </Tile_Angles>\n  </n1:Geometric_Info>\n"
        f'  <n1:Quality_Indicators_Info metadataLevel="Standard">\n    <Image_Content_QI>\n'
        f"      <CLOUDY_PIXEL_PERCENTAGE>{cloud_percent:.6f}</CLOUDY_PIXEL_PERCENTAGE>\n"
        f"      <DEGRADED_MSI_DATA_PERCENTAGE>0</DEGRADED_MSI_DATA_PERCENTAGE>\n    </Image_Content_QI>\n"
        f'    <Pixel_Level_QI geometry="FULL_RESOLUTION">\n{listed}    </Pixel_Level_QI>\n'
        f"  </n1:Quality_Indicators_Info>\n</n1:{level}_Tile_ID>\n"
    )


def _geocoding(spec: S2SafeSpec) -> str:
    grid = spec.transform(10)
    zone, half = spec.epsg % 100, "N" if spec.epsg < 32700 else "S"
    sizes = "".join(
        f'      <Size resolution="{gsd}">\n        <NROWS>{spec.size_px * 10 // gsd}</NROWS>\n'
        f"        <NCOLS>{spec.size_px * 10 // gsd}</NCOLS>\n      </Size>\n"
        for gsd in (10, 20, 60)
    )
    places = "".join(
        f'      <Geoposition resolution="{gsd}">\n        <ULX>{grid.c:.0f}</ULX>\n        <ULY>{grid.f:.0f}</ULY>\n'
        f"        <XDIM>{gsd}</XDIM>\n        <YDIM>-{gsd}</YDIM>\n      </Geoposition>\n"
        for gsd in (10, 20, 60)
    )
    return (
        '    <Tile_Geocoding metadataLevel="Brief">\n'
        f"      <HORIZONTAL_CS_NAME>WGS84 / UTM zone {zone}{half}</HORIZONTAL_CS_NAME>\n"
        f"      <HORIZONTAL_CS_CODE>EPSG:{spec.epsg}</HORIZONTAL_CS_CODE>\n{sizes}{places}    </Tile_Geocoding>\n"
    )


def _grid(values: npt.NDArray[np.float64]) -> str:
    rows = "".join(f"            <VALUES>{_spelled(row)}</VALUES>\n" for row in values)
    return (
        '          <COL_STEP unit="m">5000</COL_STEP>\n          <ROW_STEP unit="m">5000</ROW_STEP>\n'
        f"          <Values_List>\n{rows}          </Values_List>\n"
    )


def _spelled(row: npt.NDArray[np.float64]) -> str:
    return numbers(row, "{:.6g}").replace("nan", "NaN")


def _sun_angles(spec: S2SafeSpec) -> str:
    nodes = angle_nodes(spec)
    angles = np.array([[sun(spec, column, row) for column in nodes] for row in nodes])
    zenith, azimuth = sun(spec)
    return (
        f"      <Sun_Angles_Grid>\n        <Zenith>\n{_grid(angles[..., 0])}        </Zenith>\n"
        f"        <Azimuth>\n{_grid(angles[..., 1])}        </Azimuth>\n      </Sun_Angles_Grid>\n"
        f'      <Mean_Sun_Angle>\n        <ZENITH_ANGLE unit="deg">{zenith}</ZENITH_ANGLE>\n'
        f'        <AZIMUTH_ANGLE unit="deg">{azimuth}</AZIMUTH_ANGLE>\n      </Mean_Sun_Angle>\n'
    )


def _views(spec: S2SafeSpec) -> str:
    """Return the view angles of 13 bands and two detectors, which share the tile left and right of its middle, and their means."""
    nodes = angle_nodes(spec)
    middle = spec.extent_m / 2
    columns = np.broadcast_to(nodes, (nodes.size, nodes.size))
    grids = []
    for index, band in enumerate(L1C_BANDS):
        zenith, azimuth = view_angles(band)
        for detector in _DETECTORS:
            seen = columns < middle if detector == _DETECTORS[0] else columns >= middle
            fields = (zenith + 3e-5 * (columns - middle), azimuth + 0.5 * (detector - 5.5) + 0.0 * columns)
            parts = [np.where(seen, values, np.nan) for values in fields]
            grids.append(
                f'      <Viewing_Incidence_Angles_Grids bandId="{index}" detectorId="{detector}">\n'
                f"        <Zenith>\n{_grid(parts[0])}        </Zenith>\n        <Azimuth>\n{_grid(parts[1])}        </Azimuth>\n"
                f"      </Viewing_Incidence_Angles_Grids>\n"
            )
    means = "".join(
        f'        <Mean_Viewing_Incidence_Angle bandId="{index}">\n'
        f'          <ZENITH_ANGLE unit="deg">{zenith}</ZENITH_ANGLE>\n          <AZIMUTH_ANGLE unit="deg">{azimuth}</AZIMUTH_ANGLE>\n'
        f"        </Mean_Viewing_Incidence_Angle>\n"
        for index in MEAN_ORDER
        for zenith, azimuth in [view_angles(L1C_BANDS[index])]
    )
    return f"{''.join(grids)}      <Mean_Viewing_Incidence_Angle_List>\n{means}      </Mean_Viewing_Incidence_Angle_List>\n"


def cloud_gml(spec: S2SafeSpec, classes: npt.NDArray[np.uint8]) -> str:
    """Return MSK_CLOUDS_B00.gml: the outlines of opaque cloud and cirrus along the borders of 60 m pixels.

    Args:
        spec: the product.
        classes: uint8 [opaque cirrus ..., y, x] at 60 m, 0 or 1.
    """
    identifier = f"{tile_identifier(spec).replace('_MSI_L1C_TL_', '_MSK_CLOUDS_').replace('_MSI_L2A_TL_', '_MSK_CLOUDS_')}_B00_MSIL1C"
    features = []
    corners: list[tuple[float, float]] = []
    for kind, mask in zip(("OPAQUE", "CIRRUS"), classes[:2], strict=True):
        outlines = shapes(mask, mask=mask.astype(bool), transform=spec.transform(60))
        for number, (outline, _) in enumerate(outlines):
            corners += outline["coordinates"][0]
            features.append(_feature(f"{kind}.{number}", kind, outline["coordinates"]))
    # Without any cloud the mask has neither an envelope nor members.
    body = ""
    if corners:
        low, high = np.min(corners, axis=0), np.max(corners, axis=0)
        body = (
            f'  <gml:boundedBy>\n    <gml:Envelope srsName="urn:ogc:def:crs:EPSG:8.7:{spec.epsg}">\n'
            f"      <gml:lowerCorner>{low[0]:.0f} {low[1]:.0f}</gml:lowerCorner>\n"
            f"      <gml:upperCorner>{high[0]:.0f} {high[1]:.0f}</gml:upperCorner>\n    </gml:Envelope>\n  </gml:boundedBy>\n"
            f"  <eop:maskMembers>\n{''.join(features)}  </eop:maskMembers>\n"
        )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<eop:Mask xmlns:eop="http://www.opengis.net/eop/2.0" '
        f'{XSI} xmlns:gml="http://www.opengis.net/gml/3.2" gml:id="{identifier}">\n'
        f"  <gml:name>MSK_CLOUDS pixels mask from data-strip {identifier}</gml:name>\n{body}</eop:Mask>\n"
    )


def _feature(name: str, kind: str, rings: list[list[tuple[float, float]]]) -> str:
    parts = []
    for number, ring in enumerate(rings):
        side = "interior" if number else "exterior"
        parts.append(
            f"          <gml:{side}>\n            <gml:LinearRing>\n"
            f'              <gml:posList srsDimension="2">{numbers(ring, "{:.0f}")}</gml:posList>\n'
            f"            </gml:LinearRing>\n          </gml:{side}>\n"
        )
    return (
        f'    <eop:MaskFeature gml:id="{name}">\n      <eop:maskType codeSpace="urn:gs2:S2PDGS:maskType">{kind}</eop:maskType>\n'
        f'      <eop:extentOf>\n        <gml:Polygon gml:id="{name}_Polygon">\n{"".join(parts)}        </gml:Polygon>\n'
        f"      </eop:extentOf>\n    </eop:MaskFeature>\n"
    )


def manifest(spec: S2SafeSpec, draft: Draft) -> str:
    """Return manifest.safe, all other files of the product being written.

    Real products have MD5 up to 2020 (baseline 02.09) and SHA3-256 in 2021 (03.01); in L2A products the digests of images are in
    capitals.
    """
    level = f"Level-{spec.level[1:]}"
    algorithm = "MD5" if int(spec.baseline.partition(".")[0]) < 3 else "SHA3-256"

    def checksum(entry: DataObject) -> tuple[str, str]:
        digest = draft.digest(entry.name, algorithm)
        capitals = spec.level == "L2A" and algorithm != "MD5" and entry.name.endswith(".jp2")
        return algorithm, digest.upper() if capitals else digest

    units = "".join(
        f'      <xfdu:contentUnit ID="{entry.identifier.removesuffix("_Data")}_Unit" unitType="Measurement Data Unit">\n'
        f'        <dataObjectPointer dataObjectID="{entry.identifier}"/>\n      </xfdu:contentUnit>\n'
        for entry in draft.objects
    )
    return (
        f'{XML_HEAD}<xfdu:XFDU xmlns:gml="http://www.opengis.net/gml" xmlns:safe="http://www.esa.int/safe/sentinel/1.1" '
        f'xmlns:xfdu="urn:ccsds:schema:xfdu:1" '
        f'version="esa/safe/sentinel/1.1/sentinel-2/msi/archive_{spec.level.lower()}_user_product">\n  <informationPackageMap>\n'
        f'    <xfdu:contentUnit dmdID="acquisitionPeriod platform" pdiID="processing" '
        f'textInfo="SENTINEL-2 MSI {level} User Product" unitType="Product_{level}">\n{units}    </xfdu:contentUnit>\n'
        f"  </informationPackageMap>\n  <metadataSection>\n{_wrapped(spec)}  </metadataSection>\n"
        f"  <dataObjectSection>\n{data_object_section(draft, checksum)}  </dataObjectSection>\n</xfdu:XFDU>\n"
    )


def _wrapped(spec: S2SafeSpec) -> str:
    """Return the general metadata of the manifest."""
    made = stamp(datetime.fromisoformat(spec.generated), "microseconds")
    start = stamp(spec.start.replace(microsecond=24000), "milliseconds")
    items = {
        "acquisitionPeriod": f"<safe:acquisitionPeriod><safe:startTime>{start}</safe:startTime></safe:acquisitionPeriod>",
        "measurementOrbitReference": (
            f'<safe:orbitReference><safe:orbitNumber groundTrackDirection="{direction(spec)}" type="start">{spec.orbit:06d}'
            f'</safe:orbitNumber><safe:relativeOrbitNumber type="start">{spec.relative_orbit:03d}</safe:relativeOrbitNumber>'
            "</safe:orbitReference>"
        ),
        "platform": (
            "<safe:platform><safe:nssdcIdentifier>2015-000A</safe:nssdcIdentifier><safe:familyName>SENTINEL</safe:familyName>"
            f"<safe:number>{spec.platform[1:]}</safe:number><safe:instrument>"
            '<safe:familyName abbreviation="MSI">Multi-Spectral Instrument</safe:familyName></safe:instrument></safe:platform>'
        ),
        "processing": f'<safe:processing name="Generation of Level-{spec.level[1:]} User Product" start="{made}"/>',
        "measurementFrameSet": (
            '<safe:frameSet><safe:footPrint srsName="http://www.opengis.net/gml/srs/epsg.xml#4326">'
            f"<gml:coordinates>{footprint(spec)}</gml:coordinates></safe:footPrint></safe:frameSet>"
        ),
    }
    return "".join(
        f'    <metadataObject ID="{name}" category="{"PDI" if name == "processing" else "DMD"}">\n'
        f'      <metadataWrap mimeType="text/xml" vocabularyName="Sentinel-SAFE"><xmlData>{body}</xmlData></metadataWrap>\n'
        f"    </metadataObject>\n"
        for name, body in items.items()
    )

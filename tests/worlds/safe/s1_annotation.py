"""Annotation, calibration and noise files of Sentinel-1 Level-1 products (Product Specification S1-RS-MDA-52-7441)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from worlds.safe.container import numbers
from worlds.safe.s1_geometry import Geometry
from worlds.safe.s1_luts import AzimuthBlock, Ints, Vector
from worlds.safe.s1_orbit import LIGHT_M_S, RATE
from worlds.safe.s1_spec import absolute_orbit, clock, data_take

_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
TIE_LINES, TIE_SAMPLES = 10, 21  # 210 tie points, as a real IW product has


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a product and what its annotation says of it."""

    geometry: Geometry
    mode: str
    "IW, EW, SM or WV"
    swath: str
    "IW, EW, S1 ... S6, WV1 or WV2"
    polarisation: str
    platform: str
    kind: str
    "GRD or SLC"
    number: int
    "from 1; the end of the file names"
    bounds: tuple[int, ...]
    "first sample of each merged swath, and the number of samples"
    swaths: tuple[str, ...]
    ascending: bool
    azimuth_spacing_m: float

    @property
    def stop(self) -> datetime:
        """Time of the last line."""
        return self.geometry.moment(self.geometry.lines - 1)

    @property
    def stem(self) -> str:
        """Name of the files: ``s1a-iw-grd-vv-<start>-<stop>-<orbit>-<take>-001``."""
        start, orbit = self.geometry.start, absolute_orbit(self.geometry.start)
        times = f"{start:%Y%m%dt%H%M%S}-{self.stop:%Y%m%dt%H%M%S}"
        return (
            f"{self.platform}-{self.swath}-{self.kind}-{self.polarisation}-{times}-{orbit:06d}-{data_take(orbit):06x}-{self.number:03d}"
        ).lower()

    @property
    def node_time(self) -> datetime:
        """Time at which the satellite crossed the equator northwards."""
        return self.geometry.start - timedelta(
            seconds=self.geometry.first_s + self.geometry.orbit.argument % (2 * np.pi) / RATE
        )


def ads_header(image: Image) -> str:
    """Return the header that all three files share."""
    orbit = absolute_orbit(image.geometry.start)
    return (
        f"  <adsHeader>\n    <missionId>{image.platform}</missionId>\n    <productType>{image.kind}</productType>\n"
        f"    <polarisation>{image.polarisation}</polarisation>\n    <mode>{image.mode}</mode>\n    <swath>{image.swath}</swath>\n"
        f"    <startTime>{clock(image.geometry.start)}</startTime>\n    <stopTime>{clock(image.stop)}</stopTime>\n"
        f"    <absoluteOrbitNumber>{orbit}</absoluteOrbitNumber>\n    <missionDataTakeId>{data_take(orbit)}</missionDataTakeId>\n"
        f"    <imageNumber>{image.number:03d}</imageNumber>\n  </adsHeader>\n"
    )


def annotation_xml(image: Image) -> str:
    """Return the product annotation of one image."""
    return (
        f"{_HEAD}<product>\n{ads_header(image)}{_general(image)}{_image_annotation(image)}"
        f"{_doppler(image)}"
        '  <antennaPattern>\n    <antennaPatternList count="0"/>\n  </antennaPattern>\n'
        '  <swathTiming>\n    <linesPerBurst>0</linesPerBurst>\n    <samplesPerBurst>0</samplesPerBurst>\n    <burstList count="0"/>\n'
        f"  </swathTiming>\n{_geolocation(image)}{_conversion(image)}{_merging(image)}</product>\n"
    )


def _doppler(image: Image) -> str:
    start = clock(image.geometry.start)
    return (
        '  <dopplerCentroid>\n    <dcEstimateList count="1">\n      <dcEstimate>\n'
        f"        <azimuthTime>{start}</azimuthTime>\n        <t0>{2 * image.geometry.near_m / LIGHT_M_S:.15e}</t0>\n"
        '        <geometryDcPolynomial count="3">0.000000e+00 0.000000e+00 0.000000e+00</geometryDcPolynomial>\n'
        '        <dataDcPolynomial count="3">0.000000e+00 0.000000e+00 0.000000e+00</dataDcPolynomial>\n'
        "        <dataDcRmsError>0.000000000000000e+00</dataDcRmsError>\n"
        "        <dataDcRmsErrorAboveThreshold>false</dataDcRmsErrorAboveThreshold>\n"
        f"        <fineDceAzimuthStartTime>{start}</fineDceAzimuthStartTime>\n"
        f"        <fineDceAzimuthStopTime>{clock(image.stop)}</fineDceAzimuthStopTime>\n"
        '        <fineDceList count="0"/>\n      </dcEstimate>\n    </dcEstimateList>\n  </dopplerCentroid>\n'
    )


def _general(image: Image) -> str:
    geometry = image.geometry
    ground = bool(geometry.to_slant)
    before, after = geometry.locate((0, 1), (geometry.samples - 1) / 2)
    heading = np.degrees(np.arctan2((after[1] - after[0]) * np.cos(np.radians(before[0])), before[1] - before[0]))
    states = []
    for offset in range(-80, 81, 10):
        # Whole seconds from the first line, so that the printed times are exact.
        place = geometry.orbit.position(geometry.first_s + offset)
        speed = geometry.orbit.velocity(geometry.first_s + offset)
        states.append(
            f"      <orbit>\n        <time>{clock(geometry.start + timedelta(seconds=offset))}</time>\n"
            f"        <frame>Earth Fixed</frame>\n        <position>\n{_axes(place)}        </position>\n"
            f"        <velocity>\n{_axes(speed)}        </velocity>\n      </orbit>\n"
        )
    return (
        "  <generalAnnotation>\n    <productInformation>\n"
        f"      <pass>{'Ascending' if image.ascending else 'Descending'}</pass>\n"
        f"      <timelinessCategory>Fast-24h</timelinessCategory>\n      <platformHeading>{heading:.15e}</platformHeading>\n"
        f"      <projection>{'Ground' if ground else 'Slant'} Range</projection>\n"
        f"      <rangeSamplingRate>{LIGHT_M_S / 2 / (3.5 if ground else geometry.spacing_m):.15e}</rangeSamplingRate>\n"
        "      <radarFrequency>5.405000454334350e+09</radarFrequency>\n"
        "      <azimuthSteeringRate>0.000000000000000e+00</azimuthSteeringRate>\n    </productInformation>\n"
        '    <downlinkInformationList count="0"/>\n'
        f'    <orbitList count="{len(states)}">\n{"".join(states)}    </orbitList>\n{_attitudes(geometry)}'
        '    <rawDataAnalysisList count="0"/>\n    <replicaInformationList count="0"/>\n    <noiseList count="0"/>\n'
        '    <terrainHeightList count="0"/>\n    <azimuthFmRateList count="1">\n      <azimuthFmRate>\n'
        f"        <azimuthTime>{clock(geometry.start)}</azimuthTime>\n"
        f"        <t0>{2 * geometry.near_m / LIGHT_M_S:.15e}</t0>\n"
        '        <azimuthFmRatePolynomial count="3">-2.338243805937711e+03 4.384436343056685e+05 -7.396350491893399e+07'
        "</azimuthFmRatePolynomial>\n      </azimuthFmRate>\n    </azimuthFmRateList>\n  </generalAnnotation>\n"
    )


def _attitudes(geometry: Geometry) -> str:
    angles = "".join(
        f"        <{name}>0.000000e+00</{name}>\n"
        for name in ("q1", "q2", "q3", "wx", "wy", "wz", "roll", "pitch", "yaw")
    )
    rows = "".join(
        f"      <attitude>\n        <time>{clock(geometry.start + timedelta(seconds=second))}</time>\n"
        f"        <frame>GM2000</frame>\n        <q0>1.000000e+00</q0>\n{angles}      </attitude>\n"
        for second in range(2)
    )
    return f'    <attitudeList count="2">\n{rows}    </attitudeList>\n'


def _axes(vector: Iterable[float]) -> str:
    return "".join(f"          <{axis}>{value:.15e}</{axis}>\n" for axis, value in zip("xyz", vector, strict=True))


def _image_annotation(image: Image) -> str:
    geometry = image.geometry
    ground = bool(geometry.to_slant)
    return (
        "  <imageAnnotation>\n    <imageInformation>\n"
        f"      <productFirstLineUtcTime>{clock(geometry.start)}</productFirstLineUtcTime>\n"
        f"      <productLastLineUtcTime>{clock(image.stop)}</productLastLineUtcTime>\n"
        f"      <ascendingNodeTime>{clock(image.node_time)}</ascendingNodeTime>\n"
        f"      <anchorTime>{clock(geometry.start)}</anchorTime>\n"
        f"      <productComposition>{'Slice' if ground else 'Individual'}</productComposition>\n"
        f'      <sliceNumber>{int(ground)}</sliceNumber>\n      <sliceList count="0"/>\n'
        f"      <slantRangeTime>{2 * geometry.near_m / LIGHT_M_S:.15e}</slantRangeTime>\n"
        f"      <pixelValue>{'Detected' if ground else 'Complex'}</pixelValue>\n"
        f"      <outputPixels>16 bit {'Unsigned' if ground else 'Signed'} Integer</outputPixels>\n"
        f"      <rangePixelSpacing>{geometry.spacing_m:.6e}</rangePixelSpacing>\n"
        f"      <azimuthPixelSpacing>{image.azimuth_spacing_m:.6e}</azimuthPixelSpacing>\n"
        f"      <azimuthTimeInterval>{geometry.interval_s:.15e}</azimuthTimeInterval>\n"
        f"      <azimuthFrequency>{1 / geometry.interval_s:.15e}</azimuthFrequency>\n"
        f"      <numberOfSamples>{geometry.samples}</numberOfSamples>\n      <numberOfLines>{geometry.lines}</numberOfLines>\n"
        "      <zeroDopMinusAcqTime>0.000000000000000e+00</zeroDopMinusAcqTime>\n"
        f"      <incidenceAngleMidSwath>{geometry.middle_incidence_deg:.15e}</incidenceAngleMidSwath>\n    </imageInformation>\n"
        "    <processingInformation>\n      <orbitDataFileUsed>true</orbitDataFileUsed>\n"
        "      <rangeSpreadingLossCompensationApplied>true</rangeSpreadingLossCompensationApplied>\n"
        f"      <srgrConversionApplied>{'true' if ground else 'false'}</srgrConversionApplied>\n"
        f"      <detectionPerformed>{'true' if ground else 'false'}</detectionPerformed>\n"
        "      <thermalNoiseCorrectionPerformed>false</thermalNoiseCorrectionPerformed>\n"
        "      <referenceRange>8.000000000000000e+05</referenceRange>\n      <ellipsoidName>WGS84</ellipsoidName>\n"
        "      <ellipsoidSemiMajorAxis>6.378137000000000e+06</ellipsoidSemiMajorAxis>\n"
        "      <ellipsoidSemiMinorAxis>6.356752314245000e+06</ellipsoidSemiMinorAxis>\n    </processingInformation>\n"
        "  </imageAnnotation>\n"
    )


def tie_grid(geometry: Geometry) -> tuple[Ints, Ints]:
    """Return lines and samples of the tie points: even steps, the last one what is left."""
    return tuple(  # type: ignore[return-value]
        np.unique(np.minimum(-(-(count - 1) // (number - 1)) * np.arange(number), count - 1)).astype(np.int64)
        for count, number in ((geometry.lines, TIE_LINES), (geometry.samples, TIE_SAMPLES))
    )


def _geolocation(image: Image) -> str:
    geometry = image.geometry
    lines, samples = tie_grid(geometry)
    points = []
    for line in lines:
        latitude, longitude = geometry.locate(line, samples)
        seen, looked = geometry.incidence(line, samples), geometry.elevation(line, samples)
        for index, sample in enumerate(samples):
            points.append(
                f"      <geolocationGridPoint>\n        <azimuthTime>{clock(geometry.moment(float(line)))}</azimuthTime>\n"
                f"        <slantRangeTime>{2 * float(geometry.slant_range(sample)) / LIGHT_M_S:.15e}</slantRangeTime>\n"
                f"        <line>{line}</line>\n        <pixel>{sample}</pixel>\n"
                f"        <latitude>{latitude[index]:.15e}</latitude>\n        <longitude>{longitude[index]:.15e}</longitude>\n"
                f"        <height>{geometry.height_m:.15e}</height>\n        <incidenceAngle>{seen[index]:.15e}</incidenceAngle>\n"
                f"        <elevationAngle>{looked[index]:.15e}</elevationAngle>\n      </geolocationGridPoint>\n"
            )
    return (
        f'  <geolocationGrid>\n    <geolocationGridPointList count="{len(points)}">\n{"".join(points)}'
        "    </geolocationGridPointList>\n  </geolocationGrid>\n"
    )


def _conversion(image: Image) -> str:
    """Return the polynomials between ground and slant range, about one a second as in real products; none in slant range."""
    geometry = image.geometry
    if not geometry.to_slant:
        return '  <coordinateConversion>\n    <coordinateConversionList count="0"/>\n  </coordinateConversion>\n'
    seconds = range(-2, int(geometry.interval_s * geometry.lines) + 3)
    rows = "".join(
        f"      <coordinateConversion>\n        <azimuthTime>{clock(geometry.start + timedelta(seconds=second))}</azimuthTime>\n"
        f"        <slantRangeTime>{2 * geometry.near_m / LIGHT_M_S:.15e}</slantRangeTime>\n        <sr0>{geometry.near_m:.15e}</sr0>\n"
        f'        <srgrCoefficients count="9">{numbers(geometry.to_ground, "{:.15e}")}</srgrCoefficients>\n'
        "        <gr0>0.000000000000000e+00</gr0>\n"
        f'        <grsrCoefficients count="9">{numbers(geometry.to_slant, "{:.15e}")}</grsrCoefficients>\n'
        "      </coordinateConversion>\n"
        for second in seconds
    )
    return (
        f'  <coordinateConversion>\n    <coordinateConversionList count="{len(seconds)}">\n{rows}'
        "    </coordinateConversionList>\n  </coordinateConversion>\n"
    )


def _merging(image: Image) -> str:
    if len(image.swaths) == 1:
        return '  <swathMerging>\n    <swathMergeList count="0"/>\n  </swathMerging>\n'
    rows = "".join(
        f"      <swathMerge>\n        <swath>{swath}</swath>\n"
        '        <swathBoundsList count="1">\n          <swathBounds>\n'
        f"            <azimuthTime>{clock(image.geometry.start)}</azimuthTime>\n            <firstAzimuthLine>0</firstAzimuthLine>\n"
        f"            <firstRangeSample>{first}</firstRangeSample>\n"
        f"            <lastAzimuthLine>{image.geometry.lines - 1}</lastAzimuthLine>\n"
        f"            <lastRangeSample>{end - 1}</lastRangeSample>\n          </swathBounds>\n        </swathBoundsList>\n      </swathMerge>\n"
        for swath, first, end in zip(image.swaths, image.bounds[:-1], image.bounds[1:], strict=True)
    )
    return f'  <swathMerging>\n    <swathMergeList count="{len(image.swaths)}">\n{rows}    </swathMergeList>\n  </swathMerging>\n'


def calibration_xml(image: Image, tables: Mapping[str, Sequence[Vector]]) -> str:
    """Return the calibration annotation; ``tables`` has sigmaNought, betaNought, gamma and dn at the same lines and pixels."""
    rows = []
    for index, vector in enumerate(tables["sigmaNought"]):
        count = vector.pixels.size
        values = "".join(
            f'      <{name} count="{count}">{numbers(vectors[index].values)}</{name}>\n'
            for name, vectors in tables.items()
        )
        rows.append(f"    <calibrationVector>\n{_vector_place(image, vector)}{values}    </calibrationVector>\n")
    return (
        f"{_HEAD}<calibration>\n{ads_header(image)}  <calibrationInformation>\n"
        "    <absoluteCalibrationConstant>1.000000e+00</absoluteCalibrationConstant>\n  </calibrationInformation>\n"
        f'  <calibrationVectorList count="{len(rows)}">\n{"".join(rows)}  </calibrationVectorList>\n</calibration>\n'
    )


def _vector_place(image: Image, vector: Vector) -> str:
    return (
        f"      <azimuthTime>{clock(image.geometry.moment(vector.line))}</azimuthTime>\n      <line>{vector.line}</line>\n"
        f'      <pixel count="{vector.pixels.size}">{numbers(vector.pixels, "{:d}")}</pixel>\n'
    )


def noise_xml(image: Image, vectors: Sequence[Vector], blocks: Sequence[AzimuthBlock], *, new_format: bool) -> str:
    """Return the noise annotation, with vectors along the range alone (before version 002.90) or along range and azimuth."""
    kind = "noiseRange" if new_format else "noise"
    rows = "".join(
        f"    <{kind}Vector>\n{_vector_place(image, vector)}"
        f'      <{kind}Lut count="{vector.pixels.size}">{numbers(vector.values)}</{kind}Lut>\n    </{kind}Vector>\n'
        for vector in vectors
    )
    body = f'  <{kind}VectorList count="{len(vectors)}">\n{rows}  </{kind}VectorList>\n'
    if new_format:
        rows = "".join(
            f"    <noiseAzimuthVector>\n      <swath>{block.swath}</swath>\n"
            f"      <firstAzimuthLine>{block.lines[0]}</firstAzimuthLine>\n      <firstRangeSample>{block.samples[0]}</firstRangeSample>\n"
            f"      <lastAzimuthLine>{block.lines[1]}</lastAzimuthLine>\n      <lastRangeSample>{block.samples[1]}</lastRangeSample>\n"
            f'      <line count="{block.at.size}">{numbers(block.at, "{:d}")}</line>\n'
            f'      <noiseAzimuthLut count="{block.at.size}">{numbers(block.values)}</noiseAzimuthLut>\n    </noiseAzimuthVector>\n'
            for block in blocks
        )
        body += f'  <noiseAzimuthVectorList count="{len(blocks)}">\n{rows}  </noiseAzimuthVectorList>\n'
    return f"{_HEAD}<noise>\n{ads_header(image)}{body}</noise>\n"

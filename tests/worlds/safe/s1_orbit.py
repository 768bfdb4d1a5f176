"""Geometry of Sentinel-1: a circular orbit over the turning earth, and the point that a line and a slant range see.

All positions are metres in the earth-fixed frame of WGS 84. A pixel is located by the range-Doppler equations (e.g.
Curlander and McDonough 1991, section 8.2): its distance from the satellite is the slant range, the direction to it is
perpendicular to the velocity, and it lies at a height above the ellipsoid. They are solved to a micrometre, so that the
tie points, the orbit and the range polynomials of a product agree with each other as those of real ones do.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
LIGHT_M_S = 299_792_458.0
SEMI_MAJOR_M, SEMI_MINOR_M = 6_378_137.0, 6_356_752.314245
_GRAVITY = 3.986004418e14  # m3 / s2, GM of the earth (WGS 84)
_ROTATION = 7.292115e-5  # rad / s, of the earth (WGS 84)
RADIUS_M = 7_071_000.0  # of the orbit
_INCLINATION = np.radians(98.18)
RATE = float(np.sqrt(_GRAVITY / RADIUS_M**3))  # rad / s along the orbit
_STEPS = 6  # of Newton's method; it doubles the digits each time


@dataclass(frozen=True, slots=True)
class Orbit:
    """A circular orbit; time counts in seconds from the middle of the product."""

    argument: float
    "angle from the ascending node along the orbit at time 0, rad"
    node: float
    "longitude of the ascending node at time 0, rad"

    def position(self, time: npt.ArrayLike) -> Doubles:
        """Return the place of the satellite, [..., 3] metres."""
        return self._state(np.asarray(time, dtype=np.float64))[0]

    def velocity(self, time: npt.ArrayLike) -> Doubles:
        """Return the velocity in the earth-fixed frame, [..., 3] m/s."""
        return self._state(np.asarray(time, dtype=np.float64))[1]

    def later(self, seconds: float) -> Orbit:
        """Return the same orbit with its clock set so that its time 0 is so much later."""
        return Orbit(self.argument + RATE * seconds, self.node - _ROTATION * seconds)

    def _state(self, time: Doubles) -> tuple[Doubles, Doubles]:
        along, node = self.argument + RATE * time, self.node - _ROTATION * time
        cos_i, sin_i = np.cos(_INCLINATION), np.sin(_INCLINATION)
        x, y = RADIUS_M * np.cos(along), RADIUS_M * np.sin(along)
        dx, dy = -RATE * y, RATE * x
        turned = np.stack(
            [x * np.cos(node) - y * cos_i * np.sin(node), x * np.sin(node) + y * cos_i * np.cos(node), y * sin_i], -1
        )
        moving = np.stack(
            [dx * np.cos(node) - dy * cos_i * np.sin(node), dx * np.sin(node) + dy * cos_i * np.cos(node), dy * sin_i],
            -1,
        )
        spin = np.stack([_ROTATION * turned[..., 1], -_ROTATION * turned[..., 0], np.zeros_like(x)], -1)
        return turned, moving + spin


def locate_ground_point(
    orbit: Orbit, time: npt.ArrayLike, slant_range_m: npt.ArrayLike, *, height_m: float = 0.0
) -> Doubles:
    """Return the point to the right of the track at a slant range, at a height above the ellipsoid, [..., 3] metres.

    The surface of height h is taken as the ellipsoid whose axes are longer by h; for heights up to 1 km this is right
    to 2 mm.
    """
    time, distance = np.broadcast_arrays(
        np.asarray(time, dtype=np.float64), np.asarray(slant_range_m, dtype=np.float64)
    )
    place, speed = orbit.position(time), orbit.velocity(time)
    along = speed / np.linalg.norm(speed, axis=-1, keepdims=True)
    down = -place / np.linalg.norm(place, axis=-1, keepdims=True)
    right = np.cross(down, along)
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    down = np.cross(along, right)
    axes = np.array([SEMI_MAJOR_M + height_m, SEMI_MAJOR_M + height_m, SEMI_MINOR_M + height_m])
    # In the plane across the track one angle is unknown: that between the vertical and the line of sight.
    angle = np.arccos(np.clip((RADIUS_M**2 + distance**2 - 6_370_000.0**2) / (2 * RADIUS_M * distance), -1.0, 1.0))
    for _ in range(_STEPS):
        sight = np.cos(angle)[..., None] * down + np.sin(angle)[..., None] * right
        turn = -np.sin(angle)[..., None] * down + np.cos(angle)[..., None] * right
        point = place + distance[..., None] * sight
        excess = ((point / axes) ** 2).sum(-1) - 1.0
        slope = 2.0 * distance * (point * turn / axes**2).sum(-1)
        angle = angle - excess / slope
    return np.asarray(
        place + distance[..., None] * (np.cos(angle)[..., None] * down + np.sin(angle)[..., None] * right)
    )


def convert_to_geodetic(point: Doubles, *, height_m: float = 0.0) -> tuple[Doubles, Doubles]:
    """Return latitude and longitude in degrees of points at a height; the normal of the surface gives the latitude."""
    axes = np.array([SEMI_MAJOR_M + height_m, SEMI_MAJOR_M + height_m, SEMI_MINOR_M + height_m])
    normal = point / axes**2
    latitude = np.arctan2(normal[..., 2], np.hypot(normal[..., 0], normal[..., 1]))
    return np.degrees(latitude), np.degrees(np.arctan2(point[..., 1], point[..., 0]))


def measure_incidence(orbit: Orbit, time: npt.ArrayLike, point: Doubles) -> Doubles:
    """Return the angle between the line of sight and the normal of the ellipsoid at a point, degrees."""
    sight = orbit.position(time) - point
    normal = point / np.array([SEMI_MAJOR_M, SEMI_MAJOR_M, SEMI_MINOR_M]) ** 2
    cosine = (sight * normal).sum(-1) / np.linalg.norm(sight, axis=-1) / np.linalg.norm(normal, axis=-1)
    return np.asarray(np.degrees(np.arccos(cosine)))


def measure_elevation(orbit: Orbit, time: npt.ArrayLike, point: Doubles) -> Doubles:
    """Return the angle at the satellite between the line of sight and the centre of the earth, degrees."""
    place = orbit.position(time)
    sight = point - place
    cosine = -(sight * place).sum(-1) / np.linalg.norm(sight, axis=-1) / np.linalg.norm(place, axis=-1)
    return np.asarray(np.degrees(np.arccos(cosine)))


def compute_slant_range(incidence_deg: float) -> float:
    """Return the slant range at which a sphere is seen under an incidence angle, metres; near that of the ellipsoid."""
    angle = np.radians(incidence_deg)
    look = np.arcsin(6_371_000.0 * np.sin(angle) / RADIUS_M)
    return float(6_371_000.0 * np.sin(angle - look) / np.sin(look))


@lru_cache(maxsize=64)
def find_orbit(latitude: float, longitude: float, *, ascending: bool, slant_range_m: float) -> Orbit:
    """Return the orbit from which a place is seen at time 0 at a slant range, by Newton's method on the two angles.

    Args:
        latitude: degrees, within the 75 degrees that the orbit sees on both passes.
        longitude: degrees.
        ascending: whether the satellite flies north.
        slant_range_m: distance of the place.
    """
    start = float(np.arcsin(np.clip(np.sin(np.radians(latitude)) / np.sin(_INCLINATION), -0.99, 0.99)))
    argument = start if ascending else np.pi - start
    sub = convert_to_geodetic(Orbit(argument, 0.0).position(0.0))
    angles = np.array([argument, np.radians(longitude - float(sub[1]))])
    wanted = np.array([latitude, longitude])

    def miss(values: Doubles) -> Doubles:
        seen = convert_to_geodetic(locate_ground_point(Orbit(float(values[0]), float(values[1])), 0.0, slant_range_m))
        difference = np.array([float(seen[0]), float(seen[1])]) - wanted
        difference[1] = (difference[1] + 180.0) % 360.0 - 180.0
        return np.asarray(difference, dtype=np.float64)

    for _ in range(12):
        now = miss(angles)
        step = 1e-6
        jacobian = np.stack([(miss(angles + step * unit) - now) / step for unit in np.eye(2)], axis=1)
        angles = angles - np.linalg.solve(jacobian, now)
    return Orbit(float(angles[0]), float(angles[1]))

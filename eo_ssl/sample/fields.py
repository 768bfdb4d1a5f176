"""Random fields on a grid: smooth noise, fractal relief, parcels, and the blur of an instrument."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


def draw_smooth_noise(rng: np.random.Generator, size_px: int, *, scale_px: float) -> Floats:
    """Return Gaussian noise blurred by a Gaussian of ``scale_px``, [y, x] float32, mean 0 and standard deviation 1."""
    frequency = _frequency(size_px)
    return _shaped(rng, size_px, np.exp(-2 * (np.pi * scale_px * frequency) ** 2))


def draw_fractal(rng: np.random.Generator, size_px: int, *, slope: float, finest_px: float = 2.0) -> Floats:
    """Return noise whose amplitude falls as frequency^-slope (relief, clouds), [y, x] float32, mean 0 and deviation 1.

    Details below ``finest_px`` are damped, and so is anything longer than half the grid, or one blob would rule the
    picture.
    """
    frequency = np.maximum(_frequency(size_px), 1.0 / size_px)
    amplitude = np.maximum(frequency, 2.0 / size_px) ** -slope * np.exp(-((frequency * finest_px) ** 2))
    return _shaped(rng, size_px, amplitude)


def _frequency(size_px: int) -> npt.NDArray[np.float64]:
    return np.asarray(np.hypot(np.fft.fftfreq(size_px)[:, None], np.fft.rfftfreq(size_px)[None, :]))


def _shaped(rng: np.random.Generator, size_px: int, amplitude: npt.NDArray[np.float64]) -> Floats:
    white = np.fft.rfft2(rng.standard_normal((size_px, size_px)))
    amplitude = amplitude.copy()
    amplitude[0, 0] = 0.0  # no mean
    field = np.fft.irfft2(white * amplitude, s=(size_px, size_px))
    return np.asarray(field / field.std(), dtype=np.float32)


def draw_parcels(rng: np.random.Generator, size_px: int, *, length_px: float, width_px: float) -> Ints:
    """Return which parcel each pixel belongs to: the cells of a jittered, turned grid, [y, x] int32 from 0.

    Each pixel goes to the nearest of the points near it (a Voronoi partition of a jittered lattice), so that borders
    are straight and no two parcels are alike.
    """
    angle = rng.uniform(0.0, np.pi)
    y, x = np.mgrid[0:size_px, 0:size_px].astype(np.float32)
    u = (x * np.cos(angle) + y * np.sin(angle)) / length_px
    v = (y * np.cos(angle) - x * np.sin(angle)) / width_px
    u, v = u - u.min() + 1.0, v - v.min() + 1.0
    rows, columns = int(v.max()) + 3, int(u.max()) + 3
    jitter = rng.uniform(0.15, 0.85, size=(2, rows, columns)).astype(np.float32)
    row, column = v.astype(np.int32), u.astype(np.int32)
    best = np.full((size_px, size_px), np.inf, dtype=np.float32)
    owner = np.zeros((size_px, size_px), dtype=np.int32)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            r, c = row + down, column + right
            # The longer side counts in its own unit, which keeps parcels oblong.
            distance = np.maximum(np.abs(v - r - jitter[0, r, c]), np.abs(u - c - jitter[1, r, c]))
            nearer = distance < best
            best[nearer] = distance[nearer]
            owner[nearer] = (r * columns + c)[nearer]
    return np.unique(owner, return_inverse=True)[1].reshape(size_px, size_px).astype(np.int32)


def blur(image: Floats, *, centre: float = 0.7) -> Floats:
    """Return ``image`` [y, x] seen through a 3 x 3 separable point spread that keeps ``centre`` of the light per axis.

    Its weights sum to 1: a uniform area stays as it is and only borders mix.
    """
    side = (1.0 - centre) / 2.0
    for axis in (0, 1):
        before = np.take(image, [0], axis=axis)
        after = np.take(image, [-1], axis=axis)
        padded = np.concatenate([before, image, after], axis=axis)
        length = image.shape[axis]
        left, right = (padded.take(range(start, start + length), axis=axis) for start in (0, 2))
        image = centre * image + side * (left + right)
    return image.astype(np.float32)


def average_blocks(image: npt.NDArray[np.generic], factor: int) -> Floats:
    """Return the mean of each ``factor`` x ``factor`` block of ``image`` [y, x], float32 [y / factor, x / factor]."""
    height, width = image.shape
    blocks = image.astype(np.float32).reshape(height // factor, factor, width // factor, factor)
    return np.asarray(blocks.mean(axis=(1, 3)), dtype=np.float32)


def repeat_pixels(image: npt.NDArray[np.generic], factor: int) -> npt.NDArray[np.generic]:
    """Return ``image`` [y, x] with every pixel repeated ``factor`` x ``factor`` times."""
    return np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)

"""Empirical random features: TorchGeo's filters for the same seed, ZCA twice by eigenvectors, and patches of training images only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchgeo.datasets import NonGeoDataset
from torchgeo.models import RCF

from eo_ssl.encoder import EmpiricalFeatures, RandomFeatures, draw_patches, load_encoder
from eo_ssl.errors import UserError
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import Quantity


def contract(bands: int = 4) -> Preprocessing:
    toa = Quantity.TOA_REFLECTANCE
    names = ("B02", "B03", "B04", "B08")[:bands]
    return Preprocessing(
        sensor="sentinel2_l1c",
        quantity=toa,
        bands=names,
        convert=(),
        range=toa.plausible,
        clip=None,
        mean=(0.1,) * bands,
        std=(0.1,) * bands,
        size_px=20,
        gsd_m=(10.0, 10.0),
        resize="to_size",
        interpolation="bilinear",
        antialias=True,
        missing="refuse",
    )


def textures(n: int = 30, bands: int = 4) -> Tensor:
    """Smooth images, so that patches share directions and whitening has something to do."""
    rng = torch.Generator().manual_seed(2)
    return torch.nn.functional.avg_pool2d(torch.randn(n, bands, 24, 26, generator=rng), 5, stride=1) * 2


class InMemory(NonGeoDataset):
    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index]}


def test_filters_and_features_equal_torchgeos_for_the_same_seed() -> None:
    images = textures()
    theirs = RCF(
        in_channels=4, features=128, kernel_size=3, bias=-1.0, seed=5, mode="empirical", dataset=InMemory(images)
    )
    ours = EmpiricalFeatures.fit(contract(), images, features=128, seed=5)
    # TorchGeo whitens in float32 by general eigenvectors; the covariance's condition is about 1 / 1e-3.
    torch.testing.assert_close(ours.weights, theirs.weights, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(ours.features(images), theirs(images), rtol=1e-2, atol=1e-2)
    assert float(theirs(images).abs().max()) > 1  # far above the tolerance


def test_filters_equal_those_of_eigenvectors_in_double_precision() -> None:
    images = textures()
    index, top, left = (t.tolist() for t in draw_patches(30, height=20, width=22, bands=4, features=64, seed=9))
    patches = np.stack(
        [images[i, :, y : y + 3, x : x + 3].numpy().ravel() for i, y, x in zip(index, top, left, strict=True)]
    )
    p = patches.astype(np.float64) - patches.mean(axis=1, keepdims=True, dtype=np.float64)
    p /= np.linalg.norm(p, axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(p.T @ p / len(p))
    w = vectors @ np.diag((values + 1e-3) ** -0.5) @ vectors.T
    ours = EmpiricalFeatures.fit(contract(), images, features=64, seed=9)
    np.testing.assert_allclose(ours.weights.numpy(), (p @ w @ w.T).reshape(32, 4, 3, 3), rtol=1e-4, atol=1e-4)


def test_whitened_responses_are_uncorrelated_where_the_patches_were_not() -> None:
    images = textures(400)
    places = draw_patches(400, height=20, width=22, bands=4, features=512, seed=1)
    cut = zip(*(place.tolist() for place in places), strict=True)
    p = torch.stack([images[i, :, y : y + 3, x : x + 3].flatten() for i, y, x in cut]).double()
    p = p - p.mean(dim=1, keepdim=True)
    p = p / p.norm(dim=1, keepdim=True)
    before = torch.linalg.eigvalsh(p.T @ p / len(p))
    filters = EmpiricalFeatures.fit(contract(), images, features=512, seed=1).weights.flatten(1).double()
    after = torch.linalg.eigvals(filters.T @ p / len(p)).real.sort().values
    torch.testing.assert_close(after, before / (before + 1e-3), rtol=1e-3, atol=1e-4)  # the closed form
    assert (
        float(before[-1] / before[1]) > 100 and float(after[-1] / after[1]) < 4
    )  # the mean's direction, before[0], is empty


def test_flat_patches_give_no_filter_and_no_noise() -> None:
    ours = EmpiricalFeatures.fit(contract(), torch.full((3, 4, 20, 20), 0.3), features=16)
    assert float(ours.weights.abs().max()) < 1e-3
    assert torch.isfinite(ours.features(torch.randn(2, 4, 20, 20))).all()


def test_seed_and_images_decide_the_encoder() -> None:
    images = textures()
    prints = {
        load_encoder("rcf_zca", preprocessing=contract(), images=data, seed=seed).fingerprint
        for data, seed in ((images, 0), (images, 0), (images, 1), (images.flip(0), 0))
    }
    assert len(prints) == 3
    encoder = load_encoder("rcf_zca", preprocessing=contract(), images=images)
    assert encoder.dim == 512 and encoder.provenance == {"weights": "training patches", "seed": 0, "patches": 256}
    x = textures(4)
    torch.testing.assert_close(encoder.tokens(x).mean(dim=1), encoder.features(x), rtol=1e-4, atol=1e-4)


def test_places_alone_serve_a_reader_that_holds_no_training_set() -> None:
    images = textures()
    index, top, left = draw_patches(30, height=20, width=22, bands=4, seed=3)
    patches = torch.stack([images[i, :, y : y + 3, x : x + 3] for i, y, x in zip(index, top, left, strict=True)])
    assert (
        EmpiricalFeatures(contract(), patches, seed=3).fingerprint
        == EmpiricalFeatures.fit(contract(), images, seed=3).fingerprint
    )


def test_gaussian_and_empirical_features_differ_by_their_filters_only() -> None:
    images = textures()
    gaussian = RandomFeatures(contract(), features=64)
    empirical = EmpiricalFeatures.fit(contract(), images, features=64)
    gaussian.weights = empirical.weights
    assert torch.equal(gaussian.features(images), empirical.features(images))
    assert gaussian.fingerprint != empirical.fingerprint


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"expected training images for rcf_zca, got none; .*\(images=\)"):
        load_encoder("rcf_zca", preprocessing=contract())
    with pytest.raises(UserError, match="expected a preprocessing contract for the weight-free encoder rcf_zca"):
        load_encoder("rcf_zca")
    with pytest.raises(UserError, match="more than 3 px to cut patches from, got 5 of 3 x 20 px"):
        EmpiricalFeatures.fit(contract(), torch.zeros(5, 4, 3, 20))
    with pytest.raises(UserError, match=r"expected patches \[F, 4, 3, 3\]"):
        EmpiricalFeatures.fit(contract(), textures(bands=3))
    with pytest.raises(UserError, match="even number"):
        EmpiricalFeatures.fit(contract(), textures(), features=7)
    with pytest.raises(UserError, match=r"expected training images \[n, C, H, W\]"):
        EmpiricalFeatures.fit(contract(), torch.zeros(0, 4, 20, 20))

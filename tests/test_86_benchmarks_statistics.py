"""The statistics that cards quote from TorchGeo are TorchGeo's, band by band."""

from __future__ import annotations

import numpy as np
import pytest

from eo_ssl.cards import load_card


def torchgeo_numbers(name: str) -> tuple[list[float], list[float]]:
    from torchgeo.datamodules import RESISC45DataModule, So2SatDataModule
    from torchgeo.datamodules.eurosat import SPATIAL_MEAN, SPATIAL_STD
    from torchgeo.datasets import So2Sat

    if name == "eurosat_spatial":
        bands = load_card(name).bands
        return [SPATIAL_MEAN[band] for band in bands], [SPATIAL_STD[band] for band in bands]
    if name == "resisc45":
        return RESISC45DataModule.mean.tolist(), RESISC45DataModule.std.tolist()
    places = {
        "so2sat_s2": [So2Sat.all_band_names.index(f"S2_{band}") for band in load_card("so2sat_s2").bands],
        "so2sat_s1": [4, 5],
    }[name]
    mean, std = So2SatDataModule.means_per_version["3_random"], So2SatDataModule.stds_per_version["3_random"]
    return mean[places].tolist(), std[places].tolist()


@pytest.mark.parametrize("name", ["eurosat_spatial", "so2sat_s2", "so2sat_s1", "resisc45"])
def test_quoted_statistics_are_torchgeos(name: str) -> None:
    card = load_card(name)
    assert card.statistics is not None and card.statistics.unit in ("dn", card.quantity.value)
    mean, std = torchgeo_numbers(name)
    np.testing.assert_allclose(card.statistics.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(card.statistics.std, std, rtol=1e-5)

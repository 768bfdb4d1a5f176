"""An encoder of two sensors on BigEarthNet and So2Sat, from folders in their layout: what arrives is what the contracts say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import torch

from eo_ssl.cli import main
from eo_ssl.encoder import FusedEncoder, load_fused_encoder
from eo_ssl.manifest import require
from two_sensors import ALIBI, BEN_BANDS, SHALLOW, for_bigearthnet, for_so2sat, make_fused
from worlds.benchmarks import make_bigearthnet_v2, make_so2sat

Shown = list[tuple[torch.Tensor, torch.Tensor]]
MODEL = dataclasses.replace(ALIBI, depth=1)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """Every pair of inputs that an encoder of two sensors was given, radar first."""
    found: Shown = []
    inner = FusedEncoder.features

    def record(
        self: FusedEncoder, radar: torch.Tensor, optical: torch.Tensor, **told: torch.Tensor | None
    ) -> torch.Tensor:
        assert all(bool(told[f"{sensor}_valid"].all()) for sensor in ("radar", "optical"))
        assert told["radar_metadata"] is told["optical_metadata"] is None
        found.append((radar.clone(), optical.clone()))
        return inner(self, radar, optical, **told)

    monkeypatch.setattr(FusedEncoder, "features", record)
    return found


def level(number: int, band: str) -> float:
    """Reflectance, or backscatter in dB, that a band of an image holds everywhere."""
    if band in ("VV", "VH"):
        return (-9.5 if band == "VV" else -16.25) - 0.375 * number
    return 0.05 + 0.01 * BEN_BANDS.index(band) + 0.0007 * number


@pytest.fixture(scope="module")
def bigearthnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six patches in the layout of BigEarthNet v2, whose files hold one number each."""
    root = make_bigearthnet_v2(tmp_path_factory.mktemp("benchmarks") / "ben", patches=6)
    table = pq.read_table(root / "metadata.parquet")
    for column in ("patch_id", "s1_name"):
        for number, name in enumerate(table[column].to_pylist()):
            for path in root.glob(f"BigEarthNet-S?/*/{name}/*.tif"):
                band = path.stem.rpartition("_")[2]
                value = level(number, band) if column == "s1_name" else round(10_000 * level(number, band))
                with rasterio.open(path, "r+") as file:
                    file.write(np.full(file.shape, value, dtype=file.dtypes[0]), 1)
    return root


def test_bigearthnet_reaches_both_encoders_in_the_units_of_their_contracts(
    bigearthnet: Path, shown: Shown, tmp_path: Path
) -> None:
    contracts = for_bigearthnet()
    for stream, one in contracts.items():  # files hold the bands in another order
        contracts[stream] = dataclasses.replace(
            one, **{field: getattr(one, field)[::-1] for field in ("bands", "mean", "std")}
        )
    folder = make_fused(tmp_path / "croma", contracts, model=MODEL, method=SHALLOW)
    options = ["--task", "bigearthnet_v2", "--data", str(bigearthnet), "--protocols", "[knn5]"]
    both = [*options, "--encoders", str(folder), "--variant", "both", "--out", str(tmp_path / "both")]
    assert main(["evaluate", *both, "--batch_size", "4"]) == 0
    radar, optical = (torch.cat(parts) for parts in zip(*shown, strict=True))
    assert radar.shape == (6, 2, 24, 24) and optical.shape == (6, 12, 24, 24)
    for image, contract in ((radar, contracts["s1"]), (optical, contracts["s2"])):
        wanted = [
            [
                (level(number, band) - mean) / std
                for band, mean, std in zip(contract.bands, contract.mean, contract.std, strict=True)
            ]
            for number in range(6)
        ]
        expected = torch.tensor(wanted)[..., None, None].expand_as(image)
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-3)
    (row,) = [json.loads(path.read_text()) for path in (tmp_path / "both" / "rows").glob("*.json")]
    fused = load_fused_encoder(folder)
    assert row["encoder"] == "croma" and row["encoder_fingerprint"] == row["weights"] == fused.fingerprint
    assert row["quantity"] == "boa_reflectance and sigma0_db" and row["n_test"] == 1
    assert row["bands"] == [*contracts["s2"].bands, "VH", "VV"] and "joint tokens of two sensors" in row["notes"]
    assert require(tmp_path / "both", "evaluate").inputs["croma"] == require(folder, "pretrain").fingerprint
    for variant in ("s1", "s2"):
        alone = [*options, "--encoders", str(folder / variant), "--variant", variant]
        assert main(["evaluate", *alone, "--out", str(tmp_path / variant)]) == 0
        (row,) = [json.loads(path.read_text()) for path in (tmp_path / variant / "rows").glob("*.json")]
        assert row["encoder"] == variant and row["bands"] == list(contracts[variant].bands)
    page = tmp_path / "page"
    assert main(["report", "--inputs", f"[{tmp_path / 'both'}, {folder}]", "--out", str(page)]) == 0
    text = (page / "index.html").read_text()
    assert f"croma</dt><dd>croma · <code>{fused.fingerprint}" in text  # what was judged is the run in this report
    for words in ("surface reflectance and sigma0_db", "B02, B01, VH, VV", "joint tokens of two sensors"):
        assert words in text, words


def test_so2sat_reaches_both_encoders_as_torchgeo_reads_it(shown: Shown, tmp_path: Path) -> None:
    from torchgeo.datasets import So2Sat

    root = make_so2sat(tmp_path / "so2sat")
    for part in ("training", "testing"):
        with h5py.File(root / "random" / f"{part}.h5", "r+") as file:  # all channels of sen1 tell themselves apart
            x = file["sen1"]
            x[...] = np.broadcast_to(
                0.01 * (1 + np.arange(8)) * (1 + 0.05 * np.arange(len(x))[:, None, None, None]), x.shape
            )
    contracts = for_so2sat()
    folder = make_fused(tmp_path / "croma", contracts, model=MODEL, method=SHALLOW)
    options = ["--task", "so2sat", "--data", str(root), "--protocols", "[knn5]", "--encoders", str(folder)]
    assert main(["evaluate", *options, "--variant", "random-both", "--out", str(tmp_path / "results")]) == 0
    radar, optical = (torch.cat(parts) for parts in zip(*shown, strict=True))
    bands = [f"S2_{band}" for band in contracts["s2"].bands]
    # S1_B5 and S1_B6 are the intensities of VH and VV after the refined Lee filter, in linear power
    theirs = [
        So2Sat(str(root), version="3_random", split=split, bands=["S1_B5", "S1_B6", *bands], checksum=False)
        for split in ("train", "test")
    ]
    images = torch.stack([dataset[i]["image"] for dataset in theirs for i in range(len(dataset))])
    decibel = 10 * torch.log10(images[:, [1, 0]])
    for found, image, contract in ((radar, decibel, contracts["s1"]), (optical, images[:, 2:], contracts["s2"])):
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (contract.mean, contract.std))
        torch.testing.assert_close(found, (image - mean) / std, rtol=0, atol=1e-4)


def test_what_does_not_fit_is_refused_in_a_sentence(
    bigearthnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    power = dataclasses.replace(for_so2sat()["s1"], size_px=24)
    folder, other = (
        make_fused(tmp_path / name, {**for_bigearthnet(), **changes}, model=MODEL, method=SHALLOW)
        for name, changes in (("croma", {}), ("power", {"s1": power}))
    )
    options = ["--task", "bigearthnet_v2", "--data", str(bigearthnet), "--out", str(tmp_path / "none")]
    alone = (
        f"name the encoder of one sensor, {folder}/s2 or {folder}/s1, or take the variant of the benchmark with both"
    )
    for encoder, more, words in (
        (folder, ["s2"], f"images of two sensors for croma, got those of sentinel2_l2a in bigearthnet_v2-s2; {alone}"),
        (other, ["both"], "expected sigma0, got sigma0_db; convert the values first"),
        (folder, ["both", "--study", "robustness"], "a task of one sensor for the study robustness"),
        (folder, ["both", "--protocols", "[seg-linear]"], "expected protocols for a multilabel task"),
    ):
        assert main(["evaluate", *options, "--encoders", str(encoder), "--variant", *more]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert words in said, said
    assert not (tmp_path / "none").exists()

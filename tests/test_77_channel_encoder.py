"""An encoder that timm cannot name: stored, asked for a subset of its bands, evaluated, decoded, moved and exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr

from eo_ssl.embedding import SceneSettings
from eo_ssl.embedding.scenes import SceneEmbedder
from eo_ssl.encoder import TrainedEncoder, load_encoder, save_encoder, translate_encoder
from eo_ssl.errors import UserError
from eo_ssl.evaluation.band_subsets import list_band_subsets
from eo_ssl.evaluation.compatibility import check_compatibility
from eo_ssl.evaluation.encoder_candidates import FoldCandidate, TrainedCandidate
from eo_ssl.evaluation.perturbations import list_perturbations
from eo_ssl.evaluation.predictions import Settings
from eo_ssl.evaluation.studies import VariantGrid, expand_study
from eo_ssl.evaluation.tuning.feature_maps import compute_four_maps, compute_last_map, prepare_network_input
from eo_ssl.export import Bundle, Options, export, verify
from eo_ssl.export.encoder_module import MODULE_FILE, run_module
from eo_ssl.export.onnx_graph import PHYSICAL_GRAPH, run_graph
from eo_ssl.models import ChannelVit, Vit, encode_bands
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.pretraining.initial_encoder import InitialEncoder
from eo_ssl.pretraining.training_data import TrainingData
from exported import PROVENANCE, encoder, optical, radar
from planted import BANDS, Images, contract, planted

MODEL = ChannelVit("test_vit", patch_size=8, depth=1, fewest_bands=2)
TWELVE = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
S2 = {"quantity": "toa_reflectance", "sensor": "sentinel2_l1c"}


def ours(model: ChannelVit = MODEL, given: Preprocessing | None = None) -> TrainedEncoder:
    return encoder(model, model.adapt_contract(given or optical(32)), name="channels")


def images(bands: tuple[str, ...] = ("B02", "B03", "B04", "B08")) -> torch.Tensor:
    """Physical values; a corner of the first image is missing."""
    x = 0.2 + 0.05 * torch.randn(3, len(bands), 32, 32, generator=torch.Generator().manual_seed(2))
    x[0, :, :8, :16] = torch.nan
    return x


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With the graph from physical values."""
    return export(
        ours(), tmp_path_factory.mktemp("channels") / "bundle", options=Options(onnx=False, onnx_preprocessing=True)
    )


def test_its_contract_says_what_it_takes_and_others_are_as_before() -> None:
    made = ours().preprocessing
    assert (made.missing, made.fewest_bands) == ("any_subset", 2) and Preprocessing.from_json(made.to_json()) == made
    assert replace(MODEL, band_dropout=False).adapt_contract(optical(32)) == optical(32)
    assert "fewest_bands" not in optical(32).to_json() and Preprocessing.from_json(optical().to_json()) == optical()
    with pytest.raises(UserError, match="complete preprocessing contract, got one without fewest_bands"):
        Preprocessing.from_json({key: value for key, value in made.to_json().items() if key != "fewest_bands"})
    for wrong in ({"fewest_bands": 5, "missing": "any_subset"}, {"fewest_bands": 2}):
        with pytest.raises(UserError, match="expected fewest_bands of 1"):
            replace(optical(32), **wrong)
    names = {one.name: one for one in list_perturbations(planted(np.random.default_rng(0)).sources[0], made)}
    assert names["without B03"].contract is None and "left out" in names["without B03"].about


def test_training_that_goes_on_from_it_keeps_what_it_takes(tmp_path: Path) -> None:
    save_encoder(tmp_path, ours().backbone, preprocessing=ours().preprocessing, provenance=PROVENANCE)
    items, rows = SimpleNamespace(contracts={"tile": optical(32)}), np.arange(4)
    data = TrainingData(items, rows, rows, rows, {}, 0, rows, [])  # type: ignore[arg-type]
    InitialEncoder.of(tmp_path / "encoder.safetensors", model=Vit()).take_over(data)
    assert (items.contracts["tile"].missing, items.contracts["tile"].fewest_bands) == ("any_subset", 2)


def test_it_is_saved_with_its_contract_and_takes_any_subset_above_the_tested_minimum(tmp_path: Path) -> None:
    trained, x = ours(), images()
    save_encoder(tmp_path / "e", trained.backbone, preprocessing=trained.preprocessing, provenance=PROVENANCE)
    back = load_encoder(tmp_path / "e" / "encoder.safetensors")
    assert back.fingerprint == trained.fingerprint and back.preprocessing == trained.preprocessing
    assert torch.equal(
        back(x, bands=("B02", "B03", "B04", "B08"), **S2), trained(x, bands=("B02", "B03", "B04", "B08"), **S2)
    )
    some = back(x[:, [2, 0]], bands=("B04", "B02"), **S2)
    marked = x.clone()
    marked[:, [1, 3]] = torch.nan
    torch.testing.assert_close(some, back(marked, bands=("B02", "B03", "B04", "B08"), **S2))
    moved = translate_encoder(back, sensor="sentinel2_l1c", bands=("B04", "B02"))  # the network of these bands alone
    torch.testing.assert_close(some, moved(x[:, [2, 0]], bands=("B04", "B02"), **S2), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match=r"at least 2 of the bands .*without B03, B04, B08; add some, fewer were never"):
        back(x[:, :1], bands=("B02",), **S2)
    with pytest.raises(UserError, match="name the channels"):
        back(x[:, :1], bands=("other",), **S2)
    empty = back(torch.full((1, 4, 32, 32), torch.nan), bands=("B02", "B03", "B04", "B08"), **S2)
    assert not empty.any()  # the mean of no patches


def test_features_of_a_subset_are_evaluated(tmp_path: Path) -> None:
    task = planted(np.random.default_rng(1), n=24)
    trained = ours(given=contract())
    source = task.sources[0]
    fewer = replace(task, sources=(Images(source.x[:, [3, 1]], bands=("B08", "B03")),))
    (x,) = TrainedCandidate("channels", trained).features(fewer)
    wanted = trained(torch.from_numpy(source.x[:, [3, 1]]), bands=("B08", "B03"), **S2)
    np.testing.assert_allclose(x, wanted.numpy(), rtol=1e-5, atol=1e-5)
    drawn = FoldCandidate("random_init", 0, trained, origin="random_init").encoder(task, task.folds[0])
    assert type(drawn.architecture.model) is ChannelVit and drawn.architecture.sensor == "sentinel2_l1c"


def test_scenes_without_a_band_are_embedded_without_it() -> None:
    trained, x = ours(), images()
    attrs = {"sensor": "sentinel2_l1c", "quantity": "toa_reflectance", "product_id": "x"}
    cube = xr.Dataset({"image": (("band", "y", "x"), x[0, [0, 3]].numpy())}, {"band": ["B02", "B08"]}, attrs)
    scene = SceneEmbedder(trained, cube, settings=SceneSettings())
    got = scene.tokens(x[:1, [0, 3]].numpy())
    prepared, valid = trained.preprocessing(x[:1, [0, 3]], bands=("B02", "B08"), **S2)
    wanted = trained.tokens(prepared, valid=valid)
    np.testing.assert_allclose(got.reshape(1, 16, -1), wanted.detach().numpy(), rtol=1e-4, atol=1e-4)
    assert (wanted - trained.tokens(prepared)).abs().max() > 0.01  # the mean in its place is something else


def test_encoders_are_compared_with_some_of_the_bands_alone() -> None:
    task = planted(np.random.default_rng(1), n=24)
    source = task.sources[0]
    plain = TrainedEncoder(Vit("test_vit", patch_size=8, depth=1).build(BANDS, 16, 0), contract(), name="plain")
    compared = [
        TrainedCandidate("channels", ours(given=contract())),
        TrainedCandidate("plain", plain),
        FoldCandidate("imagestats", 0, origin="imagestats"),
    ]
    studied = expand_study(compared, task, "bands", grid=VariantGrid(), seed=0, subsets=["B08,B03", "all-B02"])
    names = ["channels", "channels | B08 B03", "channels | without B02"]
    assert [one.name for one in studied[:3]] == names and len(studied) == 9
    two = torch.from_numpy(source.x[:, [1, 3]])
    (x,), (filled,), (statistics,) = (studied[place].features(task) for place in (1, 4, 7))
    np.testing.assert_allclose(x, compared[0].trained(two, bands=("B03", "B08"), **S2).numpy(), rtol=1e-5, atol=1e-5)
    mean = plain.with_preprocessing(replace(plain.preprocessing, missing="fill_mean"))
    np.testing.assert_allclose(filled, mean(two, bands=("B03", "B08"), **S2).numpy(), rtol=1e-5, atol=1e-5)
    assert statistics.shape[1] * 2 == compared[2].features(task)[0].shape[1]  # made for these bands
    said = [studied[place].describe(task) for place in (1, 4, 7)]
    assert [one.bands for one in said] == [("B03", "B08")] * 3 and len({one.fingerprint for one in said}) == 3
    assert said[1].notes[0].endswith("the others filled with their training mean") and "no others" in said[0].notes[0]
    settings = Settings.of(["knn5"], kind="classification", tuning=None, shots=(0,), fractions=(), draws=1, seed=0)
    with pytest.raises(UserError, match=r"at least 2 of the bands .* for channels, got B08; leave that subset out"):
        one = expand_study(compared[:1], task, "bands", grid=VariantGrid(), seed=0, subsets=["B08"])
        check_compatibility(task, one, settings)
    for wrong in ("B12", "B02,B03,B04,B08", "all-B02,B03,B04,B08"):
        with pytest.raises(UserError, match="some of the bands B02, B03, B04, B08 of the task, or all-BAND"):
            expand_study(compared, task, "bands", grid=VariantGrid(), seed=0, subsets=[wrong])
    with pytest.raises(UserError, match="subsets for the study bands alone"):
        expand_study(compared, task, "grid", grid=VariantGrid(), seed=0, subsets=["B08"])
    twelve = Images(np.zeros((1, 12, 2, 2), np.float32), bands=tuple(b for b in TWELVE), sensor="sentinel2_l2a")
    chosen = [" ".join(subset.bands) for subset in list_band_subsets(twelve, None)]
    assert chosen == ["B04 B03 B02", "B02 B03 B04 B08", " ".join(band for band in TWELVE if band != "B8A")]
    sar = Images(np.zeros((1, 2, 2, 2), np.float32), bands=("VV", "VH"), sensor="sentinel1_grd")
    assert [subset.bands for subset in list_band_subsets(sar, None)] == [("VV",), ("VH",)]


def test_its_maps_leave_out_what_is_invalid() -> None:
    trained = ours(replace(MODEL, depth=4))
    x, valid = trained.preprocessing(images(), bands=("B02", "B03", "B04", "B08"), **S2)
    prepared, options = prepare_network_input(trained, x, valid)
    (last,) = compute_last_map(trained.model, prepared, **options).maps
    torch.testing.assert_close(last.flatten(2).transpose(1, 2), trained.tokens(x, valid=valid), rtol=1e-4, atol=1e-4)
    assert len(compute_four_maps(trained.model, prepared, **options).maps) == 4
    torch.testing.assert_close(trained.at_size(48).preprocessing.fewest_bands, 2)


def test_bands_of_another_sensor_are_known_by_their_wavelength(tmp_path: Path) -> None:
    given = MODEL.adapt_contract(optical(32, ("B02", "B04", "B8A", "B12"), mean=(0.1, 0.2, 0.3, 0.4)))
    toa = TrainedEncoder(MODEL.build(given.bands, 32, 1, sensor="sentinel2_l1c"), given, name="channels")
    landsat = translate_encoder(toa, sensor="landsat8_oli")
    made = landsat.preprocessing
    assert made.bands == ("B2", "B4", "B5", "B7") and made.sensor == "landsat8_oli"
    assert (made.mean, made.std) == (toa.preprocessing.mean, toa.preprocessing.std)
    x = images()
    same = landsat(x, bands=("B2", "B4", "B5", "B7"), quantity="toa_reflectance", sensor="landsat8_oli")
    own = toa(x, bands=("B02", "B04", "B8A", "B12"), **S2)
    other = landsat(
        x[:, [3, 1, 0, 2]], bands=("B2", "B4", "B5", "B7"), quantity="toa_reflectance", sensor="landsat8_oli"
    )
    assert 0 < (same - own).norm() < (other - own).norm()
    assert torch.equal(landsat.model.patch_embed.codes, encode_bands("landsat8_oli", made.bands))
    assert "of the nearest bands of sentinel2_l1c" in landsat.provenance["remark"]
    with pytest.raises(
        UserError, match="at least 2 bands of landsat8_oli that the training of channels covers, got B10"
    ):
        translate_encoder(toa, sensor="landsat8_oli", bands=("B2", "B10"))
    with pytest.raises(UserError, match="sensor of toa_reflectance for channels, got sentinel1_grd"):
        translate_encoder(toa, sensor="sentinel1_grd")
    with pytest.raises(UserError, match="a vision transformer; train one with --model ChannelVit"):
        translate_encoder(encoder(Vit("test_vit", patch_size=8, depth=1), optical(32)), sensor="landsat8_oli")
    save_encoder(tmp_path / "e", toa.backbone, preprocessing=toa.preprocessing, provenance=PROVENANCE)
    assert (
        load_encoder(f"{tmp_path / 'e' / 'encoder.safetensors'}?sensor=landsat8_oli").fingerprint == landsat.fingerprint
    )
    plain = TrainedEncoder(Vit("test_vit", patch_size=8, depth=1).build(BANDS, 32, 0), optical(32))
    save_encoder(tmp_path / "p", plain.backbone, preprocessing=plain.preprocessing, provenance=PROVENANCE)
    file = tmp_path / "p" / "encoder.safetensors"
    assert load_encoder(f"{file}?missing=fill_mean").preprocessing.missing == "fill_mean"
    for query, said in (
        ("missing=any_subset", "which does refuse"),
        ("mising=zero", "did you mean 'missing'"),
        ("", "NAME"),
    ):
        with pytest.raises(UserError, match=said):
            load_encoder(f"{file}?{query}")
    with pytest.raises(UserError, match="which does any_subset; leave it out"):
        load_encoder(f"{tmp_path / 'e' / 'encoder.safetensors'}?missing=zero")
    polarised = translate_encoder(
        ours(replace(MODEL, fewest_bands=1), radar(32, sensor="sentinel1_grd")), sensor="sentinel1_rtc"
    )
    assert polarised.preprocessing.bands == ("VV", "VH") and polarised.preprocessing.mean == (-11.0, -18.0)


def test_a_bundle_opens_by_torch_and_onnx_and_says_that_timm_cannot_name_it(bundle: Bundle) -> None:
    checks = verify(bundle.folder)
    assert [check.reason for check in checks if not check.passed] == []
    routes = {check.route for check in checks if "checksums" not in check.route}
    assert routes == {"preprocess.json", "torch.export", "STAC item (MLM)", "onnxruntime onnx/encoder_physical.onnx"}
    assert MODULE_FILE in bundle.files and not any(name.startswith(("timm/", "bench/")) for name in bundle.files)
    card = (bundle.folder / "README.md").read_text()
    assert "library_name: pytorch" in card and "**timm cannot name this network**, a channel transformer" in card
    assert "as long as 2 of them remain" in card and "timm.create_model" not in card
    reason = bundle.manifest.summary["torchgeo_left_out"]
    assert reason.endswith("timm cannot name a channel transformer")


def test_a_bundle_takes_any_subset_too(bundle: Bundle) -> None:
    trained, x = ours(), images()
    wanted = trained(x[:, [0, 3]], bands=("B02", "B08"), **S2)
    x[:, [1, 2]] = torch.nan
    torch.testing.assert_close(run_graph(bundle.folder / PHYSICAL_GRAPH, x), wanted, rtol=1e-4, atol=1e-4)
    prepared, valid = trained.preprocessing(x, bands=("B02", "B03", "B04", "B08"), **S2)
    got = run_module(bundle.folder, prepared.masked_fill(~valid, torch.nan)[:1])
    torch.testing.assert_close(got, wanted[:1], rtol=1e-5, atol=1e-5)

"""`eo-ssl pretrain` on a real corpus: contract, split, subsets, several streams, resume, refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from eo_ssl.cli import main as command_line
from eo_ssl.corpus import Corpus
from eo_ssl.curation import Density, DynamicConfig, DynamicSchedule, Random, Readiness, Stratified
from eo_ssl.encoder import load_encoder, load_location_encoder
from eo_ssl.errors import UserError
from eo_ssl.manifest import require
from eo_ssl.models import ChannelVit, ResNet, SpectralVit, Vit
from eo_ssl.objectives import (
    BarlowTwins,
    Byol,
    Data2Vec,
    Data2Vec2,
    Dcl,
    Dino,
    DinoV2,
    IJepa,
    ISogClr,
    LeJepa,
    Mae,
    MaskFeat,
    MixedBarlowTwins,
    MocoV2,
    MocoV3,
    Pmsn,
    SarIJepa,
    SatMae,
    SatMaePp,
    SimClr,
    Swav,
    VicReg,
)
from eo_ssl.objectives.ratio_gradients import RatioGradients
from eo_ssl.objectives.views import PHYSICAL
from eo_ssl.pretraining import DataSelection, FitConfig, ItemSampler, Pruning, encoder_training, open_training_data
from eo_ssl.sample import ArchiveSpec, make_archive
from eo_ssl.workflows import curate, ingest, pretrain

QUICK = {
    "steps": 6,
    "batch_size": 8,
    "model": Vit(patch_size=8, depth=1),
    "training": FitConfig(log_every=2, monitor_every=3, monitor_tiles=16),
}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, Path]:
    """An optical and a radar corpus of the sample archive, and an optical one with fewer bands in another order."""
    root = tmp_path_factory.mktemp("pretrain")
    make_archive(
        root / "archive",
        seed=1,
        spec=ArchiveSpec(sites=2, dates=1, size_px=192, exact_duplicates=0, near_duplicates=0, reprocessed=0),
    )
    common = {
        "data": root / "archive",
        "size_px": 32,
        "min_valid": 0.5,
        "dask": "synchronous",
        "shares": (0.5, 0.4, 0.1),
    }
    ingest.main("sample_s2_l2a", out=root / "s2", **common)
    ingest.main("sample_s1_rtc", out=root / "s1", **common)
    ingest.main("sample_s2_l2a", out=root / "narrow", bands=["B04", "B03", "B02", "B08"], edge="shift", **common)
    return {name: root / name for name in ("s2", "s1", "narrow")}


def test_the_contract_comes_from_the_training_pixels_and_only_training_rows_are_used(corpora):
    material = open_training_data(DataSelection((corpora["s2"],), bands=("B08", "B04", "B11")))
    corpus = Corpus.open(corpora["s2"])
    (name,) = corpus.streams
    split = np.array(corpus.index(name, columns=["split"])["split"].to_pylist())
    assert np.array_equal(material.pool, np.flatnonzero(split == "train"))
    assert np.array_equal(material.held_out, np.flatnonzero(split == "val")) and len(material.held_out)
    reader = corpus.stream(name)
    pixels = reader.read(material.pool)[:, [reader.stream.bands.index(band) for band in ("B08", "B04", "B11")]]
    np.testing.assert_allclose(
        material.items.contracts["tile"].mean, np.nanmean(pixels.astype(np.float64), axis=(0, 2, 3)), rtol=1e-5
    )
    np.testing.assert_allclose(
        material.items.contracts["tile"].std, np.nanstd(pixels.astype(np.float64), axis=(0, 2, 3)), rtol=1e-4
    )
    everything = open_training_data(DataSelection((corpora["s2"],), split="all"))
    assert len(everything.pool) == len(reader)


def test_streams_of_two_corpora_share_one_contract_pooled_over_their_pixels(corpora):
    bands = ("B02", "B08")
    material = open_training_data(DataSelection((corpora["s2"], corpora["narrow"]), bands=bands))
    assert [len(reader.stream.bands) for reader in material.items.sources["tile"].readers] == [12, 4]
    pixels = [
        np.moveaxis(reader.read(np.arange(len(reader)))[np.isin(np.arange(len(reader)) + offset, material.pool)], 1, 0)[
            [reader.stream.bands.index(band) for band in bands]
        ].reshape(2, -1)
        for reader, offset in zip(
            material.items.sources["tile"].readers, material.items.sources["tile"].offsets[:-1], strict=True
        )
    ]
    joined = np.concatenate(pixels, axis=1).astype(np.float64)
    np.testing.assert_allclose(material.items.contracts["tile"].mean, np.nanmean(joined, axis=1), rtol=1e-5)
    np.testing.assert_allclose(material.items.contracts["tile"].std, np.nanstd(joined, axis=1), rtol=1e-4)


def test_an_encoder_is_trained_signed_and_usable_and_a_second_run_does_nothing(corpora, tmp_path, capsys):
    out = tmp_path / "encoder"
    pretrain.main(corpora["s2"], out, bands=["B02", "B03", "B04"], objective=IJepa(), **QUICK)
    manifest = require(out, "pretrain")
    summary = manifest.summary
    assert (summary["objective"], summary["steps"], summary["presentations"]) == ("IJepa", 6, 48)
    assert 0 <= summary["knn_accuracy"] <= 1 and summary["rankme"] > 1  # the sample archive has labels
    encoder = load_encoder(out)
    assert encoder.fingerprint == manifest.fingerprint
    assert encoder.preprocessing.bands == ("B02", "B03", "B04")
    corpus = Corpus.open(corpora["s2"])
    (name,) = corpus.streams
    reader = corpus.stream(name)
    image, _ = encoder.preprocessing(
        torch.from_numpy(reader.read([0, 1])),
        bands=reader.stream.bands,
        quantity=reader.stream.quantity,
        sensor=reader.stream.sensor,
    )
    assert torch.isfinite(encoder.features(image)).all()
    before = (out / "encoder.safetensors").read_bytes()
    pretrain.main(corpora["s2"], out, bands=["B02", "B03", "B04"], objective=IJepa(), **QUICK)
    assert "nothing to do" in capsys.readouterr().out
    assert (out / "encoder.safetensors").read_bytes() == before
    with pytest.raises(UserError, match=r"differs in config.lr"):
        pretrain.main(corpora["s2"], out, bands=["B02", "B03", "B04"], objective=IJepa(), lr=1e-3, **QUICK)


def test_a_channel_transformer_is_trained_for_any_subset_and_goes_on_as_such(corpora, tmp_path):
    model = ChannelVit("test_vit", patch_size=8, depth=1, fewest_bands=2)
    quick = {**QUICK, "model": model, "steps": 2}
    pretrain.main(corpora["narrow"], tmp_path / "any", objective=Mae(), **quick)
    encoder = load_encoder(tmp_path / "any")
    contract = encoder.preprocessing
    assert (contract.missing, contract.fewest_bands, encoder.architecture.model) == ("any_subset", 2, model)
    (recorded,) = require(tmp_path / "any", "pretrain").config["preprocessing"].values()
    assert recorded["missing"] == "any_subset" and recorded["fewest_bands"] == 2
    tag = {"quantity": contract.quantity, "sensor": contract.sensor}
    x = torch.full((2, 2, 32, 32), 0.1)
    assert torch.isfinite(encoder(x, bands=("B08", "B02"), **tag)).all()
    with pytest.raises(UserError, match="at least 2 of the bands B04, B03, B02, B08 of sentinel2_l2a"):
        encoder(x[:, :1], bands=("B08",), **tag)
    pretrain.main(
        corpora["s2"], tmp_path / "more", init=tmp_path / "any", objective=SimClr(), **{**quick, "model": Vit()}
    )
    assert load_encoder(tmp_path / "more").preprocessing.missing == "any_subset"


def test_power_is_normalised_in_decibel(corpora, tmp_path):
    out = tmp_path / "radar"
    pretrain.main(corpora["s1"], out, objective=Mae(norm="patch"), **QUICK)
    contract = load_encoder(out).preprocessing
    assert contract.convert == ("gamma0->gamma0_db",)
    assert all(-35 < mean < 0 for mean in contract.mean)
    material = open_training_data(DataSelection((corpora["s1"],)))
    rows = material.pool
    image, valid = contract(
        material.items.sources["tile"].read(rows),
        bands=material.items.sources["tile"].bands,
        quantity=material.items.sources["tile"].quantity,
        sensor=material.items.sources["tile"].sensor,
    )
    for band in range(2):
        values = image[:, band][valid[:, band]]
        assert abs(float(values.mean())) < 0.02 and abs(float(values.std()) - 1) < 0.02


def test_the_same_corpus_twice_is_refused_and_two_of_one_name_are_both_recorded(corpora, tmp_path):
    with pytest.raises(UserError, match="expected each corpus once"):
        open_training_data(DataSelection((corpora["s2"], corpora["s2"])))
    (only,) = Corpus.open(corpora["s2"]).streams
    with pytest.raises(UserError, match=r"expected a stream of every corpus, got none of .*s1 in"):
        open_training_data(DataSelection((corpora["s2"], corpora["s1"]), streams=(only,)))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "s2").symlink_to(corpora["narrow"], target_is_directory=True)
    paths = (corpora["s2"], tmp_path / "other" / "s2")
    prints = [Corpus.open(path).fingerprint for path in paths]
    material = open_training_data(DataSelection(paths, bands=("B04",)))
    assert material.inputs == {"corpus s2": prints[0], "corpus s2 (2)": prints[1]}


def test_the_workflow_tells_pruning_which_tiles_are_equal(corpora):
    material = open_training_data(DataSelection((corpora["s2"],)))
    corpus = Corpus.open(corpora["s2"])
    (name,) = corpus.streams
    hashes = corpus.index(name, columns=["pixels_sha256"])["pixels_sha256"].to_pylist()
    assert material.identities.tolist() == [sorted(set(hashes)).index(value) for value in hashes]
    pruning = Pruning.over(material, DynamicSchedule(DynamicConfig(warmup=1, interval=1)))
    context = pruning.context(material.pool)
    assert np.array_equal(context.identities, material.identities[material.pool])
    assert np.array_equal(context.labels, material.classes[material.pool]) and context.corpus_fingerprint


def test_methods_of_one_stream_train_encoders_by_the_command(corpora, tmp_path):
    material = open_training_data(DataSelection((corpora["s1"],)))
    tile = material.items.sources["tile"].read(material.pool[:4]).numpy()
    heads = {"hidden_dim": 16}
    short = {**QUICK, "steps": 2, "training": FitConfig(log_every=1, monitor_every=2, monitor_tiles=8)}
    methods = [Dcl(**heads), BarlowTwins(**heads), MixedBarlowTwins(**heads), VicReg(**heads), Byol(**heads)]
    methods += [MocoV2(**heads), MocoV3(**heads), Dino(**heads, prototypes=32), ISogClr(**heads), LeJepa(**heads)]
    methods += [Swav(**heads, prototypes=32), Pmsn(**heads, prototypes=32), DinoV2(**heads, prototypes=32)]
    methods += [MaskFeat(), Data2Vec(layers=1), Data2Vec2(masks=2, layers=1, decoder_dim=16, decoder_depth=1)]
    methods += [SarIJepa(gradients=RatioGradients(scales=(2,)))]
    for method in methods:
        out = tmp_path / type(method).__name__
        pretrain.main(corpora["s1"], out, objective=method, **short)
        encoder = load_encoder(out)
        said = {"bands": encoder.preprocessing.bands, "quantity": "gamma0", "sensor": encoder.preprocessing.sensor}
        features = encoder(tile, **said).numpy()
        assert np.isfinite(features).all() and features.std(axis=0).min() > 0, out.name
        log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        assert np.isfinite([row["loss"] for row in log if "loss" in row]).all()
        if isinstance(method, MocoV2):
            assert {row["queue"] for row in log if "queue" in row} == {len(material.pool) // 4}


def test_satmae_trains_encoders_over_groups_of_bands_by_the_command(corpora, tmp_path):
    groups = {"groups": (("B02", "B03", "B04"), ("B08",)), "depth": 1}
    short = {**QUICK, "steps": 2, "training": FitConfig(log_every=1, monitor_every=2, monitor_tiles=8)}
    short |= {"model": SpectralVit("test_vit", **groups), "objective": SatMae(decoder_dim=32)}
    finer = {"objective": SatMaePp(decoder_dim=32, scales=1, upsampling_width=1), "views": {"tile": {"size": 2.0}}}
    material = open_training_data(DataSelection((corpora["narrow"],)))
    tile = material.items.sources["tile"].read(material.pool[:4]).numpy()
    for out, other in ((tmp_path / "e", {}), (tmp_path / "pp", finer)):
        pretrain.main(corpora["narrow"], out, **short | other)
        encoder = load_encoder(out)
        bands = encoder.preprocessing.bands
        features = encoder(tile, bands=bands, quantity="boa_reflectance", sensor="sentinel2_l2a").numpy()
        assert np.isfinite(features).all() and features.std(axis=0).min() > 0
    with pytest.raises(
        UserError, match=r"bands of the groups B02 B03 B04 \| B08, got B01, .*; name these with --bands"
    ):
        pretrain.main(corpora["s2"], tmp_path / "other", **short)


def test_places_are_learned_beside_any_objective_and_their_network_is_saved(corpora, tmp_path):
    out = tmp_path / "located"
    arguments = ["--objective", "SimClr", "--model.depth", "1", "--steps", "3", "--batch_size", "8"]
    places = ["--location.weight", "0.5", "--location.model.output_dim", "16"]
    assert command_line(["pretrain", "--corpus", str(corpora["s1"]), "--out", str(out), *arguments, *places]) == 0
    manifest = require(out, "pretrain")
    assert manifest.config["location"]["weight"] == 0.5 and "location.safetensors" in manifest.files
    assert load_encoder(out).dim == 192
    vectors = load_location_encoder(out).embed([[11.6, 48.1], [11.6, 48.2], [np.nan, 3]])
    assert vectors.shape == (3, 16) and np.isfinite(vectors[:2]).all() and np.isnan(vectors[2]).all()
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["location"]) for row in log if "loss" in row)
    whole = (out / "location.safetensors").read_bytes()
    for damaged in (whole[:-5], whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:], whole[:3]):
        (tmp_path / "l.safetensors").write_bytes(damaged)
        with pytest.raises(UserError, match=r"l\.safetensors"):
            load_location_encoder(tmp_path / "l.safetensors")
    with pytest.raises(UserError, match=r"expected a location encoder at .*, got none"):
        load_location_encoder(corpora["s1"])


def test_training_goes_on_from_an_encoder_under_its_contract(corpora, tmp_path):
    first, out = tmp_path / "first", tmp_path / "second"
    pretrain.main(corpora["narrow"], first, bands=["B04", "B03", "B08"], **QUICK)
    rest = {key: value for key, value in QUICK.items() if key not in ("steps", "model")}
    pretrain.main(corpora["s2"], out, init=first, objective=SimClr(), steps=1, lr=1e-12, **rest)
    before, after = load_encoder(first), load_encoder(out)
    assert after.preprocessing.bands == ("B04", "B03", "B08")  # found by name in a stream of twelve
    assert (after.preprocessing.mean, after.preprocessing.std) == (before.preprocessing.mean, before.preprocessing.std)
    assert after.architecture == before.architecture
    moved = [
        (new - old).abs().max()
        for new, old in zip(after.model.state_dict().values(), before.model.state_dict().values(), strict=True)
    ]
    assert 0 < max(moved) < 1e-9  # a step of next to nothing from the weights of the first, all of which are trained
    trained = {name for name, parameter in after.model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in before.model.named_parameters() if parameter.requires_grad}
    manifest = require(out, "pretrain")
    assert manifest.inputs["encoder first"] == manifest.config["init"]["fingerprint"] == before.fingerprint
    assert "init" not in require(first, "pretrain").config
    for arguments, words in (
        (
            {"corpus": corpora["s1"]},
            "expected data of sensor sentinel2_l2a, as .*first was trained on, got sentinel1_rtc",
        ),
        ({"bands": ["B04"]}, "expected the bands B04, B03, B08 of .*first, got B04; leave out --bands"),
        ({"model": ResNet("resnet18")}, "expected the architecture of .*first"),
        ({"init": tmp_path / "absent"}, "absent"),
        ({"init": Path("imagestats")}, "weight-free encoder imagestats"),
    ):
        with pytest.raises(UserError, match=words):
            pretrain.main(**{"corpus": corpora["s2"], "init": first, "out": tmp_path / "no", **rest, **arguments})
    assert not (tmp_path / "no").exists()


def test_a_subset_limits_the_pool_and_one_of_another_corpus_is_refused(corpora, tmp_path):
    curate.main(corpora["s2"], tmp_path / "subset", keep=0.5, method=Random())
    material = open_training_data(DataSelection((corpora["s2"],), subsets=(tmp_path / "subset",)))
    kept = pq.read_table(tmp_path / "subset" / "subset.parquet")["row"].to_numpy()
    assert np.array_equal(material.pool, np.sort(kept)) and set(material.inputs) == {"corpus s2", "subset subset"}
    joined = open_training_data(
        DataSelection((corpora["narrow"], corpora["s2"]), bands=("B02",), subsets=(tmp_path / "subset",))
    )
    offset = joined.items.sources["tile"].offsets[1]
    assert np.array_equal(joined.pool[joined.pool >= offset] - offset, np.sort(kept))
    assert (joined.pool < offset).any()  # the stream without a subset is used whole
    with pytest.raises(UserError, match=r"to be made of one of the corpora .*s1, got one of another corpus"):
        open_training_data(DataSelection((corpora["s1"],), subsets=(tmp_path / "subset",)))
    curate.main(corpora["s2"], tmp_path / "everything", keep=0.9, method=Random(), split="all", duplicates="keep")
    with pytest.raises(UserError, match="rows of the training split in the subset"):
        open_training_data(DataSelection((corpora["s2"],), subsets=(tmp_path / "everything",)))


def test_weights_of_a_subset_reach_the_draws(corpora, tmp_path, monkeypatch):
    """From the table that `curate` writes to the rows of every batch, beside a stream that is used whole."""
    curate.main(corpora["s2"], tmp_path / "subset", keep=0.4, method=Density(neighbour=1), split="train")
    table = pq.read_table(tmp_path / "subset" / "subset.parquet")
    weights = dict(zip(table["row"].to_pylist(), table["weight"].to_pylist(), strict=True))
    assert np.mean(list(weights.values())) == pytest.approx(1, abs=1e-6) and max(weights.values()) > 1.5
    material = open_training_data(DataSelection((corpora["s2"],), subsets=(tmp_path / "subset",)))
    assert np.array_equal(material.pool, sorted(weights)) and len(material.pool) == len(weights)
    assert material.weights.tolist() == [weights[row] for row in material.pool.tolist()]
    joined = open_training_data(
        DataSelection((corpora["narrow"], corpora["s2"]), bands=("B02",), subsets=(tmp_path / "subset",))
    )
    offset = joined.items.sources["tile"].offsets[1]
    assert (joined.weights[joined.pool < offset] == 1).all()
    assert np.array_equal(joined.weights[joined.pool >= offset], material.weights)
    options = {"corpus": corpora["s2"], "subset": tmp_path / "subset", **QUICK, "batch_size": 4}
    made: list[ItemSampler] = []
    real = encoder_training.ItemSampler
    monkeypatch.setattr(encoder_training, "ItemSampler", lambda *a, **k: made.append(real(*a, **k)) or made[-1])
    pretrain.main(out=tmp_path / "encoder", **options)
    np.testing.assert_allclose(made[0].weights, material.weights / material.weights.mean(), rtol=1e-6)
    # A flipped weight is another subset.
    changed = table.set_column(1, "weight", pa.array(np.roll(table["weight"].to_numpy(), 1)))
    pq.write_table(changed, tmp_path / "subset" / "subset.parquet")
    with pytest.raises(UserError, match=r"subset\.parquet"):
        open_training_data(DataSelection((corpora["s2"],), subsets=(tmp_path / "subset",)))


def test_refusals_by_name_leave_nothing_behind(corpora, tmp_path):
    (name,) = Corpus.open(corpora["s2"]).streams
    out = tmp_path / "encoder"
    for arguments, words in (
        ({"streams": [name[:-1]]}, f"got '{name[:-1]}'; did you mean '{name}'"),
        ({"bands": ["B02", "B10"]}, "B10"),
        ({"batch_size": 100_000}, "expected at least one batch of 100000 tiles"),
        ({"model": Vit(patch_size=7)}, "patch 7 and image 32; choose a divisor"),
        ({"lr": -1.0}, "expected lr > 0"),
    ):
        with pytest.raises(UserError, match=words.replace("(", r"\(")):
            pretrain.main(corpora["s2"], out, **{**QUICK, **arguments})
    with pytest.raises(UserError, match="expected streams of one sensor, quantity and size"):
        pretrain.main([corpora["s2"], corpora["s1"]], out, **QUICK)
    assert not out.exists()


def test_pruning_selects_by_columns_of_the_index(corpora, tmp_path):
    strata = Stratified(by=("row_off",))
    prune = DynamicConfig(warmup=16, interval=1000, keep=12, method=strata, readiness=Readiness(full=0))
    pretrain.main(corpora["s2"], out=tmp_path / "run", prune=prune, **QUICK)
    event = pq.read_table(tmp_path / "run" / "pruning" / "event_0001.parquet")
    opened = Corpus.open(corpora["s2"])
    rows = opened.index(next(iter(opened.streams)), columns=["row_off"])["row_off"].to_numpy()
    there, kept = rows[event["row"].to_numpy()], rows[event.filter(event["kept"])["row"].to_numpy()]
    before, after = (np.unique(some, return_counts=True)[1] for some in (there, kept))
    assert len(before) == 6 and before.min() >= 2 and before.max() > before.min()
    assert after.tolist() == [2] * 6
    unknown = dataclasses.replace(prune, method=Stratified(by=("biome",)))
    with pytest.raises(UserError, match="expected columns of the index, got 'biome'"):
        pretrain.main(corpora["s2"], out=tmp_path / "no", prune=unknown, **QUICK)
    assert not (tmp_path / "no").exists()


def test_the_command_line_takes_nested_options_and_prunes(corpora, tmp_path):
    out = tmp_path / "encoder"
    options = {
        "corpus": corpora["s2"],
        "out": out,
        "bands": "[B02,B03]",
        "objective": "SimClr",
        "objective.temperature": 0.2,
        "steps": 6,
        "batch_size": 8,
        "model.depth": 1,
        "prune.warmup": 16,
        "prune.interval": 16,
        "prune.keep": 0.6,
        "prune.readiness.full": 0,
        "training.monitor_every": 6,
        "views": "{tile: {gain: 0.1, crop: [0.6, 1.0], sun_deg: [20, 60], snr: {B02: 90, B03: 120}}}",
    }
    assert command_line(["pretrain", *(f"--{key}={value}" for key, value in options.items())]) == 0
    events = json.loads((out / "pruning" / "events.json").read_text())
    assert [event["presentations"] for event in events] == [16, 32]
    config = require(out, "pretrain").config
    wanted = dataclasses.asdict(SimClr.views["tile"]) | {"gain": 0.1, "crop": [0.6, 1.0], "sun_deg": [20, 60]}
    wanted["snr"] = {"B02": 90, "B03": 120}
    for unsaid in set(PHYSICAL) - {"sun_deg", "snr"}:  # as by versions that had no such changes
        del wanted[unsaid]
    assert config["views"] == {"tile": wanted}
    assert (config["objective"], config["options"]["temperature"]) == ("SimClr", 0.2)
    assert (config["model"]["name"], config["model"]["options"]["depth"]) == ("Vit", 1)
    assert config["prune"]["keep"] == 0.6 and config["prune"]["selector"] == "hierarchical"

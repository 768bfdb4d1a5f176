"""What an encoder is told of an image beside its pixels: codes, the way to the tokens, unknown values, views, training."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import eo_ssl
from eo_ssl.corpus import Corpus
from eo_ssl.embedding import EMBEDDINGS
from eo_ssl.embedding.table import extract_vectors
from eo_ssl.encoder import ENCODER_FILE, TrainedEncoder, load_encoder, save_encoder
from eo_ssl.errors import UserError
from eo_ssl.evaluation import SourceSubset, extract_features, open_corpus_source
from eo_ssl.evaluation.sources import read_metadata
from eo_ssl.export import Options, export, verify
from eo_ssl.image_metadata import KINDS, make_metadata
from eo_ssl.models import (
    Architecture,
    ChannelVit,
    SpectralVit,
    View,
    Vit,
    VitBackbone,
    encode_metadata,
    encode_together,
    join_views,
    unite_trunks,
)
from eo_ssl.models.metadata_codes import MetadataEmbed
from eo_ssl.objectives import (
    BarlowTwins,
    Batch,
    Byol,
    Croma,
    Data2Vec,
    Data2Vec2,
    Dcl,
    Dino,
    DinoV2,
    Distill,
    IJepa,
    ISogClr,
    LeJepa,
    Location,
    Mae,
    MaskFeat,
    Method,
    MixedBarlowTwins,
    MocoV2,
    MocoV3,
    MultiMae,
    Pmsn,
    SarIJepa,
    SarJepa,
    SatMae,
    SatMaePp,
    SimClr,
    Step,
    Swav,
    VicReg,
    ViewSpec,
)
from eo_ssl.preprocessing import describe_input
from eo_ssl.pretraining import DataSelection, FitConfig, open_training_data
from eo_ssl.pretraining.view_maker import ItemBatch, ViewMaker
from eo_ssl.workflows.embed import main as embed_corpus
from exported import optical
from planted import Images
from runs import preprocessing
from tiles import BANDS

S2 = "sentinel2_l2a"
CORPUS = Path(__file__).parent / "fixtures" / "version_0_1" / "corpus"
OPTICAL = "s2_boa_b02b03b04b08_10m_16px"
GROUPS = (("B02", "B03"), ("B04", "B08", "B11"))
MODELS: dict[str, Architecture] = {
    "plain": Vit(patch_size=8, depth=1, metadata=KINDS),
    "alibi": Vit(patch_size=8, depth=1, position="alibi", metadata=KINDS),
    "bands": ChannelVit(patch_size=8, depth=1, metadata=KINDS),
    "groups": SpectralVit(patch_size=8, depth=1, groups=GROUPS, metadata=KINDS),
}
NAN = math.nan
KNOWN = torch.from_numpy(
    make_metadata(
        3,
        time=["2021-07-23T17:24:00Z", "2020-12-31", ""],
        lonlat=[[28.0, -26.2], [180, 10], [NAN, NAN]],
        gsd_m=[10, 0.3, 20],
        incidence_deg=[NAN, 38.5, NAN],
    )
)


def build(name: str, seed: int = 3) -> VitBackbone:
    """With random weights for the codes, which begin as zeros."""
    backbone = MODELS[name].build(BANDS, 32, seed, sensor=S2)
    with torch.no_grad():
        embed(backbone).weight.normal_(generator=torch.Generator().manual_seed(4))
    return backbone.eval()


def embed(backbone: VitBackbone) -> MetadataEmbed:
    return backbone.network.metadata_embed


def view(metadata: torch.Tensor | None = KNOWN, **options: object) -> View:
    image = torch.randn(3, len(BANDS), 32, 32, generator=torch.Generator().manual_seed(1))
    return View(image, torch.ones_like(image, dtype=torch.bool), BANDS, metadata=metadata, **options)


def codes_of(row: list[float]) -> list[float]:
    """Codes of one image by the formulae of the documentation, number by number."""
    days, lon, lat, gsd, angle = row
    found: list[float] = []

    def add(known: bool, phases: list[float]) -> None:
        waves = [1.0] + [math.sin(p) for p in phases] + [math.cos(p) for p in phases]
        found.extend(waves if known else [0.0] * len(waves))

    add(not math.isnan(days), [2 * math.pi * k * (0 if math.isnan(days) else days) / 365.2425 for k in (1, 2)])
    there = not math.isnan(lon)
    east, north = (math.radians(value) if there else 0.0 for value in (lon, lat))
    point = (math.cos(north) * math.cos(east), math.cos(north) * math.sin(east), math.sin(north))
    add(there, [2 * math.pi * axis / period for axis in point for period in (4, 2, 1, 0.5)])
    add(True, [2 * math.pi * math.log(gsd) / period for period in (16, 8, 4, 2)])
    add(not math.isnan(angle), [2 * math.pi * (0 if math.isnan(angle) else angle) / p for p in (180, 90, 45)])
    return found


def test_codes_are_what_the_formulae_say_and_of_what_is_unknown_zero() -> None:
    found = encode_metadata(KNOWN, KINDS)
    torch.testing.assert_close(found, torch.tensor([codes_of(row) for row in KNOWN.tolist()], dtype=torch.float64))
    assert found.shape[1] == 5 + 25 + 9 + 7
    only = encode_metadata(KNOWN, ("gsd",))
    assert torch.equal(only, found[:, 30:39])
    half = KNOWN.clone()
    half[0, 2] = torch.inf  # a place without a latitude is no place
    assert torch.equal(encode_metadata(half, ("place",))[0], torch.zeros(25, dtype=torch.float64))


def test_codes_are_near_where_what_they_stand_for_is_near() -> None:
    def codes(kind: str, **values: object) -> torch.Tensor:
        return encode_metadata(torch.from_numpy(make_metadata(3, **values)), (kind,))

    first, second, summer = codes("time", time=["2020-12-31T12:00:00Z", "2021-01-01T12:00:00Z", "2021-07-01T00:00:00Z"])
    assert (first - second).norm() < 0.05 < 2 < (first - summer).norm()
    year, later, _ = codes("time", time=["2016-03-01", "2024-03-01", "2017-01-01"])
    assert (year - later).norm() < 0.05  # a year is like another
    west, east, near = codes("place", lonlat=[[-180, 10], [180, 10], [179.9, 10]])
    assert torch.equal(west, east) and (west - near).norm() < 0.1
    pole, same, equator = codes("place", lonlat=[[0, 90], [120, 90], [0, 0]])
    assert (pole - same).norm() < 1e-9 < 1 < (pole - equator).norm()
    sentinel, half, landsat = codes("gsd", gsd_m=[10, 7, 30])
    assert (sentinel - half).norm() > 0.5 and (sentinel - landsat).norm() > 1
    near_range, far_range, unlike = codes("incidence", incidence_deg=[30, 45, 31])
    assert (near_range - far_range).norm() > 1.5 > 0.5 > (near_range - unlike).norm()


@pytest.mark.parametrize("name", MODELS)
def test_a_code_reaches_every_patch_token_of_its_image_and_no_other(name: str) -> None:
    backbone, keep = build(name), torch.tensor([[0, 5, 9], [1, 2, 15], [3, 4, 8]])
    told = encode_metadata(KNOWN, KINDS).float() @ embed(backbone).weight.T  # [3, D]
    bare, wanted = (backbone.visible_layers(view(known), keep)[1][0] for known in (None, KNOWN))
    assert torch.equal(bare[:, 0], wanted[:, 0])  # the class token is told nothing
    torch.testing.assert_close(wanted[:, 1:] - bare[:, 1:], told[:, None].expand_as(wanted[:, 1:]), rtol=0, atol=1e-5)
    alone = KNOWN.clone()
    alone[1:] = torch.tensor([0.0, 1, 2, 3, 4])
    token, hidden = torch.randn(192, generator=torch.Generator().manual_seed(5)), torch.rand(3, 16) > 0.5
    calls = {
        "whole": lambda known: backbone(view(known)),
        "masked": lambda known: backbone.masked(view(known), hidden, token),
        "several": lambda known: backbone.visible(view(known), torch.stack([keep, keep + 0], dim=1)),
    }
    for call, run in calls.items():
        times = 2 if call == "several" else 1
        one, other = run(KNOWN).pooled, run(alone).pooled
        assert torch.equal(one[:times], other[:times]) and not torch.allclose(one[times:], other[times:], atol=1e-3)
    both = calls["several"](KNOWN)  # rows of an image stand beside each other
    single = backbone.visible(view(), keep)
    torch.testing.assert_close(both.pooled, single.pooled.repeat_interleave(2, dim=0), rtol=0, atol=1e-5)
    parts = join_views([view(), view(None)])
    torch.testing.assert_close(backbone(parts).pooled[3:], backbone(view(None)).pooled, rtol=0, atol=1e-5)


def test_two_sensors_in_one_sequence_are_told_each_of_its_own_image() -> None:
    model = MODELS["plain"]
    pair = [model.build(bands, 32, seed) for seed, bands in enumerate((("VV", "VH"), BANDS))]
    unite_trunks(*pair)
    embed(pair[0]).weight.data.normal_(generator=torch.Generator().manual_seed(4))
    radar = replace(view(), image=view().image[:, :2], valid=view().valid[:, :2], bands=("VV", "VH"))
    told, bare = (pair[0].place_patches(replace(radar, metadata=known))[0] for known in (KNOWN, None))
    wanted = encode_metadata(KNOWN, KINDS).float() @ embed(pair[0]).weight.T
    torch.testing.assert_close(told - bare, wanted[:, None].expand_as(told), rtol=0, atol=1e-5)
    views = [replace(radar, metadata=None), view()]
    whole = encode_together(pair, [radar, view()])
    assert embed(pair[1]) is embed(pair[0]) and not torch.equal(encode_together(pair, views).pooled, whole.pooled)


@pytest.mark.parametrize("name", MODELS)
def test_unknown_is_the_network_that_is_told_nothing(name: str) -> None:
    backbone = build(name)
    bare = backbone(view(None))
    plain = backbone.without_metadata()
    assert torch.equal(backbone(view(torch.full((3, 5), NAN))).pooled, bare.pooled)
    assert torch.equal(plain(view()).pooled, bare.pooled)
    assert not any("metadata" in key for key in plain.network.state_dict()) and not plain.config.model.metadata
    assert plain.config.model.in_timm == (name == "plain") and not MODELS[name].in_timm
    some = KNOWN.clone()
    some[1] = NAN  # of one image alone
    found, wanted = backbone(view(some)).pooled, backbone(view()).pooled
    assert torch.equal(found[[0, 2]], wanted[[0, 2]]) and torch.equal(found[1], bare.pooled[1])
    assert torch.equal(backbone.at_size(64).network.metadata_embed.weight, embed(backbone).weight)


@pytest.mark.parametrize("name", MODELS)
def test_a_network_that_is_told_nothing_is_as_before_and_one_that_is_begins_as_it(name: str) -> None:
    model = MODELS[name]
    plain = replace(model, metadata=())
    assert not any("metadata" in key for key in plain.to_json(bands=5, size_px=32))
    assert type(plain).from_json(plain.to_json(bands=5, size_px=32), pooling="mean") == plain
    assert type(model).from_json(model.to_json(bands=5, size_px=32), pooling="mean") == model
    drawn, built = [], []
    for one in (plain, model):
        torch.manual_seed(0)
        built.append(one.build(BANDS, 32, 7, sensor=S2).network.state_dict())
        drawn.append(torch.get_rng_state())
    state, told = built
    assert torch.equal(*drawn)
    assert not told.pop("metadata_embed.weight").any()
    assert state.keys() == told.keys() and all(torch.equal(state[key], told[key]) for key in state)
    assert model.averaged().metadata == ()  # a baseline of random weights is told nothing


def test_in_training_kinds_are_dropped_one_by_one_by_the_seed_of_the_view() -> None:
    layer = MetadataEmbed(KINDS, 8, drop=0.25)
    kept = layer._forget(torch.ones(4000, 5), torch.Generator().manual_seed(0))
    unknown = kept.isnan()
    assert torch.equal(unknown[:, 1], unknown[:, 2])  # a place is dropped whole
    shares = unknown[:, [0, 1, 3, 4]].float()
    torch.testing.assert_close(shares.mean(dim=0), torch.full((4,), 0.25), rtol=0, atol=0.03)
    assert torch.corrcoef(shares.T).fill_diagonal_(0).abs().max() < 0.06
    backbone, whole = build("plain"), build("plain")(view(seed=5)).pooled
    backbone.train()
    one, again, other = (backbone(view(seed=seed)).pooled for seed in (5, 5, 9))
    assert torch.equal(one, again) and not torch.equal(one, other) and not torch.equal(one, whole)
    assert torch.equal(backbone(view()).pooled, whole)  # without a seed nothing is drawn


def test_the_pixel_size_of_a_view_is_that_of_its_pixels_on_the_ground() -> None:
    contract = replace(preprocessing(), mean=(0.0,) * 3, std=(1.0,) * 3)
    gsd = torch.tensor([10.0, 20, 0.5, 10])
    metres = (torch.arange(16) + 0.5) * gsd[:, None]  # where the middle of each pixel lies
    image = torch.stack([metres[:, None].expand(-1, 16, 16), metres[:, :, None].expand(-1, 16, 16)], dim=1)
    image = torch.cat([image, torch.zeros(4, 1, 16, 16)], dim=1)[:, None]
    known = torch.full((4, 1, 5), NAN)
    known[:, 0, 0], known[:, 0, 3] = 2000.5, gsd
    batch = ItemBatch({"tile": (image, torch.ones_like(image, dtype=torch.bool))}, torch.arange(4), Step(0, 1, 3), {"tile": known})  # fmt: skip
    specs = {
        "crop": ViewSpec(count=2, crop=(0.1, 0.6), flips=False),
        "local": ViewSpec(size=0.5, crop=(0.2, 0.4), flips=True),
        "large": ViewSpec(size=2.0, crop=None, flips=False),
        "whole": ViewSpec(crop=None, flips=False),
    }
    views = ViewMaker(specs, {"tile": contract})(batch)
    for shown in views.all_views():
        inner = shown.image[:, :2, 2:-2, 2:-2]  # away from the border, where edge pixels repeat
        across = (inner.diff(dim=3).mean(dim=(2, 3)).abs(), inner.diff(dim=2).mean(dim=(2, 3)).abs())  # [4, 2] each
        found = (across[0].amax(dim=1) * across[1].amax(dim=1)).sqrt()  # root of the area of a pixel, square metres
        torch.testing.assert_close(shown.metadata[:, 3], found, rtol=2e-3, atol=0)
        assert (shown.metadata[:, 0] == 2000.5).all() and shown.metadata[:, [1, 2, 4]].isnan().all()
    assert torch.equal(views.views["whole"][0].metadata[:, 3], gsd)
    assert torch.equal(views.views["large"][0].metadata[:, 3], gsd / 2)
    assert torch.equal(known[:, 0, 3], gsd)  # the batch is left as it is


def test_an_encoder_is_told_what_its_contract_takes_of_the_images_as_it_resizes_them() -> None:
    contract = replace(optical(32), metadata=("gsd", "time"))
    assert contract.metadata == ("time", "gsd") and type(contract).from_json(contract.to_json()) == contract
    assert "metadata" not in optical(32).to_json() and describe_input(optical(32), KNOWN, side_px=32) == {}
    assert describe_input(contract, None, side_px=64) == {}
    told = describe_input(contract, KNOWN.numpy(), side_px=64)["metadata"]
    wanted = torch.full((3, 5), NAN)
    wanted[:, 0], wanted[:, 3] = KNOWN[:, 0], 2 * KNOWN[:, 3]
    torch.testing.assert_close(told, wanted, equal_nan=True)
    cropped = replace(contract, resize="crop")
    assert torch.equal(describe_input(cropped, KNOWN, side_px=64)["metadata"][:, 3], KNOWN[:, 3])
    backbone = replace(MODELS["plain"], metadata=("time", "gsd")).build(contract.bands, 32, 0)
    torch.nn.init.normal_(embed(backbone).weight)
    encoder = TrainedEncoder(backbone, contract)
    pixels = torch.rand(3, 4, 64, 64) * 0.3
    tags = {"bands": contract.bands, "quantity": contract.quantity, "sensor": contract.sensor}
    x, valid = contract(pixels, **tags)
    assert torch.equal(encoder(pixels, **tags, metadata=KNOWN), encoder.features(x, valid=valid, metadata=wanted))
    assert torch.equal(encoder(pixels, **tags), encoder.features(x, valid=valid))
    untold = encoder.with_preprocessing(replace(contract, metadata=()))
    with pytest.raises(UserError, match="expected no metadata for encoder, which is told nothing beside images"):
        untold(pixels, **tags, metadata=KNOWN)
    with pytest.raises(UserError, match=r"expected metadata \[n, 5\] of images, got \(3, 2\)"):
        encoder(pixels, **tags, metadata=KNOWN[:, 1:3])
    with pytest.raises(UserError, match="a contract that takes metadata out of time, gsd, got place"):
        TrainedEncoder(backbone, replace(contract, metadata=("place",)))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"lonlat": [[45, 91]]}, "expected place of 3 images, or one for all"),
        ({"lonlat": [[1, 2], [3, 4]]}, "expected place of 3 images"),
        ({"gsd_m": [10, 0, 10]}, "expected gsd of 3 images"),
        ({"incidence_deg": 91}, "expected incidence of 3 images"),
        ({"time": "July"}, "expected times in ISO 8601"),
    ],
)
def test_metadata_that_cannot_be_are_refused(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        eo_ssl.make_metadata(3, **values)


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="expected metadata out of time, place, gsd, incidence, got 'plase'; did you"):
        Vit(metadata=("plase",))
    with pytest.raises(UserError, match="metadata_drop of at least 0 and below 1, got 1"):
        SpectralVit(metadata_drop=1.0)


QUICK = {"steps": 2, "batch_size": 8, "training": FitConfig(log_every=1, monitor_every=2, monitor_tiles=8)}


def test_methods_that_match_views_refuse_what_the_views_share(tmp_path: Path) -> None:
    told = Vit(patch_size=8, depth=1, metadata=("time", "gsd"))
    with pytest.raises(UserError, match="metadata out of gsd for SimClr, which matches what could be"):
        eo_ssl.pretrain(CORPUS, tmp_path / "a", streams=[OPTICAL], objective=SimClr(), model=told, **QUICK)
    with pytest.raises(UserError, match=r"metadata out of gsd for Mae with location, which.* got time, gsd"):
        eo_ssl.pretrain(CORPUS, tmp_path / "b", streams=[OPTICAL], model=told, location=Location(), **QUICK)
    everything = (Mae, MaskFeat, IJepa, Data2Vec, Data2Vec2, Distill, SarJepa, SarIJepa, SatMae, SatMaePp, MultiMae)
    of_a_view = (SimClr, Dcl, ISogClr, MocoV2, MocoV3, Byol, BarlowTwins, VicReg, Swav, Pmsn, Dino, DinoV2, LeJepa)
    for method, kinds in {
        **dict.fromkeys(everything, KINDS),
        **dict.fromkeys(of_a_view, ("gsd",)),
        Croma: ("incidence",),
        MixedBarlowTwins: (),
    }.items():
        objective = getattr(sys.modules[method.__module__], f"{method.__name__}Objective")
        assert objective.told == kinds, method


@pytest.mark.parametrize(
    "method",
    [Mae(decoder_dim=16, decoder_depth=1), MaskFeat(), IJepa(), Data2Vec(layers=1), Data2Vec2(layers=1), SimClr()],
    ids=lambda method: type(method).__name__,
)
def test_what_is_told_reaches_the_loss_of_a_method(method: Method) -> None:
    backbone = Vit(patch_size=8, depth=1, metadata=("gsd",)).build(BANDS, 32, 0)
    objective = method.build({"tile": backbone}, 1)
    views = [view(seed=1), replace(view(seed=2), image=view().image.flip(3))]
    shown = views if isinstance(method, SimClr) else views[:1]
    objective(Batch({"tile": shown}, torch.arange(3), Step(1, 10, 0)))["loss"].backward()
    assert embed(backbone).weight.grad.abs().max() > 0


def season_tiles(n: int, seed: int, *, told: bool) -> tuple[View, torch.Tensor]:
    """Ramps that rise in summer a little more often than they fall, patch by patch; and whether it is summer."""
    rng, summer = torch.Generator().manual_seed(seed), torch.arange(n) % 2
    slope = 0.6 * (2 * summer - 1).view(-1, 1, 1, 1) + torch.randn(n, 1, 2, 2, generator=rng)
    image = slope.repeat_interleave(4, 2).repeat_interleave(4, 3) * torch.linspace(-1, 1, 4).repeat(2)
    times = [f"{2015 + i % 9}-0{1 + 6 * month}-15" for i, month in enumerate(summer.tolist())]
    known = torch.from_numpy(make_metadata(n, time=times)) if told else None
    valid = torch.ones_like(image, dtype=torch.bool)
    return View(image, valid, ("B02",), metadata=known, seed=seed), summer


def probe(train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor) -> torch.Tensor:
    """Classes of test features by ridge regression on training features."""
    mean, std = train.mean(dim=0), train.std(dim=0) + 1e-6
    x, y = (train - mean) / std, 2.0 * labels - 1
    weights = torch.linalg.solve(x.T @ x + 10 * torch.eye(x.shape[1]), x.T @ y)
    return ((test - mean) / std @ weights > 0).long()


def test_told_the_season_an_encoder_tells_what_images_alone_do_not_show_and_works_without() -> None:
    backbone = Vit(patch_size=4, depth=1, metadata=("time",), metadata_drop=0.3).build(("B02",), 8, 0)
    objective = Mae(decoder_dim=32, decoder_depth=1).build({"tile": backbone}, 1)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=4e-3)
    for step in range(80):
        shown, _ = season_tiles(64, 100 + step, told=True)
        loss = objective(Batch({"tile": [shown]}, torch.arange(64), Step(step, 80, step)))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    objective.eval()
    scores, losses = {}, {}
    for told in (True, False):
        (train, labels), (test, wanted) = (season_tiles(400, seed, told=told) for seed in (1, 2))
        with torch.no_grad():
            found = probe(objective.embed(train), labels, objective.embed(test))
            losses[told] = float(objective(Batch({"tile": [test]}, torch.arange(400), Step(0, 1, 5)))["loss"])
        scores[told] = (found == wanted).float().mean().item()
    assert scores[True] > 0.99 and 0.8 < scores[False] < 0.93, scores  # the best guess from four patches: 88.5 %
    assert losses[True] < losses[False] - 0.06 < 0.9, losses  # and the season fills in what is hidden


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that two steps trained on a corpus of version 0.1, told time, place and pixel size."""
    out = tmp_path_factory.mktemp("told") / "encoder"
    model = Vit(patch_size=8, depth=1, metadata=("place", "time", "gsd"))
    eo_ssl.pretrain(CORPUS, out, streams=[OPTICAL], model=model, lr=0.05, **QUICK)
    return out


def test_a_saved_encoder_says_what_it_takes_and_a_corpus_tells_it_everywhere_alike(
    encoder: Path, tmp_path: Path
) -> None:
    made = load_encoder(encoder)
    assert made.preprocessing.metadata == ("time", "place", "gsd") == made.architecture.model.metadata
    assert made.backbone.network.metadata_embed.weight.abs().max() > 0.01
    corpus = Corpus.open(CORPUS)
    source, data = open_corpus_source(corpus, OPTICAL), open_training_data(DataSelection((CORPUS,), (OPTICAL,)))
    rows = np.arange(len(source))
    known = data.items.metadata(rows)["tile"][:, 0]
    np.testing.assert_array_equal(read_metadata(source, rows), known.numpy())
    assert known[:, :4].isfinite().all() and known[:, 4].isnan().all() and (known[:, 3] == 10).all()
    reader = corpus.stream(OPTICAL)
    tags = {"bands": reader.stream.bands, "quantity": reader.stream.quantity, "sensor": reader.stream.sensor}
    wanted = made(reader.read(rows), **tags, metadata=known)
    some = np.array([50, 3, 17])
    found = extract_features(made, SourceSubset(source, some), batch_size=2, cache=tmp_path / "cache").x
    np.testing.assert_allclose(found, wanted[some].numpy(), rtol=0, atol=1e-5)
    again = extract_features(made, SourceSubset(source, some), cache=tmp_path / "cache").x
    assert np.array_equal(found, again)
    embed_corpus(str(encoder), str(CORPUS), tmp_path / "e", stream=OPTICAL, dask="synchronous")
    np.testing.assert_allclose(
        extract_vectors(pq.read_table(tmp_path / "e" / EMBEDDINGS)["embedding"], made.dim),
        wanted.numpy(),
        rtol=0,
        atol=1e-5,
    )
    untold = load_encoder(f"{encoder}?metadata=none")
    bare = extract_features(untold, SourceSubset(source, some), cache=tmp_path / "cache").x
    np.testing.assert_allclose(bare, made(reader.read(some), **tags).numpy(), rtol=0, atol=1e-5)
    assert np.abs(bare - found).max() > 1e-3 and untold.fingerprint != made.fingerprint
    timed = load_encoder(f"{encoder}?metadata=time")
    elsewhere = known.clone()
    elsewhere[:, 1:4] = torch.tensor([100.0, 5, 30])
    told = [timed(reader.read(some), **tags, metadata=each[some]) for each in (known, elsewhere)]
    assert torch.equal(*told)
    eo_ssl.pretrain(CORPUS, tmp_path / "more", streams=[OPTICAL], init=encoder, **QUICK)
    assert load_encoder(tmp_path / "more").preprocessing.metadata == ("time", "place", "gsd")
    with pytest.raises(UserError, match="expected all that encoder is told of images, to go on from it"):
        eo_ssl.pretrain(CORPUS, tmp_path / "c", streams=[OPTICAL], init=f"{encoder}?metadata=none", **QUICK)
    with pytest.raises(UserError, match="expected metadata=none, or some of time, place, gsd, got"):
        load_encoder(f"{encoder}?metadata=incidence")


def test_of_a_benchmark_the_pixel_size_is_known_alone() -> None:
    source = Images(np.zeros((4, 3, 8, 8), dtype=np.float32))
    found = read_metadata(SourceSubset(source, np.array([1, 3])), np.arange(2))
    np.testing.assert_array_equal(found, np.array([[NAN, NAN, NAN, source.gsd_m, NAN]] * 2, dtype=np.float32))


def test_evaluation_says_what_an_encoder_was_told(encoder: Path, tmp_path: Path) -> None:
    eo_ssl.evaluate([str(encoder), f"{encoder}?metadata=none"], task="corpus", data=CORPUS, streams=[OPTICAL], out=tmp_path / "results", protocols=["knn5"])  # fmt: skip
    rows = [path.read_text() for path in sorted((tmp_path / "results" / "rows").iterdir())]
    assert sum("told time, place, gsd of each image where known" in row for row in rows) == 1 and len(rows) == 2


def test_it_is_exported_as_the_network_that_is_told_nothing_and_says_so(encoder: Path, tmp_path: Path) -> None:
    made = load_encoder(encoder)
    plain = made.without_metadata()
    x = torch.randn(2, 4, 16, 16)
    assert torch.equal(plain.features(x), made.features(x)) and plain.preprocessing.metadata == ()
    bundle = export(made, tmp_path / "bundle", options=Options(onnx=False))
    assert all(check.passed for check in verify(bundle.folder))
    card = (bundle.folder / "README.md").read_text()
    assert "trained to be told time, place, gsd too, which is left out here" in card
    assert "metadata" not in (bundle.folder / "preprocess.json").read_text()


def test_a_file_of_an_encoder_that_is_told_nothing_is_byte_for_byte_that_of_earlier_versions(tmp_path: Path) -> None:
    backbone = Vit(patch_size=8, depth=1).build(optical(16).bands, 16, 0)
    origin = {"config": {"seed": 0}, "inputs": {}}
    save_encoder(tmp_path, backbone, preprocessing=optical(16), provenance=origin)
    assert b"metadata" not in (tmp_path / ENCODER_FILE).read_bytes().replace(b"__metadata__", b"")

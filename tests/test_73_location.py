"""Places beside an objective: waves in a loop, no seam on the sphere, the four terms in a loop, an objective untouched."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eo_ssl.errors import UserError
from eo_ssl.models import LocationModel, View, Vit
from eo_ssl.objectives import Batch, IJepa, LocatedObjective, Location, Mae, Method, MocoV2, SimClr, Step
from eo_ssl.objectives.location import LOCATION_STREAM, compare_places, draw_places, find_apart
from eo_ssl.pretraining import Tiles, TileSource
from eo_ssl.pretraining.items import require_places
from runs import FakeReader, preprocessing
from tiles import BANDS, holes, training_tiles

MODEL = LocationModel(frequencies=8, hidden_dim=32, output_dim=16)
UNKNOWN = torch.tensor([[math.nan, math.nan]])


def build(method: Method | None = None, **options: object) -> LocatedObjective:
    encoders = {"tile": Vit(patch_size=8, depth=1).build(BANDS[:4], 32, 0)}
    objective = (method or SimClr(hidden_dim=16, output_dim=8)).build(encoders, 1)
    return Location(**{"model": MODEL, **options}).wrap(objective, 2)


def make_located(n: int, *, views: int = 2, valid: torch.Tensor | None = None, seed: int = 0) -> Batch:
    """Tiles each at a place of its own; the last one's is not known."""
    image, known = training_tiles(n)
    lonlat = draw_places(n, torch.Generator().manual_seed(4))
    lonlat[-1] = torch.nan
    shown = [View(x, known if valid is None else valid, BANDS[:4], lonlat=lonlat) for x in (image, image.flip(3))]
    return Batch({"tile": shown[:views]}, torch.arange(n), Step(3, 10, seed))


@pytest.mark.parametrize("waves", ["sphere", "grid"])
def test_vectors_of_places_come_from_waves_in_a_loop(waves: str) -> None:
    encoder = LocationModel(waves, frequencies=3, range_deg=(2.0, 50.0), hidden_dim=8, output_dim=4).build(0)
    lon, lat = 37.0, -12.0
    a, b = math.radians(lon), math.radians(lat)
    on_sphere = [math.cos(b) * math.cos(a), math.cos(b) * math.sin(a), math.sin(b)]
    axes = [math.degrees(x) for x in on_sphere] if waves == "sphere" else [lon, lat]
    phases = np.array([x / length for x in axes for length in (2.0, 10.0, 50.0)])
    values = np.concatenate([np.sin(phases), np.cos(phases)])
    hidden = encoder.hidden.weight.detach().double().numpy() @ values + encoder.hidden.bias.detach().double().numpy()
    hidden = np.array([0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in hidden])
    wanted = encoder.head.weight.detach().double().numpy() @ hidden + encoder.head.bias.detach().double().numpy()
    np.testing.assert_allclose(encoder.embed([[lon, lat]])[0], wanted / np.linalg.norm(wanted), rtol=1e-3, atol=1e-5)


def test_the_sphere_has_no_seam_and_one_vector_at_a_pole() -> None:
    pairs = [[-180, 10], [180, 10], [20, 90], [-130, 90], [200, 5], [-160, 5]]
    sphere = MODEL.build(0).embed(pairs)
    np.testing.assert_allclose(sphere[::2], sphere[1::2], atol=1e-4)
    grid = LocationModel("grid", frequencies=8, hidden_dim=32, output_dim=16).build(0).embed(pairs)
    assert np.abs(grid[0] - grid[1]).max() > 0.01  # as published
    for wrong in ([11.0, 48.0], [[11.0, 91.0]], [[-181.0, 0.0]]):
        with pytest.raises(UserError, match=r"longitudes and latitudes in degrees, \[n, 2\]"):
            MODEL.build(0).embed(wrong)


@pytest.mark.parametrize("waves", ["sphere", "grid"])
def test_longitudes_beyond_180_are_those_of_the_west(waves: str) -> None:
    places = LocationModel(waves=waves, frequencies=4, hidden_dim=8, output_dim=4).build(0)
    np.testing.assert_array_equal(
        places.embed([[190.0, 10.0], [360.0, 5.0]]), places.embed([[-170.0, 10.0], [0.0, 5.0]])
    )


def test_random_places_are_even_over_the_sphere_and_distances_are_kilometres() -> None:
    drawn = draw_places(4000, torch.Generator().manual_seed(0))
    assert (drawn[:, 0].abs() <= 180).all() and abs(float((drawn[:, 1].abs() < 30).float().mean()) - 0.5) < 0.03
    row = torch.tensor(
        [[179.99, 0.0], [-179.99, 0.0], [179.99, 0.02], [179.99, 1.0]]
    )  # 2.2, 2.2 and 111 km from the first
    assert find_apart(row, km=4.0).tolist() == [[i != j and 3 in (i, j) for j in range(4)] for i in range(4)]
    assert find_apart(row, km=2.0).logical_not().diagonal().all() and int(find_apart(row, km=2.0).sum()) == 12


@torch.no_grad()
def test_the_four_terms_add_up_as_loops_say() -> None:
    location = Location(
        temperature=0.3, random_places=2, random_weight=0.5, dropout=0.4, dropout_weight=2.0, model=MODEL
    )
    places, rng = MODEL.build(0), torch.Generator().manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(6, 16, generator=rng), dim=1)
    lonlat = torch.tensor([[10.0, 50], [10.01, 50], [20, -30], [math.nan, math.nan], [-70, 5], [100, 60]])
    found = compare_places(images, lonlat, places, location=location, rng=torch.Generator().manual_seed(7)).item()
    chance = torch.Generator().manual_seed(7)
    random = places(draw_places(12, chance)).reshape(6, 2, 16)
    keep = (torch.rand((2, 6, 32), generator=chance) >= 0.4) / 0.6
    at = places(lonlat.nan_to_num(0.0))
    first, second = places(lonlat.nan_to_num(0.0), keep[0]), places(lonlat.nan_to_num(0.0), keep[1])
    total, known = 0.0, [0, 1, 2, 4, 5]
    for i in known:
        others = [j for j in known if j == i or {i, j} != {0, 1}]  # 0 and 1 lie within a kilometre
        for own, compared in ((at[i], images), (images[i], at)):
            powers = {j: math.exp(float(own @ compared[j]) / 0.3) for j in others}
            total -= math.log(powers[i] / sum(powers.values()))
        powers = {j: math.exp(float(first[i] @ second[j]) / 0.3) for j in others}
        total -= 2 * math.log(powers[i] / sum(powers.values()))
        scores = [float(images[i] @ at[i]), *(float(images[i] @ random[i, k]) for k in range(2))]
        powers = {k: math.exp(score / 0.3) for k, score in enumerate(scores)}
        total -= 0.5 * math.log(powers[0] / sum(powers.values()))
    assert found == pytest.approx(total / 5, rel=1e-4)


def test_the_objective_is_untouched_and_the_first_view_meets_its_place() -> None:
    objective, batch = build(weight=0.7), make_located(6)
    own = objective.inner(batch)["loss"].detach()
    results = objective(batch)
    with torch.no_grad():
        view = batch.views["tile"][0]
        pooled = objective.encoder.network.forward_features(view.pixels)[:, 1:].mean(1)
        images = torch.nn.functional.normalize(objective.images["tile"](pooled), dim=1)
        rng = batch.step.generator(LOCATION_STREAM)
        term = compare_places(images, view.lonlat, objective.places, location=objective.location, rng=rng)
    torch.testing.assert_close(results["location"], term)
    torch.testing.assert_close(results["loss"].detach(), own + 0.7 * term)
    names = {id(parameter) for parameter in objective.parameters()}
    assert len(names) == len(list(objective.parameters()))  # the encoder is trained once
    queued = build(MocoV2(queue=32, hidden_dim=16, output_dim=8))
    queued.prepare(80)
    assert len(queued.inner.queue) == 20 and float(queued(batch)["queue"]) == 20
    teacher = queued.inner.teacher.network["tile"].network.norm.bias
    before = teacher.clone()
    with torch.no_grad():
        queued.encoder.network.norm.bias.add_(1.0)
    queued.after_step(Step(1, 10, 0))
    assert not torch.equal(teacher, before)
    assert torch.equal(queued.project(pooled), queued.inner.project(pooled))  # which the guard looks at
    slow = build(IJepa(predictor_dim=16, predictor_heads=2, predictor_depth=1))
    assert slow.embedders["tile"] is slow.inner.embedders["tile"] is not slow.encoder


def test_both_streams_of_a_pair_meet_their_place() -> None:
    bands = {"s2": BANDS[:4], "s1": ("VV", "VH")}
    encoders = {
        stream: Vit(patch_size=8, depth=1).build(names, 32, i) for i, (stream, names) in enumerate(bands.items())
    }
    objective = Location(model=MODEL).wrap(SimClr(hidden_dim=16, output_dim=8).build(encoders, 1), 2)
    batch = make_located(6)
    views = [
        View(view.image[:, : len(names)], view.valid[:, : len(names)], names, stream, lonlat=view.lonlat)
        for view, (stream, names) in zip(batch.views["tile"], bands.items(), strict=True)
    ]
    term = objective(Batch({"tile": views}, batch.rows, batch.step))["location"]
    wanted = [
        compare_places(
            torch.nn.functional.normalize(objective.images[view.stream](objective.encoders[view.stream](view).pooled)),
            view.lonlat,
            objective.places,
            location=objective.location,
            rng=batch.step.generator(LOCATION_STREAM + i),
        )
        for i, view in enumerate(views)
    ]
    torch.testing.assert_close(term, torch.stack(wanted).mean().detach())


def test_without_known_places_the_term_is_0_and_every_weight_still_has_a_gradient() -> None:
    objective, batch = build(), make_located(4)
    shown = [View(view.image, view.valid, view.bands) for view in batch.views["tile"]]
    for lonlat in (None, UNKNOWN.expand(4, 2)):
        views = [View(view.image, view.valid, view.bands, lonlat=lonlat) for view in shown]
        results = objective(Batch({"tile": views}, batch.rows, batch.step))
        assert float(results["location"]) == 0 and torch.isfinite(results["loss"])
        objective.zero_grad()
        results["loss"].backward()  # processes that reduce gradients wait for each
        trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)


def test_nodata_never_enters() -> None:
    image, _ = training_tiles(n=6)
    clean = make_located(6, valid=holes(image.shape, patch=8))
    poisoned = [
        View(torch.where(v.valid, v.image, torch.tensor(math.nan)), v.valid, v.bands, lonlat=v.lonlat)
        for v in clean.views["tile"]
    ]
    batches = (clean, Batch({"tile": poisoned}, clean.rows, clean.step), make_located(6))
    terms = [build()(batch)["location"] for batch in batches]
    assert torch.equal(terms[0], terms[1]) and not torch.equal(terms[0], terms[2])


def test_thirty_steps_beside_mae_let_images_find_their_places() -> None:
    objective = build(Mae(decoder_dim=16, decoder_heads=2, decoder_depth=1))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=2e-3)
    for number in range(30):
        loss = objective(make_located(16, views=1, seed=number))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        view = make_located(16).views["tile"][0]
        images = objective.images["tile"](objective.eval().embed(view))[:15]
        places = torch.from_numpy(objective.places.embed(view.lonlat[:15].numpy()))
    found = (images @ places.T).argmax(dim=1)
    assert (found == torch.arange(15)).float().mean() > 0.7  # one in fifteen by chance


def test_refusals() -> None:
    for options, words in (
        ({"weight": 0.0}, "weight above 0, got 0.0; leave location out instead"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"dropout": 1.0}, "dropout within 0 and 1, got 1.0"),
        ({"apart_km": -1.0}, "apart_km of at least 0, got -1.0"),
    ):
        with pytest.raises(UserError, match=words):
            Location(**options)
    for options, words in (
        ({"waves": "cube"}, "waves out of sphere, grid, got 'cube'"),
        ({"frequencies": 1}, "frequencies of at least 2, got 1"),
        ({"range_deg": (360.0, 0.1)}, r"range_deg as an increasing pair above 0, got \(360.0, 0.1\)"),
    ):
        with pytest.raises(UserError, match=words):
            LocationModel(**options)
    silent = Tiles(TileSource([FakeReader(n=4)]), preprocessing())
    with pytest.raises(UserError, match="expected tiles that say where they lie for location, got none"):
        require_places(silent, np.arange(4))

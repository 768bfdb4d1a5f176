"""Methods and architectures by name: a new method is one file, and a name that is not registered is never imported."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import yaml
from torch import Tensor

from eo_ssl.cli import main, parse
from eo_ssl.curation import Density, Hierarchical
from eo_ssl.encoder import load_encoder
from eo_ssl.errors import UserError
from eo_ssl.manifest import require
from eo_ssl.models import Backbone, ResNet, SpectralVit, Vit, seed_weights
from eo_ssl.objectives import Batch, IJepa, Mae, Method, Objective, SimClr, Step, ViewSpec, list_methods
from eo_ssl.sample import ArchiveSpec, make_archive
from eo_ssl.workflows import ingest, pretrain


@dataclass(frozen=True)
class ToyDistillation(Method):
    """Two large views and three small ones of a tile agree on a linear map: enough to need the whole seam."""

    views: ClassVar[Mapping[str, ViewSpec]] = {
        "global": ViewSpec(count=2, crop=(0.5, 1.0)),
        "local": ViewSpec(count=3, size=0.5, crop=(0.1, 0.4), noise=0.1),
    }

    width: int = 8
    """Of the map."""

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> ToyDistillationObjective:
        return ToyDistillationObjective(encoders, self, seed)


class ToyDistillationObjective(Objective):
    sizes: ClassVar[set[tuple[str, int, int]]] = set()

    def __init__(self, encoders: Mapping[str, Backbone], method: ToyDistillation, seed: int) -> None:
        super().__init__(encoders)
        with seed_weights(seed):
            self.map = torch.nn.Linear(self.encoder.dim, method.width)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        self.sizes.update((name, len(views), views[0].image.shape[-1]) for name, views in batch.views.items())
        large, small = (
            torch.stack([self.map(self.encoder(v).pooled) for v in batch.views[k]]) for k in ("global", "local")
        )
        return {"loss": (small.mean(0) - large.mean(0)).square().mean() + large.square().mean(), "spread": large.std()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("choices")
    spec = ArchiveSpec(sites=1, dates=1, size_px=192, exact_duplicates=0, near_duplicates=0, reprocessed=0)
    make_archive(root / "archive", seed=1, spec=spec)
    ingest.main("sample_s2_l2a", data=root / "archive", out=root / "s2", size_px=32, dask="synchronous")
    return root / "s2"


def test_a_method_registered_here_trains_by_its_name_with_views_of_two_sizes(corpus: Path, tmp_path: Path) -> None:
    arguments = [
        "--objective",
        "ToyDistillation",
        "--objective.width",
        "4",
        "--model.depth",
        "1",
        "--steps",
        "3",
        "--batch_size",
        "4",
    ]
    assert main(["pretrain", "--corpus", str(corpus), "--out", str(tmp_path / "toy"), *arguments]) == 0
    assert ToyDistillationObjective.sizes == {("global", 2, 32), ("local", 3, 16)}
    config = require(tmp_path / "toy", "pretrain").config
    assert (config["objective"], config["options"]) == ("ToyDistillation", {"width": 4})
    assert set(config["views"]) == {"global", "local"}
    assert load_encoder(tmp_path / "toy").dim == 192


def parsed(*arguments: str) -> dict[str, object]:
    _, call = parse("pretrain", pretrain.main, ["--corpus", "c", "--out", "o", *arguments])
    return (
        call.__closure__[1].cell_contents
        if isinstance(call.__closure__[1].cell_contents, dict)
        else call.__closure__[0].cell_contents
    )


def test_options_stand_under_the_name_of_the_choice(tmp_path: Path) -> None:
    assert (parsed()["objective"], parsed()["model"]) == (Mae(), Vit())
    assert parsed("--objective=IJepa", "--objective.masks.n_targets=2")["objective"].masks.n_targets == 2
    assert parsed("--model", "ResNet", "--model.name", "resnet18")["model"] == ResNet("resnet18")
    assert parsed("--objective.norm", "patch")["objective"] == Mae(norm="patch")
    groups = parsed("--model", "SpectralVit", "--model.groups", "[[VV], [VH]]")["model"]
    assert groups == SpectralVit(groups=(("VV",), ("VH",)))
    config = tmp_path / "c.yaml"
    config.write_text("objective: {SimClr: {temperature: 0.2}}\nmodel: ResNet\n")
    values = parsed("--config", str(config))
    assert (values["objective"], values["model"]) == (SimClr(temperature=0.2), ResNet())
    values = parsed("--config", str(config), "--objective.temperature", "0.3")
    assert values["objective"] == SimClr(temperature=0.3)


def test_every_method_has_a_small_and_a_published_configuration() -> None:
    folder = Path(__file__).parents[1] / "configs" / "pretrain"
    found: dict[str, set[str]] = {}
    for path in sorted(folder.glob("*.yaml")):
        values = parsed("--config", str(path))
        name, _, kind = path.stem.rpartition("_")
        assert type(values["objective"]).__name__.lower() == name.replace("_", "")
        assert set(values["views"] or {}) <= set(values["objective"].views)
        found.setdefault(type(values["objective"]).__name__, set()).add(kind)
    methods = set(list_methods()) - {"ToyDistillation"}  # of this file
    assert found == {name: {"small", "paper"} for name in methods}


@pytest.mark.parametrize("name", ["ijepa", "sar_ijepa", "dino", "dino_v2", "pmsn"])
@torch.no_grad()
def test_the_teacher_that_a_small_run_saves_has_left_its_random_weights(name: str) -> None:
    values = parsed("--config", str(Path(__file__).parents[1] / "configs" / "pretrain" / f"{name}_small.yaml"))
    objective = values["objective"].build({"tile": Vit("test_vit", depth=1).build(("B02",), 32, 0)}, 1)
    student, teacher = (one["tile"].network.norm.weight for one in (objective.encoders, objective.embedders))
    student.zero_()  # from 1
    for step in range(1, values["steps"] + 1):
        objective.after_step(Step(step, values["steps"], 0))
    assert float(teacher.max()) < 0.01


def test_the_printed_configuration_reads_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(
            [
                "pretrain",
                "--corpus",
                "c",
                "--out",
                "o",
                "--objective",
                "IJepa",
                "--objective.momentum",
                "0.9",
                "--print_config",
            ]
        )
    text = capsys.readouterr().out
    assert "class_path" not in text and yaml.safe_load(text)["objective"]["IJepa"]["momentum"] == 0.9
    (tmp_path / "c.yaml").write_text(text)
    assert parsed("--config", str(tmp_path / "c.yaml"))["objective"] == IJepa(momentum=0.9)
    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    help_text = capsys.readouterr().out
    known = re.search(r"known subclasses: ([^)]*Mae[^)]*)\)", " ".join(help_text.split())).group(1)
    assert sorted(known.split(", ")) == list(list_methods()) and "eo_ssl.objectives" not in help_text
    with pytest.raises(SystemExit):
        main(["pretrain", "--objective.help", "SimClr"])
    assert "--objective.temperature" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--objective", "Moco"], "got 'Moco'; did you mean 'MocoV"),
        (["--objective", "mae"], "did you mean 'Mae'"),
        (["--objective", "trap.Payload"], "expected objective out of BarlowTwins, Byol, "),
        (["--objective=trap.Payload"], "expected objective out of BarlowTwins, Byol, "),
        (["--objective.help", "trap.Payload"], "expected objective out of BarlowTwins, Byol, "),
        (["--objective.class_path", "trap.Payload"], "expected an option of objective such as --objective.OPTION"),
        (["--model", "trap.Payload"], "expected model out of ChannelVit, ResNet, SpectralVit, Vit"),
        (["--objective", "{class_path: trap.Payload}"], "expected objective out of BarlowTwins, Byol, "),
        (["--mae.norm", "patch"], "expected --objective Mae --objective.norm, got the earlier spelling --mae.norm"),
        (["--model.timm_name", "x"], "expected --model.name, got the earlier spelling"),
    ],
)
def test_a_name_that_is_not_registered_is_refused_before_anything_is_imported(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as refused:
        parsed(*arguments)
    assert words in str(refused.value)
    assert "trap" not in sys.modules


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("objective: trap.Payload", "expected objective out of BarlowTwins, Byol, "),
        ("objective: {class_path: trap.Payload}", "with one of BarlowTwins, Byol, Croma, Data2Vec, Data2Vec2"),
        ("objective: {trap.Payload: {}}", "expected objective out of BarlowTwins, Byol, "),
        (
            "objective: {name: Mae, norm: patch}",
            "expected `objective: BarlowTwins` or `objective: {BarlowTwins: {OPTION: VALUE}}`",
        ),
        (
            "model: {timm_name: vit_tiny_patch16_224, depth: 2}",
            "expected `model: ChannelVit` or `model: {ChannelVit: {OPTION: VALUE}}`",
        ),
        ("mae: {norm: patch}", "got the earlier spelling --mae"),
    ],
)
def test_a_configuration_cannot_name_what_is_not_registered(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    (tmp_path / "c.yaml").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as refused:
        parsed("--config", str(tmp_path / "c.yaml"))
    assert words in str(refused.value)
    assert "trap" not in sys.modules


def test_listeners_are_named_as_one_types_them(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--model.depth", "1", "--epochs", "2", "--batch_size", "4", "--training.log_every", "2"]
    assert main(["pretrain", "--corpus", str(corpus), "--out", str(tmp_path / "csv"), "--loggers", "csv", *short]) == 0
    manifest = require(tmp_path / "csv", "pretrain")
    assert manifest.config["steps"] == 2 * (manifest.summary["tiles"] // 4)
    (written,) = (tmp_path / "csv" / "logs").glob("csv/version_0/metrics.csv")
    rows = written.read_text().splitlines()
    assert "loss" in rows[0] and len(rows) == 1 + len((tmp_path / "csv" / "log.jsonl").read_text().splitlines())
    assert (
        main(["pretrain", "--corpus", str(corpus), "--out", str(tmp_path / "b"), "--loggers", "csv", "trackio", *short])
        == 2
    )
    assert "expected the package of logger trackio to be installed, got none" in capsys.readouterr().err
    both = ["--steps", "3", "--epochs", "1"]
    assert main(["pretrain", "--corpus", str(corpus), "--out", str(tmp_path / "c"), *both]) == 2
    assert "expected steps or epochs, got 3 steps and 1.0 epochs; leave one out" in capsys.readouterr().err


def test_a_choice_inside_an_option_is_named_as_one_outside_and_begins_with_its_own_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`{Density: {}}` was the default selector without a word, and a Density named by its path had options of that one."""

    def chosen(text: str) -> object:
        (tmp_path / "c.yaml").write_text(f"prune: {{warmup: 1, interval: 2, method: {text}}}")
        return parsed("--config", str(tmp_path / "c.yaml"))["prune"].method

    density = partial(Density, scaling="l2")  # what auto means in training
    assert chosen("{Density: {gamma: 0.2}}") == density(gamma=0.2)
    assert chosen("Density") == chosen("{Density: {}}") == density()
    hierarchical = Hierarchical(levels=(60, 12), n_resample=3, fit_rows=20_000, scaling="l2")
    assert chosen("{levels: [60, 12]}") == hierarchical
    named = parsed("--prune.warmup", "1", "--prune.interval", "2", "--prune.method", "Density")
    assert named["prune"].method == density()
    for text, words in (
        ("{Densty: {}}", "expected prune.method out of .*Density, .*, got 'Densty'; did you mean 'Density'"),
        ("{class_path: Density}", "expected `prune.method: D4` or"),
        ("{Density: 3}", "expected `prune.method: D4` or"),
    ):
        with pytest.raises(UserError, match=words):
            chosen(text)
    (tmp_path / "c.yaml").write_text("prune: {warmup: 1, interval: 2, method: {Density: {gamma: 0.2}}}")
    with pytest.raises(SystemExit):
        main(["pretrain", "--corpus", "c", "--out", "o", "--config", str(tmp_path / "c.yaml"), "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["prune"]["method"]["Density"]["gamma"] == 0.2

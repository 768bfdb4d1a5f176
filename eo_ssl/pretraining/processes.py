"""On what a run is trained: devices, processes, precision, and the loggers that listen beside the run's own log."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import loggers
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy

from eo_ssl.errors import UserError, expect

Precision = Literal["auto", "float32", "bfloat16"]
LoggerName = Literal["csv", "tensorboard", "mlflow", "wandb", "trackio"]


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Processes:
    """Devices and processes of a run; the batch is divided among them, so that their number changes no batch size."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes GPUs where there are some."""
    devices: int = 1
    """Processes on each node, one device each."""
    num_nodes: int = 1
    """Nodes; each runs the same command, under Slurm or torchrun."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """auto: one process, or data parallel; fsdp shards weights and optimizer state too and needs GPUs."""
    precision: Precision = "auto"
    """`auto`: bfloat16 on a GPU that has it, else float32; a CPU without bfloat16 units is 17 times slower with it."""
    accumulate: int = 1
    """Parts that each process splits its share of a batch into, one after another, to save memory."""

    def __post_init__(self) -> None:
        """Check what does not depend on the machine."""
        for name in ("devices", "num_nodes", "accumulate"):
            count = getattr(self, name)
            expect(count >= 1, expected=f"{name} of at least 1", got=count, remedy="give a positive number")

    @property
    def world(self) -> int:
        """Processes of the run."""
        return self.devices * self.num_nodes

    def describe(self) -> dict[str, Any]:
        """What of it enters the configuration of a run, since it changes what is computed."""
        return {"precision": self.precision, "world": self.world, "accumulate": self.accumulate}

    def share(self, batch_size: int) -> int:
        """Items of one process at a time, of a batch of `batch_size` over all processes and parts.

        Raises:
            UserError: a batch that cannot be divided evenly.
        """
        parts = self.world * self.accumulate
        expect(
            batch_size % parts == 0 and batch_size >= parts,
            expected=f"a batch_size that {self.world} processes x {self.accumulate} parts divide evenly",
            got=batch_size,
            remedy=f"choose a multiple of {parts}",
        )
        return batch_size // parts

    def trainer_options(self) -> dict[str, Any]:
        """What Lightning's trainer is told.

        Raises:
            UserError: a device, precision or strategy that this machine does not have.
        """
        has_cuda = torch.cuda.is_available()
        on_cuda = has_cuda and self.device != "cpu"
        expect(
            has_cuda or self.device != "cuda", expected="a GPU for device cuda", got="none", remedy="use --device cpu"
        )
        expect(
            on_cuda or self.strategy != "fsdp",
            expected="GPUs for strategy fsdp",
            got="a CPU",
            remedy="use --strategy ddp",
        )
        return {
            "accelerator": "cuda" if on_cuda else "cpu",
            "devices": self.devices,
            "num_nodes": self.num_nodes,
            "strategy": self._strategy(),
            "precision": self._precision(on_cuda),
            "accumulate_grad_batches": self.accumulate,
            "sync_batchnorm": on_cuda and self.world > 1,
            # Lightning would save in the middle of a step and go on; a signal is seen to at its end.
            "plugins": [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None,
        }

    def _strategy(self) -> Any:
        if self.strategy == "fsdp":
            return FSDPStrategy(state_dict_type="full")
        return DDPStrategy() if self.world > 1 or self.strategy == "ddp" else "auto"

    def _precision(self, on_cuda: bool) -> Literal["32-true", "bf16-mixed"]:
        """Lightning's name of the precision; bfloat16 only where the hardware has it."""
        has_bfloat16 = on_cuda and torch.cuda.is_bf16_supported()
        expect(
            has_bfloat16 or self.precision != "bfloat16",
            expected="a GPU with bfloat16 for precision bfloat16",
            got="none",
            remedy="use --precision float32",
        )
        return "bf16-mixed" if has_bfloat16 and self.precision != "float32" else "32-true"


def make_loggers(names: tuple[LoggerName, ...], folder: Path) -> list[loggers.Logger]:
    """Lightning's loggers by name, writing under `folder`.

    Raises:
        UserError: a logger whose package is not installed.
    """
    return [_make_logger(name, folder) for name in names]


def _make_logger(name: LoggerName, folder: Path) -> loggers.Logger:
    try:
        if name == "csv":
            return loggers.CSVLogger(folder, name="csv", flush_logs_every_n_steps=1)
        if name == "tensorboard":
            return loggers.TensorBoardLogger(folder, name="tensorboard")
        if name == "mlflow":
            return loggers.MLFlowLogger("eo_ssl", tracking_uri=f"file:{folder.resolve() / 'mlflow'}")
        if name == "wandb":
            return loggers.WandbLogger(save_dir=folder, project="eo_ssl")
        return TrackioLogger()
    except ModuleNotFoundError as error:
        raise UserError(
            f"expected the package of logger {name} to be installed, got none ({error}); install it, or choose csv"
        ) from error


class TrackioLogger(loggers.Logger):
    """Hands metrics to trackio, for which Lightning has no logger."""

    def __init__(self) -> None:
        """Begin a run of the project eo_ssl; fails where trackio is not installed."""
        super().__init__()
        import trackio

        self._run = trackio.init(project=self.name)

    @property
    def name(self) -> str:
        """Of the project."""
        return "eo_ssl"

    @property
    def version(self) -> int:
        """Trackio numbers its runs itself."""
        return 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add a row."""
        self._run.log(metrics, step=step)

    def log_hyperparams(self, *arguments: Any, **options: Any) -> None:
        """The manifest holds the configuration."""

    def finalize(self, status: str) -> None:
        """End the run."""
        self._run.finish()

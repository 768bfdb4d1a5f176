"""How a task is judged: protocols, amounts of training samples, draws and seed, and where features are computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eo_ssl.errors import UserError
from eo_ssl.evaluation.draws import Amount
from eo_ssl.evaluation.methods import check_methods
from eo_ssl.evaluation.tasks import Kind
from eo_ssl.evaluation.tuning import Tuning


@dataclass(frozen=True, slots=True)
class Settings:
    """How a task is judged."""

    protocols: tuple[str, ...]
    "`methods`, in their order"
    amounts: tuple[Amount, ...]
    "of training samples"
    draws: int
    "draws per amount"
    seed: int
    "of draws, descent and bootstrap"
    tuning: Tuning = field(default_factory=Tuning)
    "recipe of protocols that train"

    @classmethod
    def of(
        cls,
        protocols: Sequence[str],
        *,
        kind: Kind = "classification",
        shots: Sequence[int],
        fractions: Sequence[float] = (),
        draws: int,
        seed: int,
        tuning: Tuning | None = None,
    ) -> Settings:
        """Return checked settings; 0 shots are all training samples, and ``tuning`` takes the seed where none is given.

        Raises:
            UserError: an unknown protocol, repeated or impossible amounts, no draw.
        """
        amounts = (*(Amount(shots=count or None) for count in shots), *(Amount(fraction=share) for share in fractions))
        if not amounts or len(set(amounts)) < len(amounts) or draws < 1:
            raise UserError(
                f"expected different numbers of shots or fractions and at least one draw, got {[*shots, *fractions]} and {draws}; "
                "give 1 5 10 20, or 0 for all"
            )
        return cls(check_methods(protocols, kind), amounts, draws, seed, tuning or Tuning(seed=seed))


@dataclass(frozen=True, slots=True)
class Computing:
    """Where and how features are computed."""

    batch_size: int = 64
    cache: Path | None = None
    device: str = "cpu"
    progress: Callable[[int], None] | None = None
    "called with the number of images finished"

"""How a task is judged: protocols, amounts of training samples, draws and seed, and the recipe of trained protocols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from eo_ssl.errors import expect
from eo_ssl.evaluation.draws import Amount
from eo_ssl.evaluation.protocols import check_protocols
from eo_ssl.evaluation.tasks import Kind
from eo_ssl.evaluation.tuning import Tuning


@dataclass(frozen=True, slots=True)
class Settings:
    """How a task is judged."""

    protocols: tuple[str, ...]
    "out of `protocols.PROTOCOLS`, in their order"
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
        expect(
            amounts and len(set(amounts)) == len(amounts) and draws > 0,
            expected="different numbers of shots or fractions and at least one draw",
            got=f"{[*shots, *fractions]} and {draws}",
            remedy="give 1 5 10 20, or 0 for all",
        )
        return cls(check_protocols(protocols, kind), amounts, draws, seed, tuning or Tuning(seed=seed))

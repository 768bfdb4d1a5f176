"""What few test items of a class cannot show: the least variance of its share of right answers, and the freedom of an estimated one.

Classes that weigh alike make every item of a rare class count much. A class of one item has no spread at all, and one of eight that
are all answered alike has none either, though another eight might differ. Adding a few answers that were not given is the usual remedy
for a share (Agresti and Coull 1998, doi:10.1080/00031305.1998.10480550) and for a paired difference of shares (Bonett and Price 2012,
J. Educ. Behav. Stat. 37:479).
"""

from __future__ import annotations

import numpy as np

from eo_ssl.evaluation.task_metrics import Floats, Ints

SHARE = (2.0, 2.0)
"Answers added to each class: right and wrong ones, which are 1 and 0."
DIFFERENCE = (1.0, 1.0)
"Pairs added to each class: those that only the first, or only the second, answered rightly, which are 1 and -1."


def unseen(strata: Ints, blocks: Ints, terms: Floats, shares: Floats, *, paired: bool) -> tuple[float, float]:
    """Return the variance that the terms of the items lack, and its degrees of freedom.

    Args:
        strata: [n] class of each item.
        blocks: [n] block of each item.
        terms: [n] of the items, or of their difference.
        shares: [K] share of right answers in each class, or the difference of the shares.
        paired: whether they are differences.
    """
    kinds, up, down = len(shares), *(DIFFERENCE if paired else SHARE)
    items = np.bincount(strata, minlength=kinds).astype(np.float64)
    answers = terms * kinds * items[strata] + shares[strata]
    count, low = items + up + down, -1.0 if paired else 0.0
    mean = (np.bincount(strata, weights=answers, minlength=kinds) + up + low * down) / count
    square = (np.bincount(strata, weights=answers**2, minlength=kinds) + up + low**2 * down) / count
    cells, of = np.unique(strata * (blocks.max() + 1) + blocks, return_inverse=True)  # pairs of class and block
    owner = cells // (blocks.max() + 1)
    met = np.bincount(owner, minlength=kinds)
    sums = np.bincount(of, weights=terms) * kinds
    seen = np.bincount(owner, weights=sums**2, minlength=kinds) * met / np.maximum(met - 1, 1)
    lacking = np.maximum((square - mean**2) / count - seen, 0.0) / kinds**2
    if not lacking.any():
        return 0.0, 1.0
    return float(lacking.sum()), float(lacking.sum() ** 2 / (lacking**2 / items).sum())


def freedom(sums: Floats) -> float:
    """Return the degrees of freedom of the variance estimated from ``sums`` [G] of the blocks, at most G - 1.

    Where few blocks carry most of the spread, as those with a rare class do, the estimate is worth fewer (O'Neill 2014,
    doi:10.1080/00031305.2014.966589).
    """
    count = len(sums)
    away = sums - sums.mean()
    square = float((away**2).sum())
    if count < 3 or not square:
        return float(count - 1)
    kurtosis = count * float((away**4).sum()) / square**2
    return min(count - 1.0, 2 / (kurtosis / count - (count - 3) / (count * (count - 1))))

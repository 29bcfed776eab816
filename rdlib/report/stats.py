"""How far a number can be trusted: interval, bootstrap, average over categories, verdict. All in per cent.

The question of a verdict is: would the paper's run be an ordinary run of ours? The paper has ONE run for each number, we have n
seeds, so its value is held against the interval in which one more run of ours falls with 95 % (a prediction interval), not against
that of our mean. Which images are tested moves the paper's run and ours alike and cancels, so the seed is the only source of spread.
(`bootstrap` answers another question: how far a number would move on other images of the same kind.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
ROUNDING = 0.05  # the paper prints one decimal
WIDEST = 1.0  # points; an interval of a greater half-width decides nothing
SAME_WEIGHTS = ("published", "same function")


def half_width(std: ArrayLike, n: ArrayLike) -> NDArray:
    """Half-width of the interval in which one more run falls, about the mean of n: t(n - 1) s sqrt(1 + 1/n); NaN for n < 2.

    std: sample standard deviation over n seeds
    """
    std, n = np.asarray(std, float), np.asarray(n, float)
    return scipy.stats.t.ppf(0.5 + CONFIDENCE / 2, np.where(n > 1, n - 1, np.nan)) * std * np.sqrt(1 + 1 / np.maximum(n, 1))


def difference(cells: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    """How far the means of unpaired seeds are apart, with Welch's 95 % interval of that.

    cells, base: ours, std, n, of one index
    returns: difference; interval, its half-width, NaN where either has one seed only or none has any spread
    """
    parts = [c["std"] ** 2 / c["n"] for c in (cells, base)]
    total = parts[0] + parts[1]
    freedom = total**2 / (parts[0] ** 2 / (cells["n"] - 1) + parts[1] ** 2 / (base["n"] - 1))
    interval = scipy.stats.t.ppf(0.5 + CONFIDENCE / 2, freedom) * np.sqrt(total)
    return pd.DataFrame({"difference": cells["ours"] - base["ours"], "interval": interval})


def average(cells: pd.DataFrame) -> dict[str, Any]:
    """The mean of cells over categories or classes, with its interval. A category without a value leaves none for the average.

    The categories are independent, so variances add; the degrees of freedom are Welch and Satterthwaite's. Exact for one category,
    on the careful side for few seeds of many (3 % instead of 5 % false alarms for 15 categories of two seeds).
    cells: a row per category with ours, std, n and what `runs.traced` gives
    """
    value = cells["ours"].mean(skipna=False)
    if pd.isna(value):
        lacking = cells[cells["ours"].isna()]
        why = next((m for m in lacking["missing"] if m != "not run"), "not run")
        return _ABSENT | {"failed": " ".join(filter(None, lacking["failed"])), "missing": why}
    variance = cells["std"] ** 2 * (1 + 1 / cells["n"])  # of each category's mean against one more run
    total = variance.sum(skipna=False)
    freedom = total**2 / (variance**2 / (cells["n"] - 1)).sum() if total > 0 else np.nan
    half = scipy.stats.t.ppf(0.5 + CONFIDENCE / 2, freedom) * np.sqrt(total) / len(cells) if total > 0 else total
    return {
        "ours": value,
        "std": np.sqrt((cells["std"] ** 2).sum(skipna=False)) / len(cells),
        "n": cells["n"].min(),
        "half_width": half,
        **{name: " ".join(filter(None, cells[name])) for name in ("runs", "failed")},
        "missing": "",
    }


_ABSENT = {"ours": np.nan, "std": np.nan, "n": 0, "half_width": np.nan, "runs": ""}


def verdict(cells: pd.DataFrame) -> list[str]:
    """What each cell says of the paper's value.

    agrees, higher, lower: the paper's value lies in our interval, widened by its rounding; ours is above it; below it
    undecided: one seed, or an interval wider than a point to each side, or seeds that all give one value, which says nothing of their
        spread (a score near 100 % moves in steps), and that value is not the paper's
    different setting: other data, teacher or resolution; not published; not run, failed, diverged or undefined: no value of ours
    cells: ours, half_width, paper, same (data, teacher and resolution as in the paper), missing (what to say without ours)
    """
    difference = cells["ours"] - cells["paper"]
    rules = [
        (cells["ours"].isna(), cells["missing"]),
        (cells["paper"].isna(), "not published"),
        (~cells["same"].astype(bool), "different setting"),
        (~(cells["half_width"] <= WIDEST), "undecided"),  # NaN too
        (difference.abs() <= cells["half_width"] + ROUNDING, "agrees"),
        (cells["half_width"] < 1e-6, "undecided"),  # 0 but for rounding
        (difference > 0, "higher"),
    ]
    return list(np.select([condition for condition, _ in rules], [word for _, word in rules], "lower"))


def enough_epochs(losses: Sequence[float], fall: float = 1 / 3) -> int | None:
    """How long to train, from the training loss alone: the first of 2, 4, 8, 16 ... epochs whose second half lowers it by less than `fall`.

    The paper leaves the epochs of Table 4 open. This looks at no test image, so the number of epochs cannot be chosen by a score.
    losses: mean training loss of each epoch, of one run or averaged over runs
    returns: None where no such length was reached
    """
    lengths = [2**k for k in range(1, len(losses).bit_length()) if 2**k <= len(losses)]
    return next((n for n in lengths if losses[n - 1] > (1 - fall) * losses[n // 2 - 1]), None)


def claim(differences: ArrayLike) -> dict[str, Any]:
    """Whether paired differences speak for "more than zero": of runs that share data, category, seed and so their random numbers.

    The test is exact: with no effect each difference could as well have the other sign. Six pairs at least can decide. It is about
    these categories, as others may differ in other ways.
    differences: (N,) in points
    returns: n, mean, low and high (95 % interval of the mean, bootstrap over the pairs), p (two-sided), verdict: "holds" or "does not
        hold" where p is below 5 %, else "undecided"; "not run" without a pair
    """
    found = np.asarray(differences, float)
    if not len(found):
        return {"n": 0, "mean": np.nan, "low": np.nan, "high": np.nan, "p": np.nan, "verdict": "not run"}
    told = {"n": len(found), "mean": found.mean(), "low": np.nan, "high": np.nan, "p": 1.0, "verdict": "undecided"}
    if np.ptp(found) > 0:
        drawn = scipy.stats.bootstrap((found,), np.mean, n_resamples=9999, method="percentile", confidence_level=CONFIDENCE, rng=0)
        told["low"], told["high"] = drawn.confidence_interval
    if len(found) > 1 and found.any():
        told["p"] = float(scipy.stats.permutation_test((found,), np.mean, permutation_type="samples", n_resamples=9999, rng=0).pvalue)
    if told["p"] < 1 - CONFIDENCE:
        told["verdict"] = "holds" if told["mean"] > 0 else "does not hold"
    return told


def bootstrap(labels: ArrayLike, scores: ArrayLike, draws: int = 999) -> tuple[float, float]:
    """The 95 % interval of the image AUROC (per cent) when the test images are drawn again, normal and anomalous ones apart.

    Seeded, so it is repeatable. labels: (N,) 1 = anomalous; scores: (N,)
    returns: its ends; NaN with fewer than two images of a kind
    """
    labels, scores = np.asarray(labels), np.asarray(scores, float)
    parts = (scores[labels == 0], scores[labels == 1])
    if min(map(len, parts)) < 2:
        return np.nan, np.nan
    found = scipy.stats.bootstrap(parts, _auroc, n_resamples=draws, method="percentile", confidence_level=CONFIDENCE, rng=0, batch=100)
    return tuple(100 * float(end) for end in found.confidence_interval)


def _auroc(normal: NDArray, anomalous: NDArray, axis: int = -1) -> NDArray:
    """Mann and Whitney's form of the AUROC: (..., n) and (..., m) -> (...)."""
    n, m = normal.shape[axis], anomalous.shape[axis]
    ranks = scipy.stats.rankdata(np.concatenate([normal, anomalous], axis=axis), axis=axis)
    return (np.take(ranks, range(n, n + m), axis=axis).sum(axis=axis) - m * (m + 1) / 2) / (n * m)

"""Interval, average, verdict and bootstrap: closed forms, brute force, and the coverage that the verdict promises."""

import inspect
import itertools
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st

from rdlib import fit, metrics
from rdlib.report import stats

T1, T2, T4 = 12.7062, 4.302653, 2.776445  # Student's 97.5 % quantiles, from a table
PER_CENT = st.integers(0, 1000).map(lambda i: i / 10)


def cells(ours, std, n, **more):
    table = pd.DataFrame(
        {"ours": ours, "std": std, "n": n, "runs": [f"r{i}" for i in range(len(ours))], "failed": "", "missing": "undefined"}
    )
    return table.assign(**more)


@pytest.mark.parametrize("std, n, expected", [(2, 2, T1 * 2 * math.sqrt(3 / 2)), (3, 3, T2 * 3 * math.sqrt(4 / 3)), (0, 2, 0)])
def test_half_width_by_hand(std, n, expected):
    assert stats.half_width(std, n) == pytest.approx(expected, rel=1e-5)
    assert np.isnan(stats.half_width([math.nan, math.nan], [1, 0])).all(), "one seed has none"


@given(st.lists(PER_CENT, min_size=2, max_size=6), st.lists(PER_CENT, min_size=2, max_size=6))
def test_the_difference_of_two_means_is_welchs(one, other):
    assume(min(np.std(one), np.std(other)) > 0.01)
    a, b = (cells([np.mean(v)], [np.std(v, ddof=1)], [len(v)]) for v in (one, other))
    found = stats.difference(a, b).iloc[0]
    low, high = scipy.stats.ttest_ind(one, other, equal_var=False).confidence_interval()
    assert found["difference"] == pytest.approx((low + high) / 2, abs=1e-9) and found["interval"] == pytest.approx((high - low) / 2)
    assert math.isnan(stats.difference(a.assign(std=math.nan, n=1), b)["interval"].iloc[0]), "one seed has none"


# --- Average ------------------------------------------------------------------------------------------------------


def test_an_average_by_hand():
    """Two categories of three seeds and equal spread: four degrees of freedom, the mean's variance is a half."""
    found = stats.average(cells([90, 80], [3, 3], [3, 3]))
    assert (found["ours"], found["n"], found["runs"]) == (85, 3, "r0 r1")
    assert found["std"] == pytest.approx(3 / math.sqrt(2)) and found["half_width"] == pytest.approx(T4 * 3 * math.sqrt(4 / 3 / 2), rel=1e-5)


@given(std=PER_CENT, n=st.integers(2, 9))
def test_the_average_of_one_category_is_that_category(std, n):
    found = stats.average(cells([70], [std], [n]))
    assert (found["ours"], found["std"], found["n"]) == (70, pytest.approx(std), n)
    assert found["half_width"] == pytest.approx(float(stats.half_width(std, n)))


def test_no_average_leaves_a_category_out():
    table = cells([90, math.nan], [1, math.nan], [2, 0], failed=["x", "y"], missing=["undefined", "diverged"])
    found = stats.average(table)
    assert math.isnan(found["ours"]) and (found["n"], found["runs"], found["failed"], found["missing"]) == (0, "", "y", "diverged")
    assert stats.average(table.assign(missing="not run"))["missing"] == stats.average(table.iloc[:0])["missing"] == "not run"


def test_an_average_over_one_seed_has_no_interval():
    found = stats.average(cells([90, 80], [1, math.nan], [2, 1], failed=["", "y"]))
    assert (found["ours"], found["n"], found["failed"]) == (85, 1, "y") and math.isnan(found["half_width"]) and math.isnan(found["std"])


# --- The verdict --------------------------------------------------------------------------------------------------


def verdict(ours, half, paper, same=True, missing="undefined"):
    return stats.verdict(pd.DataFrame({"ours": [ours], "half_width": [half], "paper": [paper], "same": [same], "missing": [missing]}))[0]


# Half-width 0.45 and rounding 0.05 make 0.5 exactly.
VERDICTS = [
    (math.nan, math.nan, 98.0, True, "not run"),
    (math.nan, math.nan, math.nan, False, "failed"),
    (98.0, 0.5, math.nan, True, "not published"),
    (98.0, 0.5, 98.0, False, "different setting"),
    (98.0, math.nan, 98.0, True, "undecided"),
    (98.0, 1.0, 98.0, True, "agrees"),
    (98.0, 1.01, 98.0, True, "undecided"),
    (98.5, 0.45, 98.0, True, "agrees"),
    (97.5, 0.45, 98.0, True, "agrees"),
    (98.501, 0.45, 98.0, True, "higher"),
    (97.499, 0.45, 98.0, True, "lower"),
    (98.0, 0.0, 98.0, True, "agrees"),
    (98.2, 0.0, 98.0, True, "undecided"),
]


@pytest.mark.parametrize("ours, half, paper, same, expected", VERDICTS)
def test_verdict(ours, half, paper, same, expected):
    assert verdict(ours, half, paper, same, expected if math.isnan(ours) else "undefined") == expected


@given(ours=PER_CENT, half=st.integers(1, 100).map(lambda i: i / 100), paper=PER_CENT)
def test_a_verdict_turns_round_with_the_two_sides(ours, half, paper):
    assert verdict(paper, half, ours) == {"agrees": "agrees", "higher": "lower", "lower": "higher"}[verdict(ours, half, paper)]


def reproductions(n, draw, count=20_000):
    """Ours (count, n) and the paper's, one more of the same, rounded as printed."""
    values = draw(np.random.default_rng(n), (count, n + 1))
    return values[:, :n], values[:, n].round(1)


def normal(spread):
    return lambda rng, size: rng.normal(97, spread, size)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_perfect_reproduction_is_covered_in_95_per_cent(n):
    """And in no more than 90 % by the interval of our mean, which takes the paper's run for the truth."""
    ours, paper = reproductions(n, normal(1.0))
    std, apart = ours.std(axis=1, ddof=1), np.abs(ours.mean(axis=1) - paper)
    assert np.mean(apart <= stats.half_width(std, n) + stats.ROUNDING) == pytest.approx(0.95, abs=0.02)
    assert np.mean(apart <= 1.96 * std / math.sqrt(n) + stats.ROUNDING) < 0.9


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("kind", ["narrow", "usual", "wide", "steps"])
def test_at_most_one_cell_in_twenty_of_a_perfect_reproduction_is_called_different(n, kind):
    """Undecided ones count among the cells. steps: two thirds of the runs give 100 %, the others one step less."""
    steps = lambda rng, size: np.where(rng.random(size) < 2 / 3, 100.0, 99.7)  # noqa: E731
    ours, paper = reproductions(n, {"narrow": normal(0.05), "usual": normal(0.3), "wide": normal(2.0), "steps": steps}[kind])
    std = ours.std(axis=1, ddof=1)
    table = pd.DataFrame({"ours": ours.mean(axis=1), "half_width": stats.half_width(std, n), "paper": paper, "same": True, "missing": ""})
    assert np.isin(stats.verdict(table), ["higher", "lower"]).mean() < 0.06


@pytest.mark.parametrize("n", [2, 3])
def test_the_average_is_covered_at_least_as_often(n):
    """Fifteen categories, some with a tenth of the others' spread."""
    rng, spread = np.random.default_rng(0), np.linspace(0.1, 1, 15)
    covered = []
    for _ in range(400):
        values = rng.normal(97, spread, (n + 1, 15))
        found = stats.average(cells(values[:n].mean(axis=0), values[:n].std(axis=0, ddof=1), np.full(15, n)))
        covered.append(abs(found["ours"] - values[n].mean()) <= found["half_width"])
    assert np.mean(covered) > 0.93


# --- Drawing the test images again ----------------------------------------------------------------------------------


def test_the_bootstrap_of_four_images_by_hand():
    """Normal images at 0, anomalous ones at -1 and 1: a draw's AUROC is 0, 1/2 or 1 with chance 1/4, 1/2, 1/4."""
    assert stats.bootstrap([0, 0, 1, 1], [0, 0, -1, 1]) == (0, 100)
    assert np.isnan(stats.bootstrap([0, 1, 1], [0, -1, 1])).all(), "one image cannot be drawn otherwise"
    assert stats.bootstrap([0, 0, 1, 1], [0, 1, 2, 3], draws=20) == (100, 100), "perfect separation has no uncertainty"


def test_the_bootstrap_agrees_with_hanley_and_mcneil_and_leaves_the_random_state_alone():
    rng = np.random.default_rng(1)
    labels, scores = np.repeat([0, 1], [200, 150]), np.concatenate([rng.normal(size=200), rng.normal(1, size=150)])
    a, n, m = metrics.image_auroc(labels=labels, scores=scores), 150, 200
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = 100 * math.sqrt((a * (1 - a) + (n - 1) * (q1 - a * a) + (m - 1) * (q2 - a * a)) / (n * m))
    np.random.seed(3)
    expected = np.random.RandomState(3).rand()
    low, high = stats.bootstrap(labels, scores)
    assert np.random.rand() == expected and stats.bootstrap(labels, scores) == (low, high)
    assert (high - low) / 2 == pytest.approx(scipy.stats.norm.ppf(0.975) * error, rel=0.2) and low < 100 * a < high


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=2, max_size=12).filter(
        lambda rows: 0 < sum(r[0] for r in rows) < len(rows)
    )
)
def test_its_auroc_is_ours(rows):
    labels, scores = map(np.array, zip(*rows))
    found = stats._auroc(scores[labels == 0], scores[labels == 1])
    assert found == pytest.approx(metrics.image_auroc(labels=labels, scores=scores.astype(float)))


# --- The paper's claims -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, verdict", [(2, "undecided"), (5, "undecided"), (6, "holds"), (9, "holds")])
def test_a_claim_needs_six_pairs_that_agree(n, verdict):
    """2 of 2^n choices of signs are as extreme."""
    found = stats.claim(np.arange(1.0, n + 1))
    assert found["p"] == pytest.approx(2 / 2**n) and found["verdict"] == verdict and found["mean"] == (n + 1) / 2
    against = stats.claim(-np.arange(1.0, n + 1))
    assert against["p"] == found["p"] and against["verdict"] == {"holds": "does not hold"}.get(verdict, verdict)


def test_the_test_of_a_claim_is_exact():
    found = np.array([3.0, -1.0, 2.0, 5.0, -0.5, 4.0, 1.5])
    means = [np.mean(found * signs) for signs in itertools.product((1, -1), repeat=len(found))]
    assert stats.claim(found)["p"] == pytest.approx(np.mean(np.abs(means) >= abs(found.mean()) - 1e-12))


def test_without_an_effect_a_claim_is_rarely_decided():
    rng = np.random.default_rng(0)
    decided = [stats.claim(rng.normal(size=8))["verdict"] != "undecided" for _ in range(200)]
    assert 0.01 <= np.mean(decided) <= 0.09


def test_claims_without_pairs_or_without_any_difference():
    assert stats.claim([])["verdict"] == "not run"
    assert (stats.claim([0.0] * 8)["verdict"], stats.claim([2.0])["verdict"]) == ("undecided", "undecided")
    found = stats.claim(np.arange(1.0, 9.0))
    assert 1 < found["low"] < found["mean"] < found["high"] < 8 and stats.claim(np.arange(1.0, 9.0)) == found, "seeded"


# --- How long to train --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "losses, enough",
    [
        ([], None),
        ([1.0], None),
        ([1.0, 0.9], 2),
        ([1.0, 0.6, 0.6, 0.5], 4),
        ([1.0, 0.5, 0.4, 0.25, 0.2, 0.2, 0.2, 0.2], 8),
        ([1.0, 0.5, 0.3, 0.25, 0.1], None),  # 8 was not reached
        ([0.3, 0.2], None),  # by a third exactly
    ],
)
def test_epochs_are_enough_where_the_second_half_lowers_the_loss_by_less_than_a_third(losses, enough):
    assert stats.enough_epochs(losses) == enough


def test_the_rule_for_epochs_sees_training_losses_and_nothing_else():
    """They are what `fit` gives, which is given no test image (tests/test_fit.py)."""
    assert list(inspect.signature(stats.enough_epochs).parameters) == ["losses", "fall"]
    assert "test" not in inspect.signature(fit.fit).parameters

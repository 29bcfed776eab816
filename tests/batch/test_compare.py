"""Ours against the committed reference: identical, within what another machine may change, outside, nothing to compare."""

import subprocess
import sys

import pytest
from helpers import REPO
from made_up_runs import put, run

from rdlib.batch import compare
from rdlib.evaluate import METRICS

REFERENCE = [run(0.90), run(0.90, seed=1), run(0.90, category="wood")]


def ours(*values):
    """The reference's runs with these image AUROCs."""
    seeds = ({}, {"seed": 1}, {"category": "wood"})
    return [run(0.90, metrics={"image_auroc": v}, **p) for v, p in zip(values, seeds)]


def test_every_metric_of_the_runs_that_both_have_unless_one_is_undefined():
    found = compare.differences([run(0.5, seed=7), *ours(0.95)], [*REFERENCE, run(0.5, seed=8)])
    assert found.index.tolist() == [REFERENCE[0]["run_id"]] and set(found) == set(METRICS)
    assert found["image_auroc"].tolist() == pytest.approx([5]) and (found.drop(columns="image_auroc") == 0).all(axis=None)
    found = compare.differences([run(metrics={"au_pro": None})], [run(metrics={"pixel_ap": None})])
    assert found.columns[found.isna().all()].tolist() == ["pixel_ap", "au_pro"]


@pytest.mark.parametrize("mine, theirs", [([], REFERENCE), (REFERENCE, []), ([run(seed=9)], REFERENCE), ([], [])])
def test_nothing_to_compare(mine, theirs):
    assert compare.summary(mine, theirs) == "No run of the committed reference was repeated: nothing to compare."


def test_identical_runs_are_called_so():
    text = "runs are identical to the committed reference in every metric."
    assert compare.summary(REFERENCE, REFERENCE) == f"3 of 3 {text}"
    assert compare.summary([*REFERENCE[:2], run(0.1, seed=5)], REFERENCE) == f"2 of 2 {text}", "new runs are no difference"


def test_one_that_differs_is_named_and_within_the_spread():
    """Reference without spread: 3 points are allowed; one of three is 3 points lower, so the mean differs by 1."""
    found = compare.summary(ours(0.90, 0.90, 0.87), REFERENCE)
    assert found.startswith("2 of 3 runs are identical")
    assert f"Largest difference: -3.00 points, image_auroc of {REFERENCE[2]['run_id']}." in found
    assert "differs by -1.00 points, within the stated spread of 3.0" in found


def test_outside_the_spread_is_said_loudly():
    assert "differs by +4.00 points, OUTSIDE the stated spread of 3.0" in compare.summary(ours(0.94, 0.94, 0.94), REFERENCE)


def test_any_metric_counts_for_identity():
    found = compare.summary([run(0.9, metrics={"au_pro": 0.91})], REFERENCE)
    assert found.startswith("0 of 1 runs") and "+1.00 points, au_pro of" in found and "differs by +0.00 points, within" in found


def test_noisy_seeds_allow_more():
    """Standard deviation of 80 and 84 % over seeds is 2.83 points: three times that is 8.5."""
    noisy = [run(0.80), run(0.84, seed=1)]
    undefined, alone = run(metrics={"image_auroc": None}, seed=2), run(0.1, loss="pixel")
    steady = [run(0.5, category="wood", seed=s) for s in (0, 1)]
    assert compare.seed_spread([*noisy, undefined, alone]) == pytest.approx(8**0.5)
    assert compare.seed_spread(noisy + steady) == pytest.approx(8**0.5 / 2), "the mean over configurations"
    assert compare.seed_spread([alone, undefined]) == compare.seed_spread([]) == 0
    assert "differs by +8.00 points, within the stated spread of 8.5" in compare.summary([run(0.88), run(0.92, seed=1)], noisy)


def test_the_command_reads_both_folders(tmp_path):
    words = [sys.executable, "-m", "rdlib.batch.compare", put(tmp_path / "ours", REFERENCE[0]), put(tmp_path / "reference", *REFERENCE)]
    done = subprocess.run(words, cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout == "1 of 1 runs are identical to the committed reference in every metric.\n"

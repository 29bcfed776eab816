"""ERRATA.md: every item is there, every test and table it names exists, every size is that of its factor in the table it names."""

import ast
import re

import pytest
from helpers import REPO

from rdlib.report.runs import load, main_setting, of_setting

TEXT = (REPO / "ERRATA.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in TEXT.splitlines() if re.match(r"\| \d", line)]
IDS = [f"{row[0].strip()}-{i}" for i, row in enumerate(ROWS)]


def functions(path):
    """Names of the tests of a file."""
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


def tables(text):
    return [REPO / name for name in re.findall(r"`(results/[\w./-]+)`", text)]


def test_every_item_that_concerns_numbers_or_damage_is_there():
    assert sorted({int(row[0]) for row in ROWS}) == [*range(1, 12), *range(15, 23)]
    assert {len(row) for row in ROWS} == {5} and all(all(row) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_what_shows_it_exists(row):
    named = re.findall(r"`([^`]+)`", row[3])
    tests = [name.split("::") for name in named if "::" in name]
    assert tests and len(tests) + len(tables(row[3])) == len(named)
    for path, name in tests:
        assert name.startswith("test_") and name in functions(REPO / path), f"{path}::{name}"
    for table in tables(row[3]):
        assert table.is_file(), table


def sizes(text):
    """Sizes in points: with a sign, or a bare number of two decimals."""
    return re.findall(r"(?<![\w.])(?<!beta2 )[+-]?\d+\.\d\d(?![\d.])", text)


# How a clause begins -> the row of the table it speaks of.
FACTORS = {
    "eq. 2 instead": "loss = pixel",
    "called": "conv1x1 = True",
    "MVTec's instead": "PRO = MVTec's",
    "best epoch": "best epoch on test",
    "beta2 0.99": "beta2 = 0.99",
    "masks above 0": "mask_rule = any",
    "no antialiasing": "resize = no_antialias",
    "maximum instead of sum": "image score = max",
    "without ImageNet normalisation": "normalise = none",
    "smoothing, by sum": "sigma = 4.0",
    "sigma 2": "sigma = 2.0",
}


def stale(row):
    """Sizes that stand in no line of their factor in the tables that the row names."""
    lines = [line for table in tables(row[3]) for line in table.read_text(encoding="utf-8").splitlines()]
    for clause in row[4].replace("at most 0.05 points by arithmetic", "").split("; "):
        (factor,) = [shown for begin, shown in FACTORS.items() if clause.startswith(begin)] or [None]
        yield from set(sizes(clause)) - set(sizes(" ".join(line for line in lines if line.startswith(f"| {factor}"))))


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_every_size_is_that_of_its_factor(row):
    assert list(stale(row)) == [] and (sizes(row[4]) or "not measured" in row[4])


def test_a_size_of_another_factor_is_found():
    assert sizes("bottle -3.25, demo +14.13, up to 0.16 points at 128 px in 0.5.1") == ["-3.25", "+14.13", "0.16"]
    assert list(stale([*ROWS[0][:4], ROWS[0][4].replace(sizes(ROWS[0][4])[0], "+99.99")])) == ["+99.99"]


def test_the_noise_floor_is_the_greatest_difference_between_two_seeds():
    """In the profile's own setting, over its categories; said in the model card too."""
    found = []
    for profile in ("cpu", "demo"):
        runs = load(REPO / "results" / "reference" / profile)
        main = of_setting(runs.query("method == 'reverse' and variant == '' and experiment == 'main'"), main_setting(runs))
        values = main.groupby("category")["image_auroc"].agg(["min", "max", "count"])
        assert (values["count"] == {"cpu": 3, "demo": 2}[profile]).all()
        found.append(f"{(values['max'] - values['min']).max():.2f}")
    assert sizes(TEXT.split("## ")[0]) == found
    card = (REPO / "docs" / "cards.md").read_text(encoding="utf-8")
    assert f"up to {found[1]} points on the demo and by up to {found[0]} on three categories of MVTec AD" in card

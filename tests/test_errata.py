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


SIZE = r"(?<![\w.])(?<!beta2 )[+-]?\d+\.\d\d(?![\d.])"


def sizes(text):
    """Sizes in points: with a sign, or a bare number of two decimals."""
    return re.findall(SIZE, text)


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
PROFILES = {"bottle": "cpu", "Fashion-MNIST": "cpu", "demo": "demo", "digits": "demo"}
METRICS = {"image AUROC": "image_auroc", "pixel AUROC": "pixel_auroc", "PRO": "au_pro_per_image"}


def last(names, text):
    """The name that is mentioned last, if any is."""
    return max((n for n in names if n in text), key=text.rfind, default=None)


def claims(row):
    """(size, profile, factor, metric) of every size; profile and metric None where the text names none."""
    for clause in row[4].replace("at most 0.05 points by arithmetic", "").split("; "):
        for match in re.finditer(SIZE, clause):
            (factor,) = [shown for begin, shown in FACTORS.items() if clause.startswith(begin)]
            before = clause[: match.start()]
            yield match.group(), PROFILES.get(last(PROFILES, before)), factor, METRICS.get(last(METRICS, before))


def stands(row, size, profile, factor, metric):
    """Whether a table of the row has the size in a line of this factor (and metric, where the table is about several)."""
    for table in tables(row[3]):
        lines = [line for line in table.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {factor}")]
        lines = [line for line in lines if metric is None or "sensitivity" in table.name or metric in line]
        if (profile is None or profile in table.parts) and any(size in sizes(line) for line in lines):
            return True
    return False


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_every_size_is_that_of_its_factor_and_metric(row):
    assert [claim for claim in claims(row) if not stands(row, *claim)] == []
    assert sizes(row[4]) or "not measured" in row[4]


def test_a_size_of_another_factor_metric_or_data_set_is_found():
    first = ROWS[0]
    assert list(claims(first)) == [("-3.25", "cpu", "loss = pixel", "image_auroc"), ("-16.67", "demo", "loss = pixel", "image_auroc")]
    for claim in (
        ("-3.25", "demo", "loss = pixel", "image_auroc"),
        ("-3.25", "cpu", "loss = pixel", "pixel_auroc"),
        ("-0.08", "cpu", "loss = pixel", None),
    ):
        assert not stands(first, *claim)


def test_the_noise_floor_is_the_greatest_difference_between_two_seeds():
    """In the profile's own setting, over its categories; said in the model card too."""
    found = []
    for profile in ("cpu", "demo"):
        runs = load(REPO / "results" / "reference" / profile)
        main = of_setting(runs.query("method == 'reverse' and variant == '' and experiment == 'main'"), main_setting(runs))
        values = main.groupby("category")["image_auroc"].agg(["min", "max", "count"])
        assert (values["count"] == 2).all()
        found.append(f"{(values['max'] - values['min']).max():.2f}")
    assert sizes(TEXT.split("## ")[0]) == found
    card = (REPO / "docs" / "cards.md").read_text(encoding="utf-8")
    assert f"up to {found[1]} points on the demo and by {found[0]} on bottle" in card


def test_a_wrong_size_would_be_found():
    assert sizes("bottle -3.25, demo +14.13, up to 0.16 points at 128 px in 0.5.1") == ["-3.25", "+14.13", "0.16"]

"""ERRATA.md: every item is there, every test and table it names exists, every size stands in a table it names."""

import ast
import re

import pytest
from helpers import REPO

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
    return re.findall(r"(?<![\w.])[+-]?\d+\.\d\d(?![\d.])", text)


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_every_size_stands_in_a_table_of_its_row(row):
    found = {value for table in tables(row[3]) for value in sizes(table.read_text(encoding="utf-8"))}
    for value in sizes(row[4].replace("at most 0.05 points by arithmetic", "")):
        assert value in found
    assert sizes(row[4]) or "not measured" in row[4]


def test_the_noise_floor_is_that_of_the_tables():
    head = TEXT.split("## ")[0]
    found = {value for table in tables(head) for value in sizes(table.read_text(encoding="utf-8"))}
    assert len(tables(head)) == 2 and len(sizes(head)) == 2
    assert all(f"+{value}" in found for value in sizes(head))


def test_a_wrong_size_would_be_found():
    assert sizes("bottle -3.25, demo +14.13, up to 0.16 points at 128 px in 0.5.1") == ["-3.25", "+14.13", "0.16"]

"""README and CONTRIBUTING: their tables are the committed reference's, their links and make targets exist."""

import re
from pathlib import Path

import pytest
import torch
from helpers import REPO

from rdlib import model
from rdlib.batch import reference
from rdlib.config import Config
from rdlib.report import page
from rdlib.run import record

README = (REPO / "README.md").read_text(encoding="utf-8")
REFERENCE = REPO / "results" / "reference"
BLOCK = re.compile(r"<!-- table (\w+/\w+) -->\n(.*?)<!-- end -->", re.S)
TABLES = [match[1] for match in BLOCK.finditer(README)]
DOCUMENTS = ["README.md", "CONTRIBUTING.md"]
LINKED = [*DOCUMENTS, "CHANGELOG.md", "ERRATA.md", *(f"docs/{p.name}" for p in sorted((REPO / "docs").glob("*.md")))]


def test_there_are_tables_and_each_once():
    assert TABLES and len(set(TABLES)) == len(TABLES) == README.count("<!-- table ") == README.count("<!-- end -->")


def test_tables_are_those_of_the_committed_reference():
    assert reference.with_tables(README, REFERENCE) == README


@pytest.mark.parametrize("table", TABLES)
def test_an_edited_digit_is_found(table):
    (block,) = [match for match in BLOCK.finditer(README) if match[1] == table]
    digits = [m.start() for m in re.finditer(r"\d", block[2])]
    assert digits, "no numbers in this table"
    at = block.start(2) + digits[-1]
    edited = f"{README[:at]}{(int(README[at]) + 1) % 10}{README[at + 1 :]}"
    assert reference.with_tables(edited, REFERENCE) == reference.with_tables(README, REFERENCE) != edited


def test_a_table_is_put_between_its_marks_and_nothing_else_changes(tmp_path):
    for name, text in (("one", "| a |\n|---|\n| 1\\2 |\n"), ("two", "| b |\n")):
        (tmp_path / "demo" / "tables").mkdir(parents=True, exist_ok=True)
        (tmp_path / "demo" / "tables" / f"{name}.md").write_text(text)
    blank = "before\n<!-- table demo/one -->\n<!-- end -->\nbetween\n<!-- table demo/two -->\nold\n<!-- end -->\nafter\n"
    filled = reference.with_tables(blank, tmp_path)
    one, two = ("<!-- table demo/one -->\n| a |\n|---|\n| 1\\2 |\n<!-- end -->", "<!-- table demo/two -->\n| b |\n<!-- end -->")
    assert filled == f"before\n{one}\nbetween\n{two}\nafter\n"
    assert reference.with_tables(filled, tmp_path) == filled


def links(document):
    """Targets of Markdown links and images that are neither web addresses nor anchors."""
    found = re.findall(r"\]\(([^)\s]+)\)", (REPO / document).read_text(encoding="utf-8"))
    return [target.split("#")[0] for target in found if not re.match(r"https?:|mailto:|#", target)]


def test_every_anchor_is_a_heading():
    """As GitHub names them: lower case, spaces as hyphens, no punctuation."""
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ")).lower().replace(" ", "-") for line in README.splitlines() if line.startswith("#")
    }
    anchors = set(re.findall(r"\]\(#([^)]+)\)", README))
    assert "your-own-images" in anchors and anchors <= headings


@pytest.mark.parametrize("document, target", [(d, t) for d in LINKED for t in links(d)])
def test_a_relative_link_leads_somewhere(document, target):
    assert (REPO / document).parent.joinpath(target).exists()


def test_the_readme_shows_a_figure():
    assert any(target.endswith(".png") for target in links("README.md"))


def code(document):
    """Everything set as code: `inline` and fenced blocks, comments of the shell left out."""
    text = (REPO / document).read_text(encoding="utf-8")
    pieces = re.findall(r"```[^\n]*\n(.*?)```", text, flags=re.S) + re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    return "\n".join(re.sub(r"\s#.*", "", line) for piece in pieces for line in piece.splitlines())


def mentioned(document):
    return {
        word for words in re.findall(r"^make ([^\n]+)", code(document), re.M) for word in words.split() if re.fullmatch(r"[a-z]+", word)
    }


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_that_is_mentioned_exists(document):
    targets = set(re.findall(r"^([a-z]+):", (REPO / "Makefile").read_text(), re.M))
    assert mentioned(document) and mentioned(document) <= targets


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_line_option_of_make_is_a_variable_of_the_makefile(document):
    variables = set(re.findall(r"^([A-Z]+) \??=", (REPO / "Makefile").read_text(), re.M))
    used = {name for words in re.findall(r"^make ([^\n]+)", code(document), re.M) for name in re.findall(r"\b([A-Z]+)=", words)}
    assert used <= variables and (used or document != "README.md")


def test_the_map_of_the_house_names_what_is_there():
    """Each path in code style that begins with a folder of the project."""
    found = re.findall(r"`((?:notebooks|rdlib|tests)/[\w./-]*)`", README)
    assert found
    for name in found:
        assert (REPO / name).exists() or (REPO / f"{name}.ipynb").exists(), name


class Halving(torch.nn.Module):
    """A module such as a reader may have: three feature maps, each half the size of the one before."""

    def __init__(self):
        super().__init__()
        self.stages = torch.nn.ModuleList(
            [torch.nn.Conv2d(3, 8, 3, 4, 1), torch.nn.Conv2d(8, 16, 3, 2, 1), torch.nn.Conv2d(16, 32, 3, 2, 1)]
        )

    def forward(self, x):
        maps = []
        for stage in self.stages:
            maps.append(x := torch.relu(stage(x)))
        return maps


def test_another_backbone_is_one_call():
    (words,) = re.findall(r"`(model\.build\([^`]*\))`", README)
    net = eval(words, {"model": model, "Config": Config, "my_module": Halving()})  # our own text
    teacher, student = net(torch.rand(2, 3, 64, 64))
    assert [t.shape for t in teacher] == [s.shape for s in student] and sum(p.requires_grad for p in net.parameters()) > 0


def test_runs_are_read_elsewhere_in_one_call():
    (words,) = re.findall(r"`(results\.read_runs\([^`]*\))`", README)
    runs = eval(words.replace("results/demo", str(REFERENCE / "demo")), {"results": record, "Path": Path})
    assert len(runs) > 80 and all(r["metrics"]["image_auroc"] > 0 for r in runs)


def test_the_committed_reference_is_rendered_without_training(tmp_path):
    (words,) = re.findall(r"`\.venv/bin/python -m rdlib\.report\.page ([^`]*)`", README)
    folder, out = words.split()
    page.main([str(REPO / folder), str(tmp_path / out)])
    assert (tmp_path / out).stat().st_size > 1e6

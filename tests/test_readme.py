"""README, CONTRIBUTING and docs: their tables are the committed reference's; links, anchors, paths and make targets exist."""

import re

import pytest
import torch
from helpers import REPO

from rdlib import model
from rdlib.batch import reference
from rdlib.config import Config
from rdlib.report import page, runs

REFERENCE = REPO / "results" / "reference"
BLOCK = re.compile(r"<!-- table (\w+/\w+) -->\n(.*?)<!-- end -->", re.S)
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in sorted((REPO / "docs").glob("*.md")))]
LINKED = [*DOCUMENTS, "CHANGELOG.md", "ERRATA.md"]
TEXT = {name: (REPO / name).read_text(encoding="utf-8") for name in LINKED}
README = TEXT["README.md"]
TABLES = [(document, match[1]) for document in DOCUMENTS for match in BLOCK.finditer(TEXT[document])]


def test_the_readme_is_short():
    assert len(README.split()) <= 1300


def test_there_are_tables_and_each_once():
    marks = sum(TEXT[d].count("<!-- table ") for d in DOCUMENTS), sum(TEXT[d].count("<!-- end -->") for d in DOCUMENTS)
    assert TABLES and len({table for _, table in TABLES}) == len(TABLES) == marks[0] == marks[1]
    assert any(document == "README.md" for document, _ in TABLES)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tables_are_those_of_the_committed_reference(document):
    assert reference.with_tables(TEXT[document], REFERENCE) == TEXT[document]


@pytest.mark.parametrize("document, table", TABLES)
def test_an_edited_digit_is_found(document, table):
    text = TEXT[document]
    (block,) = [match for match in BLOCK.finditer(text) if match[1] == table]
    digits = [m.start() for m in re.finditer(r"\d", block[2])]
    assert digits, "no numbers in this table"
    at = block.start(2) + digits[-1]
    edited = f"{text[:at]}{(int(text[at]) + 1) % 10}{text[at + 1 :]}"
    assert reference.with_tables(edited, REFERENCE) == reference.with_tables(text, REFERENCE) != edited


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
    """Targets of Markdown links and images, and of HTML's, that are no web addresses."""
    found = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", TEXT[document])
    return [target for pair in found for target in pair if target and not re.match(r"https?:|mailto:", target)]


def anchors(document):
    """As GitHub names headings: lower case, spaces as hyphens, no punctuation."""
    lines = re.sub(r"```.*?```", "", TEXT[document], flags=re.S).splitlines()
    return {re.sub(r"[^\w\- ]", "", line.lstrip("# ")).lower().replace(" ", "-") for line in lines if line.startswith("#")}


@pytest.mark.parametrize("document, target", [(d, t) for d in LINKED for t in links(d)])
def test_a_link_leads_somewhere(document, target):
    path, _, anchor = target.partition("#")
    there = (REPO / document).parent.joinpath(path) if path else REPO / document
    assert there.exists()
    assert not anchor or anchor in anchors(there.resolve().relative_to(REPO).as_posix())


def test_links_of_every_kind_are_seen():
    assert {"#your-own-images", "docs/numbers.md#the-demo", "ERRATA.md"} <= set(links("README.md"))
    assert any(target.endswith(".png") for target in links("README.md"))  # an <img>


@pytest.mark.parametrize("page", [d for d in DOCUMENTS if d.startswith("docs/")])
def test_every_page_is_linked_from_another(page):
    linked = {(REPO / d).parent.joinpath(t.split("#")[0]).resolve() for d in DOCUMENTS if d != page for t in links(d)}
    assert REPO / page in linked


def code(document):
    """Everything set as code: `inline` and fenced blocks, comments of the shell left out."""
    text = TEXT[document]
    pieces = re.findall(r"```[^\n]*\n(.*?)```", text, flags=re.S) + re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    return "\n".join(re.sub(r"\s#.*", "", line) for piece in pieces for line in piece.splitlines())


def mentioned(document):
    return {
        word for words in re.findall(r"^make ([^\n]+)", code(document), re.M) for word in words.split() if re.fullmatch(r"[a-z]+", word)
    }


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_that_is_mentioned_exists(document):
    targets = set(re.findall(r"^([a-z]+):", (REPO / "Makefile").read_text(), re.M))
    assert mentioned(document) <= targets and (mentioned(document) or document != "README.md")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_line_option_of_make_is_a_variable_of_the_makefile(document):
    variables = set(re.findall(r"^([A-Z]+) \??=", (REPO / "Makefile").read_text(), re.M))
    used = {name for words in re.findall(r"^make ([^\n]+)", code(document), re.M) for name in re.findall(r"\b([A-Z]+)=", words)}
    assert used <= variables and (used or document != "README.md")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_in_code_style_are_there(document):
    """Each that begins with a folder of the project."""
    found = re.findall(r"`((?:notebooks|rdlib|tests|profiles|docs)/[\w./-]*)`", TEXT[document])
    assert found or document != "README.md"
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
    (words,) = re.findall(r"`(model\.build\([^`]*\))`", TEXT["docs/where.md"])
    net = eval(words, {"model": model, "Config": Config, "my_module": Halving()})  # our own text
    teacher, student = net(torch.rand(2, 3, 64, 64))
    assert [t.shape for t in teacher] == [s.shape for s in student] and sum(p.requires_grad for p in net.parameters()) > 0


def test_runs_are_read_elsewhere_in_one_call():
    (words,) = re.findall(r"`(runs\.load\([^`]*\))`", README)
    found = eval(words.replace("results/demo", str(REFERENCE / "demo")), {"runs": runs})
    assert len(found) > 40 and (found["image_auroc"] > 0).all()


def test_the_committed_reference_is_rendered_without_training(tmp_path):
    (words,) = re.findall(r"`\.venv/bin/python -m rdlib\.report\.page ([^`]*)`", README)
    folder, out = words.split()
    page.main([str(REPO / folder), str(tmp_path / out)])
    assert (tmp_path / out).stat().st_size > 1e6

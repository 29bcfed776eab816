"""The batch: Snakemake's plan of each profile in a copy of the project, and which images the figures choose."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import REPO
from made_up_runs import run

from rdlib.config import MVTEC_COUNTS
from rdlib.report import figures
from rdlib.run import plan

FASHION = Path(plan.DEBIAN) / "fashion-mnist"


def dry_run(root, profile, data=""):
    """`snakemake -np` in a project of symbolic links, so that the repository's results are neither seen nor touched."""
    root.mkdir(exist_ok=True)
    for name in ("Snakefile", "notebooks", "rdlib", "pyproject.toml"):
        (root / name).symlink_to(REPO / name)
    words = [sys.executable, "-m", "snakemake", "--cores", "2", "-np", "--config", f"profile={profile}"]
    environment = os.environ | {"PYTHONPATH": str(REPO), "XDG_CACHE_HOME": str(root / "cache"), "TORCH_HOME": str(root / "torch")}
    environment |= {"DATA": str(data)}
    done = subprocess.run(words, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert not (root / "results").exists()
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    root = tmp_path_factory.mktemp("batch")
    (root / "empty").mkdir()
    (root / "data" / "mnist").mkdir(parents=True)
    (root / "data" / "mnist" / "train-images-idx3-ubyte").touch()
    calls = {"demo": ("demo", ""), "cpu": ("cpu", root / "data"), "paper": ("paper", root / "empty")}
    calls |= {"nothing given": ("paper", ""), "papper": ("papper", ""), "a number": ("cpu", "2024_01")}
    (root / "in a number" / "2024_01" / "bottle" / "train" / "good").mkdir(parents=True)
    with ThreadPoolExecutor(2) as pool:
        found = {name: pool.submit(dry_run, root / f"in {name}", *call) for name, call in calls.items()}
    return {name: future.result() for name, future in found.items()} | {"root": root}


def planned(output):
    """Ids of the runs that Snakemake would do."""
    return set(re.findall(r"^\s+output: results/\w+/runs/(\S+)/result\.json(?: \(update\))?$", output, re.M))


def jobs(output):
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", output, re.M)}


def test_the_demo_plan_is_every_run_every_report_and_the_comparison(plans):
    code, output = plans["demo"]
    expected = plan.runs("demo")
    reports = {f"report_{p.stem}": 1 for p in (REPO / "notebooks").glob("0[4-9]_*.ipynb")}
    assert code == 0 and planned(output) == set(expected)
    assert jobs(output) == {"run": len(expected), "all": 1, "compare": 1, "total": len(expected) + 8} | reports and len(reports) == 6


def test_the_batch_makes_what_the_registry_says_is_always_written(plans):
    made = set(re.findall(r"results/demo/((?:tables|figures)/\w+)\.(?:csv|png)", plans["demo"][1]))
    always = {n for report in plan.REPORTS.values() for n in (*report.tables, *report.figures) if n not in report.sometimes}
    assert {name.split("/")[1] for name in made} == always and "figures/novelty_classes" in made and "tables/table4" in made


def test_reports_without_any_run_are_left_out(plans):
    """Of MVTec there is nothing here, so only the novelty report is made."""
    code, output = plans["cpu"]
    expected = plan.runs("cpu", str(plans["root"] / "data"))
    assert code == 0 and planned(output) == set(expected) and any("mnist" in run_id for run_id in expected)
    assert {rule for rule in jobs(output) if rule.startswith("report")} == {"report_06_novelty"}


def test_the_paper_profile_without_data_prints_its_plan_and_all_that_is_missing(plans):
    code, output = plans["paper"]
    assert code != 0 and planned(output) == set()
    assert plan.plan_text("paper", str(plans["root"] / "empty")) in output
    for category in MVTEC_COUNTS:
        assert f"MVTec AD category {category}: no folder" in output
    for name in ("mnist", "cifar10", "weights of resnet18", "weights of resnet50", "weights of wide_resnet50_2"):
        assert re.search(rf"^ *{name}: .* (not found|is not there)", output, re.M), name
    assert "profile paper cannot run; " in output


def test_without_data_the_same_is_said(plans):
    code, output = plans["nothing given"]
    assert code != 0 and "MVTec AD category carpet: no folder" in output and "None" not in output


def test_a_folder_of_data_whose_name_reads_as_a_number_keeps_its_name(plans):
    """Snakemake's --config and papermill's -p both make 202401 of 2024_01."""
    code, output = plans["a number"]
    assert code == 0 and "DATA=2024_01: bottle\n" in output and any("-bottle-" in run_id for run_id in planned(output))
    assert set(re.findall(r"-(\w data_root \S+)", output)) == {"r data_root 2024_01"} | (
        {f"r data_root {FASHION}"} if FASHION.exists() else set()
    )


def test_a_folder_that_contributes_nothing_ends_the_batch_before_it_starts(plans):
    code, output = plans["paper"]
    assert f"DATA={plans['root'] / 'empty'}: {plan.NOTHING}; give the folder" in output


def test_an_unknown_profile_is_refused(plans):
    code, output = plans["papper"]
    assert code != 0 and "profile='papper': must be one of demo, cpu, paper" in output


# --- Images of the figures ----------------------------------------------------------------------------------------


def defects(category, *images):
    """A run whose anomalous images are (name, score, pixels); and one normal image with the lowest score."""
    shown = [(name, 1, score, pixels) for name, score, pixels in images]
    return run(category=category, images=[("normal", 0, -1.0, 0), *shown])


THREE = defects("wood", ("b", 0.9, 30), ("a", 0.2, 10), ("c", 0.5, 20), ("vanished", 0.7, 0))


def test_images_are_ranked_by_the_size_of_their_defect():
    assert figures.ranked_by_area(THREE) == ["a", "c", "b"], "a defect that vanished in resizing cannot be shown"
    assert figures.ranked_by_area(defects("wood", ("z", 0, 5), ("y", 0, 5))) == ["y", "z"], "equal ones by name"


def test_images_are_ranked_by_score_misses_first():
    assert figures.ranked_by_score(THREE) == ["a", "c", "vanished", "b"]
    assert figures.ranked_by_score(defects("wood", ("z", 0.5, 1), ("y", 0.5, 2))) == ["y", "z"]


def test_typical_is_the_median_of_each_category():
    two = defects("tile", ("d", 0.1, 1), ("e", 0.1, 2))
    assert figures.typical([THREE, two]) == [("wood", "c"), ("tile", "e")]


def test_typical_of_one_category_goes_from_small_to_large():
    assert figures.typical([THREE]) == [("wood", "a"), ("wood", "c"), ("wood", "b")]
    eleven = defects("tile", *[(f"{i:02d}", 0.5, i + 1) for i in range(11)])
    assert figures.typical([eleven]) == [("tile", f"{i:02d}") for i in (0, 2, 4, 6, 8, 10)]


def test_a_figure_has_six_rows_at_the_most():
    many = [defects(c, (f"{c}0", 0.5, 1), (f"{c}1", 0.5, 2)) for c in list(MVTEC_COUNTS)[:8]]
    for choose in (figures.typical, figures.smallest, figures.largest, figures.misses):
        assert [c for c, _ in choose(many)] == list(MVTEC_COUNTS)[:6]


def test_categories_take_turns():
    one = defects("tile", ("only", 0.3, 7))
    assert figures.smallest([THREE, one]) == [("wood", "a"), ("tile", "only"), ("wood", "c"), ("wood", "b")]
    assert figures.largest([THREE, one]) == [("wood", "b"), ("tile", "only"), ("wood", "c"), ("wood", "a")]
    assert figures.misses([THREE, one]) == [("wood", "a"), ("tile", "only"), ("wood", "c"), ("wood", "vanished"), ("wood", "b")]


def test_all_that_any_figure_shows():
    one = defects("tile", *[(f"{i}", i / 10, 8 - i) for i in range(8)])
    shown = figures.all_chosen([one])
    for choose in (figures.typical, figures.smallest, figures.largest, figures.misses):
        assert set(choose([one])) <= shown
    assert {path for _, path in shown} == set("01234567")


def test_without_runs_nothing_is_chosen():
    assert figures.smallest([]) == figures.typical([]) == figures.misses([]) == [] and figures.all_chosen([]) == set()

"""The batch: Snakemake's plan of each profile in a copy of the project."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import REPO

from rdlib.datasets import MVTEC_COUNTS
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
    reports = {f"report_{name}": 1 for name in plan.REPORTS}
    assert code == 0 and planned(output) == set(expected)
    assert jobs(output) == {"run": len(expected), "all": 1, "compare": 1, "total": len(expected) + 2 + len(reports)} | reports


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

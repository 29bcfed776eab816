"""Renew the committed reference of a profile from a finished batch: `python -m rdlib.batch.reference PROFILE` (`make reference`).

Copies run files, tables and figures to results/reference/<profile> and renews the tables in README.md and docs/. Of the kept
maps only the images that figures show and the normal ones with the highest scores are copied, and none of MVTec AD: its
photographs may not be redistributed as data.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

import pandas as pd

from rdlib.errors import InputError, exit_in_words
from rdlib.paths import project_root
from rdlib.report import figures, runs
from rdlib.run import record
from rdlib.run.files import write_atomically
from rdlib.run.plan import PROFILES

PARTS = ("runs", "tables", "figures")
NORMAL = 2  # images of each run: without any, the explorer would have no false alarm on a good image to show


def renew(profile: str) -> None:
    """Replace results/reference/<profile> by results/<profile> and renew the tables in README.md and docs/.

    raises: InputError for an unknown profile (what bears its name is replaced, so it must not be a path) and for a batch without
        runs, tables or figures, or with a run that failed; the reference is then as it was
    """
    if profile not in PROFILES:
        raise InputError(f"profile={profile!r}: must be one of {', '.join(PROFILES)}")
    root = project_root()
    source, target = root / "results" / profile, root / "results" / "reference" / profile
    table = _finished(source)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target) as folder:  # whole before anything is replaced
        _copy(table, source, Path(folder))
        for made in Path(folder).iterdir():  # an earlier bench.json stays if this batch has none: it says its own revision
            if made.is_dir():
                shutil.rmtree(target / made.name, ignore_errors=True)
            made.replace(target / made.name)
    renew_pages(root)


def renew_pages(root: Path) -> None:
    """Put the tables of the committed references into the README and the pages of docs/."""
    for page in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        write_atomically(page, with_tables(page.read_text(encoding="utf-8"), root / "results" / "reference"))


def _finished(source: Path) -> pd.DataFrame:
    """The runs of a finished batch."""
    lacks = [f"no {part}" for part in PARTS if not any((source / part).glob("*"))]
    table = pd.DataFrame() if "no runs" in lacks else runs.load(source)
    failed = 0 if table.empty else int((table["status"] != "finished").sum())
    lacks = [f"{failed} run(s) failed"] * bool(failed) + lacks
    if lacks:
        raise InputError(
            f"{source}: not a finished batch ({', '.join(lacks)}); run `make reproduce PROFILE={source.name}` to its end first"
        )
    return table


def _copy(table: pd.DataFrame, source: Path, target: Path) -> None:
    """What the reference keeps of a batch."""
    for part in ("tables", "figures"):
        shutil.copytree(source / part, target / part, ignore=shutil.ignore_patterns("*.pdf"))
    if (source / "bench.json").is_file():
        shutil.copyfile(source / "bench.json", target / "bench.json")
    for run in table.itertuples():
        record.write(target / "runs" / run.run_id, run.result)
    if runs.main_setting(table)["dataset"] == "demo":
        _copy_shown_maps(table, source / "runs", target / "runs")


def _copy_shown_maps(table: pd.DataFrame, source: Path, target: Path) -> None:
    """The kept maps of what 08_figures shows, by its rules, and of each run's normal images with the highest scores."""
    own = runs.of_setting(table, runs.main_setting(table)).query("variant == '' and experiment == 'main' and label == '' and seed == 0")
    kept = own.query("method in ('reverse', 'conventional')")
    images = runs.images(kept).merge(kept[["run_id", "method"]])
    defects = images.query("label == 1 and method == 'reverse'")
    visible = defects.query("anomalous_pixels > 0")
    areas = [figures.in_turn(visible, "anomalous_pixels", ascending) for ascending in (True, False)]
    shown = pd.concat([figures.typical(visible), *areas, figures.in_turn(defects, "score")])
    normal = images.query("label == 0").sort_values("score", ascending=False, kind="stable").groupby("run_id").head(NORMAL)
    for run in kept.itertuples():
        paths = {*shown.loc[shown["category"] == run.category, "path"], *normal.loc[normal["run_id"] == run.run_id, "path"]}
        record.thin_maps(source / run.run_id, target / run.run_id, paths)


def with_tables(text: str, reference: Path) -> str:
    """README text with every `<!-- table PROFILE/NAME -->` block replaced by that reference table."""

    def block(match: re.Match) -> str:
        profile, name = match["profile"], match["name"]
        path = reference / profile / "tables" / f"{name}.md"
        table = path.read_text(encoding="utf-8") if path.is_file() else f"{name} of profile {profile}: not run"
        return f"<!-- table {profile}/{name} -->\n{table.strip()}\n<!-- end -->"

    return re.sub(r"<!-- table (?P<profile>\w+)/(?P<name>\w+) -->\n.*?<!-- end -->", block, text, flags=re.S)


if __name__ == "__main__":
    with exit_in_words():
        renew(sys.argv[1])

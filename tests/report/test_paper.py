"""The shipped facts among themselves."""

import numpy as np
import pytest

from rdlib.datasets import MVTEC_COUNTS
from rdlib.report import paper

ROWS = paper.load()
PRINTED = [("Table 1", "image_AUROC", 256), ("Table 1", "image_AUROC", 128), ("Table 2", "pixel_AUROC", 256), ("Table 2", "PRO", 256)]


@pytest.mark.parametrize("table, name, resolution", PRINTED)
def test_the_papers_averages_are_those_of_its_categories(table, name, resolution):
    ours = ROWS.query("table == @table and metric == @name and resolution == @resolution and method == @paper.OURS").set_index("category")
    values = ours.loc[list(MVTEC_COUNTS), "paper"].to_numpy()
    printed = ours.loc[["avg_textures", "avg_objects", "avg_total"], "paper"].tolist()
    assert printed == pytest.approx([values[:5].mean(), values[5:].mean(), values.mean()], abs=0.06)


def test_every_published_number_has_one_row_evidence_and_source():
    assert not ROWS.duplicated(["table", "dataset", "category", "resolution", "method", "metric"]).any()
    assert set(ROWS["evidence"]) <= {"published", "unverified", "derived"} and ROWS["source"].str.len().gt(0).all()
    assert ROWS[ROWS["metric"].isin(paper.METRICS)]["paper"].between(0, 100).all()
    assert set(ROWS["dataset"]) == set(paper.DATASETS.values())


def test_the_full_model_is_the_same_in_every_table():
    """Tables 3, 5, 6 and 7 repeat the averages of Tables 1 and 2."""
    full = {"Table 3": "Ours (WResNet50)", "Table 5": "Pre+OCE+MFF (full model)", "Table 6": "M1,M2,M3 (full model)"}
    full |= {"Table 7": "Ours, WResNet50"}
    rows = ROWS.set_index(["table", "method", "metric"])["paper"]
    for name, expected in (("image_AUROC", 98.5), ("pixel_AUROC", 97.8), ("PRO", 93.9)):
        assert {rows[*key, name] for key in full.items()} == {expected}


def test_other_peoples_runs_have_a_source():
    others = paper.others()
    assert others["source"].str.len().gt(0).all() and others.query("metric in @paper.METRICS")["value"].between(0, 100).all()


@pytest.mark.parametrize("evidence", ["published", "unverified", "derived", ""])
def test_only_what_is_unverified_has_a_dagger(evidence):
    assert paper.text(98.0, evidence) == ("98.0†" if evidence == "unverified" else "98.0")
    assert paper.text(0.31, "", 2) == "0.31" and paper.text(np.nan, evidence) == "not published"

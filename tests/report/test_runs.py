"""The table of runs from made-up run files: a row each, chosen, paired, traced and made longer."""

import math

import pandas as pd
import pytest
from helpers import REPO
from made_up_runs import failed, put, run

from rdlib.config import Config
from rdlib.datasets import MVTEC_COUNTS
from rdlib.errors import InputError
from rdlib.report import runs

PAPER = {"dataset": "mvtec", "teacher": "wide_resnet50_2", "image_size": 256, "epochs": 200, "normalise": "imagenet"}


def ids(*results):
    return [r["run_id"] for r in results]


def test_a_row_per_run_with_configuration_metrics_and_provenance(tmp_path):
    whole = run(0.75, scales="2,3", seed=1, metrics={"pixel_ap": None})
    whole |= {"timing": {"load_s": 0, "fit_s": 5, "score_s": 2, "metrics_s": 0}}
    found = runs.load(put(tmp_path, failed(category="wood"), whole)).set_index("category")
    carpet, wood = found.loc["carpet"], found.loc["wood"]
    assert carpet["path"] == tmp_path / "runs" / whole["run_id"] / "result.json" and carpet["result"] == whole
    assert carpet[["image_auroc", "au_pro", "fit_s", "score_s", "peak_memory_mb"]].tolist() == [75, 75, 5, 2, 1]
    expected = {"status": "finished", "scales": "2,3", "variant": "scales=2,3", "seed": 1, "lr": 0.005, "weights": "published"}
    assert carpet[list(expected)].to_dict() == expected
    assert math.isnan(carpet["pixel_ap"]) and pd.isna(carpet["attempts"]) and pd.isna(carpet["normal_class"])
    assert wood[["status", "reason", "attempts", "seed"]].tolist() == ["failed", "no memory", 1, 0]
    assert wood[list(runs.METRICS)].isna().all()


def test_a_class_is_a_number_beside_runs_without_one():
    assert runs.frame([run(), run(dataset="digits", normal_class=3)]).query("normal_class == 3")["category"].tolist() == ["3"]


def test_a_folder_without_runs_and_one_of_failures_only(tmp_path):
    with pytest.raises(InputError, match=r"no run files \(runs/\*/result.json\); run `make reproduce` first"):
        runs.load(tmp_path)
    assert runs.load(put(tmp_path, failed()))["status"].tolist() == ["failed"]


@pytest.mark.parametrize("name, what", [("data_manifest", "data"), ("teacher_sha256", "teacher weights")])
def test_runs_of_different_files_are_not_mixed(tmp_path, name, what):
    one, other, elsewhere = run(), run(seed=1), run(category="wood", teacher="resnet18")
    for changed in (other, elsewhere):
        changed["provenance"] |= {name: "changed"}
    with pytest.raises(InputError, match=f"{one['run_id']} and {other['run_id']} were made from different {what} "):
        runs.load(put(tmp_path, one, other))
    assert len(runs.load(put(tmp_path / "other", one, elsewhere, failed(seed=1)))) == 3


@pytest.mark.parametrize("profile", ["demo", "cpu", "paper"])
def test_the_reference_is_one_table_and_its_metrics_those_of_the_files(profile):
    found = runs.load(REPO / "results" / "reference" / profile)
    assert found["run_id"].is_unique and found["run_id"].is_monotonic_increasing
    assert [100 * r["metrics"]["image_auroc"] for r in found["result"]] == found["image_auroc"].tolist()


# --- Choosing -----------------------------------------------------------------------------------------------------

VARIANTS = {"bottleneck": "pre", "conv1x1": True, "scales": "2,3", "loss": "pixel", "resize": "no_antialias", "mask_rule": "any"}
VARIANTS |= {
    "batch_size": 8,
    "lr": 0.01,
    "beta1": 0.9,
    "beta2": 0.99,
    "sigma": 2.0,
    "image_score": "mean",
    "precision": "bf16",
    "train_on": "all",
}
CELLS = {"category": "wood", "teacher": "resnet18", "image_size": 128, "epochs": 8, "seed": 1, "label": "x", "experiment": "cost"}
CELLS |= {"method": "padim", "normalise": "none", "weights_id": "0bf7e80f1234"}


def test_every_field_is_a_cell_or_a_variants():
    assert set(runs.CELL) | set(VARIANTS) == set(Config.__dataclass_fields__)


@pytest.mark.parametrize("name, value", (VARIANTS | CELLS).items())
def test_what_departs_from_the_default_is_the_variant_unless_a_table_chooses_by_it(name, value):
    assert runs.frame([run(**{name: value})])["variant"].tolist() == ["" if name in CELLS else f"{name}={value}"]


def test_the_precision_of_most_runs_departs_from_nothing():
    """Profile `paper` computes in tf32; its runs in float32 and bfloat16 are the factors."""
    made = [*(run(seed=s, precision="tf32") for s in range(3)), run(), run(precision="bf16")]
    assert runs.frame(made)["variant"].tolist() == ["", "", "", "precision=fp32", "precision=bf16"]
    assert runs.frame(made[2:])["variant"].tolist() == ["precision=tf32", "", "precision=bf16"], "as many of both: float32"
    pairs = runs.paired(runs.frame(made), runs.frame(made).query("variant == ''"))
    assert pairs["factor"].tolist() == ["precision = fp32 (at 256 px)", "precision = bf16 (at 256 px)"]


def test_the_main_setting_is_that_of_the_most_runs():
    lite = {"dataset": "demo", "category": "brick", "epochs": 2}
    few = [run(**lite, seed=s) for s in (0, 1)]
    others = [run(**lite, image_size=64, seed=s, loss="pixel") for s in range(3)] + [run(**lite, image_size=64)]
    demo = {"dataset": "demo", "teacher": "efficientnet_lite0", "epochs": 2, "normalise": "imagenet"}
    assert runs.main_setting(runs.frame(few + others)) == demo | {"image_size": 128}
    assert runs.main_setting(runs.frame(few[:1] + others)) == demo | {"image_size": 128}, "as many of both: the larger"
    assert runs.main_setting(runs.frame([*few, run(image_size=128)])) == PAPER | {"image_size": 128}, "MVTec AD before the demo set"
    assert runs.main_setting(runs.frame([run(method="padim"), run(experiment="cost"), run(label="try")])) == PAPER
    meant = [failed(category=c) for c in MVTEC_COUNTS]
    assert runs.main_setting(runs.frame([*meant, run(category="wood", teacher="resnet18")])) == PAPER, "failures count"


def test_each_novelty_set_has_a_setting():
    usual = [run(dataset="digits", normal_class=k) for k in range(4)]
    others = [run(dataset="digits", normal_class=k, normalise="imagenet") for k in range(3)]
    others += [run(dataset="digits", normal_class=k, sigma=4.0) for k in range(9)]
    table = runs.frame([*others, *usual])
    setting = runs.main_setting(table, "digits")
    assert setting["normalise"] == "none" and setting["image_size"] == 32
    assert set(runs.of_setting(table.query("variant == ''"), setting)["run_id"]) == set(ids(*usual))


def test_categories_stand_in_the_papers_order():
    assert runs.in_order(["zebra", "zipper", "carpet", "apple", "carpet"]) == ["carpet", "zipper", "apple", "zebra"]


# --- Where a cell comes from ----------------------------------------------------------------------------------------


def test_a_cell_names_its_runs_and_those_that_failed():
    a, b, bad = run(0.9), run(0.8, seed=1), failed("diverged", seed=2)
    nothing, undefined = failed(category="wood"), run(category="tile", metrics={"image_auroc": None})
    found = runs.traced(runs.frame([a, b, bad, nothing, undefined]), "category", "image_auroc")
    assert found.loc["carpet"].tolist() == [" ".join(ids(a, b)), bad["run_id"], "undefined"]
    assert found.loc["wood"].tolist() == ["", nothing["run_id"], "failed"]
    assert found.loc["tile"].tolist() == ["", "", "undefined"]


# --- One factor at a time -----------------------------------------------------------------------------------------


def effects(others, *bases):
    pairs = runs.paired(runs.frame([*bases, *others]), runs.frame(bases))
    return [(row.factor, round(row.image_auroc - row.image_auroc_base, 6)) for row in pairs.itertuples()]


def test_exactly_one_differing_value_is_an_effect():
    others = [run(0.7, loss="pixel"), run(0.85, beta2=0.99), run(0.6, image_size=128), run(0.1, loss="pixel", beta2=0.99)]
    assert effects(others, run(0.8)) == [("loss = pixel (at 256 px)", -10), ("beta2 = 0.99 (at 256 px)", 5), ("image_size = 128", -20)]


def test_a_teacher_and_its_weights_are_one_value():
    own = {"teacher": "resnet18", "weights_id": "0bf7e80ff1aa"}
    assert effects([run(0.7, teacher="efficientnet_lite0")], run(0.8, **own)) == [("teacher = efficientnet_lite0 (at 256 px)", -10)]
    assert effects([run(0.7, teacher="resnet18")], run(0.8, **own)) == [("weights_id =  (at 256 px)", -10)], "other weights of the same"


def test_effects_are_paired_by_category_and_seed():
    bases = [run(v, category=c, seed=s) for v, c, s in ((0.8, "carpet", 0), (0.6, "carpet", 1), (0.5, "wood", 0))]
    others = [run(0.9, loss="pixel", seed=s) for s in range(3)] + [failed(category="wood", loss="pixel")]
    assert [value for _, value in effects(others, *bases)] == [10, 30]


@pytest.mark.parametrize("params", [{"seed": 1}, {"category": "wood"}, {"experiment": "cost"}, {"label": "x"}])
def test_seed_category_and_experiment_are_no_factors(params):
    assert effects([run(**params)], run()) == []
    digits = [run(dataset=d, normal_class=k) for d, k in (("mnist", 0), ("mnist", 1), ("fashion_mnist", 0))]
    assert effects(digits[1:], digits[0]) == [], "nor are class and data set"


# --- Longer tables ------------------------------------------------------------------------------------------------


def test_every_sum_of_scales_rule_and_epoch_is_a_row():
    scales = {"M1": {"image_auroc": 0.5, "image_ap": 0.5}, "M1+M2+M3": {"image_auroc": 0.9, "image_ap": 0.5}}
    rules = {"max": {"image_auroc": 0.8, "image_ap": None}}
    made = run(by_scales=scales, by_image_score=rules, history=[{"image_auroc": 0.7}, {"image_auroc": 0.6}])
    table = runs.frame([made, failed(seed=1)])
    assert runs.by_scales(table)[["run_id", "seed", "summed", "image_auroc"]].values.tolist() == [
        [made["run_id"], 0, "M1+M2+M3", 90],
        [made["run_id"], 0, "M1", 50],
    ]
    assert runs.by_image_score(table)[["rule", "image_auroc"]].values.tolist() == [["max", 80]]
    assert runs.history(table)[["epoch", "image_auroc"]].values.tolist() == [[1, 70], [2, 60]]
    images = runs.images(table)
    assert images["label"].tolist() == [0, 0, 1, 1] and set(images["run_id"]) == {made["run_id"]}


def test_longer_tables_of_nothing_are_empty():
    table = runs.frame([failed()])
    assert all(make(table).empty for make in (runs.by_scales, runs.by_image_score, runs.history, runs.images))
    assert {"summed", "image_auroc"} <= set(runs.by_scales(table))

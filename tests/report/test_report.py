"""The table notebooks on made-up runs and on the reference: what they write, whatever failed, and that a reader can change them."""

import numpy as np
import pandas as pd
import pytest
from helpers import REPO
from made_up_runs import COST, execute, failed, put, run

from rdlib.config import Config
from rdlib.datasets import MVTEC_COUNTS
from rdlib.report import figures
from rdlib.run import plan, record

REFERENCE = REPO / "results" / "reference"
TABLES = sorted(name for name, report in plan.REPORTS.items() if report.tables)


@pytest.fixture
def tables(tmp_path_factory, monkeypatch):
    """tables(notebook, *results): its CSV files, name -> frame, made from these run files."""
    monkeypatch.setattr(figures, "save_figure", lambda *_, **__: None)

    def made(name, *results, **changes):
        folder = put(tmp_path_factory.mktemp("batch"), *results)
        execute(name, folder, folder, monkeypatch, **changes)
        read = {"row": str, "runs": str, "failed": str, "evidence": str}
        return {p.stem: pd.read_csv(p, dtype=read, keep_default_na=False, na_values=[""]) for p in (folder / "tables").glob("*.csv")}

    return made


def of(table, value, row="row"):
    return dict(zip(table[row], table[value]))


# --- The reference ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["demo", "cpu", "paper"])
def test_the_tables_are_those_of_the_reference_to_the_byte(profile, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "save_figure", lambda *_, **__: None)
    for name in [n for n in TABLES if (profile, n) != ("paper", "05_complexity")]:  # without a cost run there is no such table
        execute(name, REFERENCE / profile, tmp_path, monkeypatch)
    made, expected = ({p.name: p.read_bytes() for p in (f / "tables").iterdir()} for f in (tmp_path, REFERENCE / profile))
    made = {name: content for name, content in made.items() if not name.startswith("speed_")}  # from bench.json, not from runs
    assert made == expected


def test_without_an_output_folder_nothing_is_written(tmp_path, monkeypatch):
    before = sorted(put(tmp_path, run(dataset="demo", category="coin")).rglob("*"))
    for name in set(TABLES) - {"05_complexity"}:
        execute(name, tmp_path, "", monkeypatch)
    assert sorted(tmp_path.rglob("*")) == before


# --- A reader changes a table in place ----------------------------------------------------------------------------


def test_another_aggregate_is_one_word_in_the_notebook(tables):
    results = [run(v, seed=s) for s, v in enumerate((0.90, 0.91, 0.98))]
    usual = of(tables("04_mvtec", *results)["table1_256"], "ours")["carpet"]
    median = tables("04_mvtec", *results, aggregate=('ours="mean"', 'ours="median"'))["table1_256"]
    assert usual == 93 and of(median, "ours")["carpet"] == 91


# --- Tables 1 and 2 -----------------------------------------------------------------------------------------------


def all_categories(**params):
    """Carpet 71 %, grid 72 %, ... zipper 85 %, in the paper's order."""
    return [run((71 + i) / 100, category=c, **params) for i, c in enumerate(MVTEC_COUNTS)]


def test_table_1_has_the_papers_rows_and_averages(tables):
    cells = tables("04_mvtec", *all_categories())["table1_256"]
    assert cells["row"].tolist() == [*MVTEC_COUNTS, "avg_textures", "avg_objects", "avg_total"]
    assert cells["ours"].tolist() == pytest.approx([*range(71, 86), 73, 80.5, 78])
    assert cells[["paper", "evidence"]].iloc[:2].values.tolist() == [[98.9, "published"], [100.0, "published"]]
    assert set(cells["column"]) == {"image_AUROC 256 px"} and set(cells["verdict"]) == {"undecided"}


def test_table_2_reads_the_papers_metric(tables):
    found = tables("04_mvtec", run(0.1, metrics={"pixel_auroc": 0.7, "au_pro_per_image": 0.6}))
    assert (of(found["table2_pixel_auroc"], "ours")["carpet"], of(found["table2_pro"], "ours")["carpet"]) == (70, 60)
    assert (of(found["table2_pixel_auroc"], "paper")["carpet"], of(found["table2_pro"], "paper")["carpet"]) == (98.9, 97.0)


def test_only_the_papers_teacher_and_weights_get_a_verdict(tables):
    alike = [run(0.989 + 0.0001 * s, category="carpet", seed=s) for s in (0, 1)]
    assert of(tables("04_mvtec", *alike)["table1_256"], "verdict")["carpet"] == "agrees"
    for weights, expected in (("same function", "agrees"), ("fine-tuned", "different setting")):
        for r in alike:
            r["provenance"]["weights"] = weights
        assert of(tables("04_mvtec", *alike)["table1_256"], "verdict")["carpet"] == expected
    cells = tables("04_mvtec", *[run(0.989 + 0.0001 * s, teacher="resnet18", seed=s) for s in (0, 1)])["table1_256"]
    assert (of(cells, "verdict")["carpet"], of(cells, "paper")["carpet"]) == ("different setting", 98.9)


def test_resolutions_and_variants_are_kept_apart(tables):
    results = [run(0.9), run(0.6, image_size=128), run(0.1, loss="pixel"), run(0.2, method="padim"), run(0.3, experiment="cost")]
    results += [run(0.4, epochs=8), run(0.5, label="try"), run(0.9, category="wood")]
    found = tables("04_mvtec", *results)
    for name, expected in (("table1_256", 90), ("table1_128", 60)):
        assert (of(found[name], "ours")["carpet"], of(found[name], "n")["carpet"]) == (expected, 1)


def test_further_data_sets_have_a_table_without_the_paper(tables):
    """One category of VisA's twelve, so no average; both of a folder's; at the setting most of their runs have."""
    assert "further_data_sets" not in tables("04_mvtec", run(0.9))
    results = [run(v, dataset="visa", category="candle", seed=s) for s, v in enumerate((0.7, 0.8))]
    results += [run(v, dataset="folder", category=c) for c, v in (("nut", 0.5), ("bolt", 0.6))]
    found = tables("04_mvtec", *results, run(0.1, dataset="visa", category="pcb1", image_size=128))
    cells = found["further_data_sets"].query("column == 'image_AUROC'")
    ours, folder = of(cells, "ours"), "any other folder in MVTec AD's layout, 256 px"
    assert (ours["VisA, 256 px: candle"], of(cells, "n")["VisA, 256 px: candle"]) == (pytest.approx(75), 2)
    assert np.isnan(ours["VisA, 256 px: pcb1"]) and np.isnan(ours["VisA, 256 px: avg_total"])
    assert [ours[f"{folder}: {name}"] for name in ("bolt", "nut", "avg_total")] == [60, 50, 55]
    assert cells["paper"].isna().all() and set(cells["verdict"]) == {"not published", "not run"}
    assert set(found["table1_256"]["verdict"]) == {"not run"}


def test_a_failed_category_keeps_its_row_and_no_average_leaves_it_out(tables):
    demo = {"dataset": "demo", "image_size": 128}
    results = [run(v, **demo, category=c, seed=s) for v, c in ((0.9, "brick"), (0.8, "coin")) for s in (0, 1)]
    bad = [failed("diverged", "loss is nan", **demo, category="gravel", seed=s) for s in (0, 1)]
    found = tables("04_mvtec", *results, *bad)
    cells = found["demo_image_auroc"]
    assert of(cells, "verdict") == {"brick": "not published", "coin": "not published", "gravel": "diverged", "avg_total": "diverged"}
    assert cells["ours"].tolist()[:2] == [90, 80] and cells["ours"].isna().tolist() == [False, False, True, True]
    assert of(cells, "failed")["avg_total"].split() == [r["run_id"] for r in bad] and len(found["failures"]) == 2


def test_a_failure_marks_only_the_cells_it_is_a_run_of(tables):
    """Not those of another resolution or variant, and no average that other categories leave without a value."""
    found = tables("04_mvtec", run(category="wood"), failed(category="bottle", image_size=128), failed(category="cable", loss="pixel"))
    for name, expected in (("table1_256", "not run"), ("table1_128", "failed")):
        verdicts = of(found[name], "verdict")
        assert verdicts["bottle"] == expected and verdicts["cable"] == verdicts["avg_textures"] == "not run"


STRICT = {"image F1": "image_f1_max", "image TPR": "image_tpr_fpr01", "pixel F1": "pixel_f1_max", "pixel TPR": "pixel_tpr_fpr01"}
STRICT |= {"AU-PRO to 0.05": "au_pro_05", "AUPIMO": "aupimo"}


def test_strict_metrics_have_a_table_over_seeds_and_categories(tables):
    values = {name: i / 10 for i, name in enumerate(STRICT.values())}
    demo = {"dataset": "demo", "image_size": 128}
    results = [
        run(category=c, seed=s, metrics={k: v + s / 100 for k, v in values.items()}, **demo) for c in ("brick", "coin") for s in (0, 1)
    ]
    cells = tables("04_mvtec", *results)["low_fpr"]
    for text, name in STRICT.items():
        expected = dict.fromkeys(("brick", "coin", "avg_total"), 100 * values[name] + 0.5)
        assert of(cells[cells["column"] == text], "ours") == pytest.approx(expected)
    assert set(cells["n"]) == {2} and set(cells["verdict"]) == {"not published"}


def test_runs_of_before_have_no_strict_metrics_and_no_cell_holds_them(tables):
    """Their category is `not run` in this table, and counts in the others; without any newer run there is no such table."""
    old = [run(seed=s, category=c) for c, s in (("wood", 0), ("carpet", 0))]
    for result in old:
        for name in STRICT.values():
            del result["metrics"][name]
    found = tables("04_mvtec", *old, run(0.7, seed=1), failed(category="bottle"))
    cells = found["low_fpr"].query("column == 'AUPIMO'")
    assert (of(cells, "ours")["carpet"], of(cells, "n")["carpet"], of(found["table1_256"], "n")["carpet"]) == (70, 1, 2)
    assert [of(cells, "verdict")[c] for c in ("wood", "bottle", "avg_total")] == ["not run", "failed", "failed"]
    assert "low_fpr" not in tables("04_mvtec", *old)


# --- Same teacher, novelty, ablations -----------------------------------------------------------------------------

METHODS = ("reverse", "conventional", "padim", "spade")


def test_methods_are_compared_on_seed_0_of_the_categories_all_have_run(tables):
    results = [run(v, method=m, category=c) for m, v in zip(METHODS, (0.9, 0.8, 0.7, 0.6)) for c in ("carpet", "wood")]
    results += [run(0.1, category="zipper"), run(0.1, seed=1)]
    cells = tables("04_mvtec", *results)["same_teacher"].query("column == 'image_auroc'")
    assert of(cells, "ours") == {"reverse distillation (ours)": 90, "conventional distillation": 80, "PaDiM": 70, "SPADE": 60}
    assert all(len(ids.split()) == 2 for ids in cells["runs"]) and cells["paper"].isna().all()
    assert set(tables("04_mvtec", run(), run(method="padim"))["same_teacher"]["verdict"]) == {"not run"}, "no category that all have"


def test_a_method_that_failed_on_a_category_has_no_average_and_the_others_keep_theirs(tables):
    results = [run(0.7, method=m) for m in METHODS] + [run(0.9, method=m, category="wood") for m in METHODS if m != "padim"]
    cells = tables("04_mvtec", *results, failed(method="padim", category="wood"))["same_teacher"]
    assert set(cells.query("row == 'PaDiM'")["verdict"]) == {"failed"}
    assert cells.query("row != 'PaDiM'")["ours"].tolist() == pytest.approx([80] * 12)


def test_one_model_for_all_stands_beside_one_each(tables):
    """Carpet and wood, two seeds each: the average is of each seed, and the difference has Welch's interval of one freedom at the least."""
    each = [run(v, category=c, seed=s) for c, vs in {"carpet": (0.9, 0.94), "wood": (0.8, 0.8)}.items() for s, v in enumerate(vs)]
    every = [
        run(v, category=c, seed=s, train_on="all")
        for c, vs in {"carpet": (0.7, 0.74), "wood": (0.9, 0.86)}.items()
        for s, v in enumerate(vs)
    ]
    cells = tables("04_mvtec", *each, run(0.1, category="zipper"), *every)["unified"].set_index(["column", "row"])
    ours = cells["ours"].dropna()
    assert ours["image AUROC, one each"].to_dict() == pytest.approx({"carpet": 92, "wood": 80, "average": 86})
    assert ours["AU-PRO, one for all"].to_dict() == pytest.approx({"carpet": 72, "wood": 88, "average": 80})
    average = cells.loc["image AUROC, one for all"].loc["average"]
    assert (average["std"], average["n"], average["difference"]) == (0, 2, -6) and len(average["runs"].split()) == 4
    assert average["interval"] == pytest.approx(12.7062 * np.sqrt(1), rel=1e-5), "t(1) of the one part that spreads: std of 85, 87 over two"
    others = cells["others"].dropna().unstack(0)
    assert others.loc["others (ADer), 15 categories, 100 epochs"].tolist() == [93.6, 95.8, 91.2]
    assert others.loc["others (ADer), 15 categories, 300 epochs"].tolist() == [90.5, 95.9, 91.2]


def test_a_seed_without_all_categories_has_no_average(tables):
    every = [
        run(0.9, category="carpet", train_on="all"),
        failed(category="wood", train_on="all"),
        run(0.5, category="wood", seed=1, train_on="all"),
    ]
    cells = tables("04_mvtec", run(), *every)["unified"].set_index(["column", "row"]).loc["image AUROC, one for all"]
    assert cells.loc[["carpet", "wood", "average"], "n"].tolist() == [1, 1, 0] and np.isnan(cells.loc["average", "ours"])
    assert "unified" not in tables("04_mvtec", run())


def novelty(dataset, values, **params):
    return [run(v, dataset=dataset, normal_class=k, **params) for k, v in enumerate(values)]


def test_table_4_is_the_mean_over_ten_classes_of_one_setting(tables):
    results = novelty("digits", [0.5] * 5 + [0.7] * 5) + novelty("mnist", [0.9] * 9)
    results += [r for s, v in ((0, 0.95), (1, 0.951)) for r in novelty("fashion_mnist", [v] * 10, seed=s)]
    results += novelty("cifar10", [0.865] * 10, teacher="efficientnet_lite0")
    results += [r for other in ({"image_size": 64}, {"epochs": 7}, {"sigma": 4.0}) for r in novelty("digits", [0.9] * 3, **other)]
    found = tables("06_novelty", *results)
    cells = found["table4"]
    verdicts = {"mnist": "not run", "fashion_mnist": "agrees", "cifar10": "different setting", "digits": "not published"}
    assert of(cells, "verdict") == verdicts
    assert of(cells, "ours")["digits"] == 60 and of(cells, "n")["fashion_mnist"] == 2
    digits = found["table4_classes"].query("column == 'digits'")
    assert digits["row"].tolist() == list("0123456789") and digits["ours"].tolist() == [50] * 5 + [70] * 5


def test_a_failed_class_is_told_of_its_own_data_set_only(tables):
    results = novelty("digits", [0.5] * 3) + [failed(dataset="digits", normal_class=3)] + novelty("mnist", [0.5] * 3)
    found = tables("06_novelty", *results)
    classes = found["table4_classes"].set_index(["column", "row"])["verdict"]
    assert classes["digits", "3"] == "failed" and classes["mnist", "3"] == classes["digits", "4"] == "not run"
    assert of(found["table4"], "verdict") == {"mnist": "not run", "fashion_mnist": "not run", "cifar10": "not run", "digits": "failed"}


def test_sensitivity_is_paired(tables):
    rules = {rule: {"image_auroc": v, "image_ap": v} for rule, v in (("max", 0.8), ("sum", 0.7))}
    results = [run(0.7, dataset="digits", normal_class=k, by_image_score=rules) for k in (0, 1)]
    results += [run(v, dataset="digits", normal_class=k, image_size=64) for k, v in ((0, 0.6), (1, 0.75))]
    found = tables("06_novelty", *results, run(0.1, dataset="digits", normal_class=2))["table4_sensitivity_digits"]
    rows = found.set_index("factor")[["mean", "smallest", "largest", "n"]]
    assert rows.loc["image_size = 64"].tolist() == pytest.approx([-2.5, -10, 5, 2])
    assert rows.loc["image score = max"].tolist() == pytest.approx([10, 10, 10, 2])


def test_sensitivity_has_the_exact_test_over_the_classes(tables):
    results = novelty("digits", [0.7] * 10) + novelty("digits", [0.71 + 0.01 * k for k in range(10)], batch_size=64)
    found = tables("06_novelty", *results, run(0.9, dataset="digits", normal_class=0, lr=0.1))["table4_sensitivity_digits"]
    p = {factor.split(" (")[0]: p for factor, p in of(found, "p", "factor").items()}
    assert p["batch_size = 64"] == pytest.approx(2 / 2**10, abs=5e-5)  # all ten up or all ten down; four decimals in the file
    assert p["lr = 0.1"] == 1  # one pair


def test_each_length_of_training_has_its_best_look(tables):
    looks = {0: (0.9, 0.6), 1: (0.5, 0.8)}
    results = [run(b, dataset="digits", normal_class=k, epochs=2, history=[{"image_auroc": a}]) for k, (a, b) in looks.items()]
    results += [run(0.95, dataset="digits", normal_class=k, epochs=8, seed=s) for k in (0, 1) for s in (0, 1)]
    results += [run(0.1, dataset="digits", normal_class=0, epochs=16)]  # one class only: no row
    found = tables("06_novelty", *results)["table4_epochs"].set_index("epochs")
    assert list(found.index) == [2, 8]
    assert found.loc[2, "image AUROC after each look"] == "1: 70.0 2: 70.0" and float(found.loc[2, "best look of each class"]) == 85


def test_a_figure_is_the_same_at_every_run(tmp_path, monkeypatch):
    for folder in ("first", "again"):
        execute("12_claims", REFERENCE / "cpu", tmp_path / folder, monkeypatch)
    first, again = ((tmp_path / folder / "figures" / "claims.png").read_bytes() for folder in ("first", "again"))
    assert first == again


def by_row(table, column="image_AUROC", value="verdict"):
    return of(table.query("column == @column"), value)


def test_ablations_of_the_whole_data_set(tables):
    scales = {"M1": {"image_auroc": 0.5, "image_ap": 0.5}, "M2+M3": {"image_auroc": 0.75, "image_ap": 0.5}}
    results = [run(0.985 + 0.0001 * s, category=c, seed=s, by_scales=scales) for c in MVTEC_COUNTS for s in (0, 1)]
    results += [run(0.96 + 0.0001 * s, category=c, seed=s, bottleneck="pre") for c in MVTEC_COUNTS for s in (0, 1)]
    found = tables("07_ablations", *results)
    full = "Pre+OCE+MFF (full model)"
    assert by_row(found["table5"]) == {"Pre (pre-trained bottleneck)": "agrees", "Pre+OCE": "not run", full: "agrees"}
    assert by_row(found["table5"], value="paper") == {"Pre (pre-trained bottleneck)": 96.0, "Pre+OCE": 97.9, full: 98.5}
    verdicts = {"M1": "not published", "M2": "not run", "M3": "not run", "M2+M3": "not published", "M1+M2+M3": "agrees"}
    assert by_row(found["table6"]) == verdicts
    ours = by_row(found["table6"], value="ours")
    assert (ours["M1"], ours["M2+M3"]) == (50, 75)
    assert by_row(found["table7"]) == {"resnet18": "not run", "resnet50": "not run", "wide_resnet50_2": "agrees"}


def test_ablations_of_some_categories_are_another_setting_and_say_what_failed(tables):
    results = [run(0.985, category=c, seed=s) for c in ("carpet", "wood") for s in (0, 1)] + [run(bottleneck="pre")]
    results += [run(teacher="resnet18"), failed(category="wood", teacher="resnet18"), failed(category="wood", bottleneck="oce")]
    found = tables("07_ablations", *results)
    rows = {"Pre (pre-trained bottleneck)": "not run", "Pre+OCE": "failed", "Pre+OCE+MFF (full model)": "different setting"}
    assert by_row(found["table5"], "PRO") == rows, "wood has no run of the first row"
    assert by_row(found["table7"], "PRO") == {"resnet18": "failed", "resnet50": "not run", "wide_resnet50_2": "different setting"}
    found = tables("07_ablations", run(category="wood"), failed(category="carpet"))["table6"]
    assert set(found["verdict"]) == {"failed"} and found["ours"].isna().all(), "a failed category takes every row"


def test_table_7_adds_the_teachers_that_were_used(tables):
    results = [run(0.7, dataset="demo", category="brick", teacher=f"efficientnet_lite{i}", seed=s) for i, s in ((0, 0), (0, 1), (2, 0))]
    verdicts = by_row(tables("07_ablations", *results)["table7"])
    assert list(verdicts.items())[3:] == [("efficientnet_lite0", "not published"), ("efficientnet_lite2", "not published")]
    assert list(verdicts.values())[:3] == ["not run"] * 3


# --- What moves the number ----------------------------------------------------------------------------------------


def deviations(tables, *results):
    return tables("09_deviations", *results)["deviations"].set_index(["factor", "metric"])[["mean", "smallest", "largest", "n"]]


def test_deviations_by_hand(tables):
    """Two seeds of carpet; another loss for both; another rule, PRO's other definition and the best epoch from the same runs."""
    rules = {rule: {"image_auroc": v, "image_ap": v} for rule, v in (("max", 0.8), ("sum", 0.7))}
    looks = [{"image_auroc": 0.7, "pixel_auroc": 0.6}, {"image_auroc": 0.9, "pixel_auroc": None}]
    base = run(0.8, metrics={"au_pro": 0.5}, by_image_score=rules, history=looks)
    others = [run(0.84, seed=1), run(0.7, loss="pixel"), run(0.94, seed=1, loss="pixel"), failed(seed=2), run(0.9, beta2=0.9)]
    found = deviations(tables, base, *others)
    rows = {
        ("another seed", "image_auroc"): [0, -2, 2, 2],
        ("loss = pixel (at 256 px)", "pixel_auroc"): [0, -10, 10, 2],
        ("beta2 = 0.9 (at 256 px)", "au_pro_per_image"): [10, 10, 10, 1],
        ("image score = sum", "image_auroc"): [-10, -10, -10, 1],
        ("PRO = MVTec's, pooled", "au_pro_per_image"): [-15, -30, 0, 2],
        ("best epoch on test, not last", "image_auroc"): [10, 10, 10, 1],
        ("best epoch on test, not last", "pixel_auroc"): [0, 0, 0, 1],
    }
    for key, expected in rows.items():
        assert found.loc[key].tolist() == pytest.approx(expected, abs=1e-4), key
    assert ("image score = sum", "pixel_auroc") not in found.index
    assert {key[0] for key in deviations(tables, run()).index} == {"PRO = MVTec's, pooled"}, "one run has no noise and no effect"


@pytest.mark.parametrize("looks", [[0.7], [0.9, 0.6], [0.8, 0.8]])
def test_the_best_epoch_on_test_is_never_worse(tables, looks):
    found = deviations(tables, run(0.8, history=[{"image_auroc": v} for v in looks])).loc["best epoch on test, not last"]
    assert found.loc["image_auroc", "mean"] == pytest.approx(100 * max(0, max(looks) - 0.8), abs=1e-4) and (found["mean"] >= 0).all()


def test_bottleneck_backbone_and_method_are_tabled_elsewhere_and_size_against_the_main_one(tables):
    others = ({"bottleneck": "pre"}, {"teacher": "resnet18"}, {"method": "conventional"})
    results = [run(0.9), run(0.9, category="wood"), *(run(0.5, **other) for other in others)]
    results += [run(0.6, image_size=128), run(0.7, image_size=128, resize="no_antialias")]
    factors = {key[0] for key in deviations(tables, *results).index}
    assert factors == {"PRO = MVTec's, pooled", "image_size = 128", "resize = no_antialias (at 128 px)"}


# --- However much failed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", ["main-demo-brick-lite0.128px.12ep-s0", "main-demo-brick-lite0.128px.12ep.loss_pixel-s0", ""])
def test_however_many_runs_failed_every_notebook_makes_its_files(left, tmp_path, monkeypatch):
    """The usual seed of one category is left, one variant, or nothing: all that failed is told in the tables."""
    kept = [record.read_run(REFERENCE / "demo/runs" / left / "result.json")] if left else []
    meant = [p for i, p in plan.runs("demo").items() if i != left]
    put(tmp_path, *kept, *(failed(**{k: v for k, v in p.items() if k in Config.__dataclass_fields__}) for p in meant))
    for name in TABLES:
        execute(name, tmp_path, tmp_path, monkeypatch)
    for name, report in plan.REPORTS.items():
        always = [f"tables/{t}.{s}" for t in report.tables if t not in report.sometimes for s in ("csv", "md", "tex", "html")]
        always += [f"figures/{f}.{s}" for f in report.figures if f not in report.sometimes for s in ("png", "pdf")]
        assert name not in TABLES or [f for f in always if not (tmp_path / f).is_file()] == [], name
    found = {p.stem: pd.read_csv(p) for p in (tmp_path / "tables").glob("*.csv")}
    for name in ("demo_image_auroc", "same_teacher", "table5", "table6"):
        assert found[name].loc[found[name]["ours"].isna(), "verdict"].eq("failed").all() and found[name]["ours"].isna().any(), name
    assert len(found["failures"]) == len(meant)


def test_a_cost_run_that_failed_says_so(tables):
    cost = run(method="reverse", experiment="cost") | {"complexity": dict.fromkeys(COST, 2.5)}
    found = tables("05_complexity", cost, failed(method="padim", experiment="cost"))
    assert of(found["table3_size"], "stored, MB", "method") == {"reverse distillation (ours)": "2.5", "PaDiM": "failed"}


@pytest.mark.parametrize("cores, told", [(0.1, False), (1.3, True)])
def test_a_cost_run_beside_other_work_says_so(cores, told, tmp_path, monkeypatch):
    put(tmp_path, run(method="reverse", experiment="cost") | {"complexity": dict.fromkeys(COST, 2.5) | {"other_work_cores": cores}})
    execute("05_complexity", tmp_path, tmp_path, monkeypatch)
    assert ("1.3 cores busy" in (tmp_path / "tables/table3_timing.md").read_text()) == told


def test_figures_carry_a_caption_and_a_text_for_those_who_cannot_see_them(tmp_path, monkeypatch):
    saved = {}
    monkeypatch.setattr(figures, "save_figure", lambda _, stem, formats, caption, alt: saved.update({stem.name: (formats, caption, alt)}))
    for name in TABLES:
        execute(name, REFERENCE / "demo", tmp_path, monkeypatch)
    assert set(saved) == {figure for name in TABLES for figure in plan.REPORTS[name].figures}
    assert all(formats == ("png", "pdf") and caption and len(alt) > 40 for formats, caption, alt in saved.values())


def test_bars_are_means_and_the_papers_value_stands_where_it_published_one(tmp_path, monkeypatch):
    demo = execute("04_mvtec", REFERENCE / "demo", "", monkeypatch)
    heights = [bar.get_height() for bar in demo["figure"].axes[0].patches]
    means = demo["drawn"].groupby("category")["image_auroc"].mean()
    assert [h for h in heights if not np.isnan(h)][: len(means)] == pytest.approx(means.tolist())
    labels = lambda space: {text.get_text() for text in space["figure"].axes[0].get_legend().get_texts()}  # noqa: E731
    assert "paper" not in labels(demo) and "paper" in labels(execute("04_mvtec", REFERENCE / "cpu", "", monkeypatch))

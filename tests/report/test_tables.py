"""Tables from made-up runs: every number by hand, the verdict at its boundaries, and the shipped facts among themselves."""

import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_runs import failed, run

from rdlib.config import MVTEC_COUNTS, Config
from rdlib.errors import InputError
from rdlib.metrics import image_auroc
from rdlib.report import report, tables
from rdlib.report.tables import Cell, Ours, metric

Z = 1.959964  # the normal's 97.5 % quantile
AUROC = metric("image_auroc")
FRACTIONS = st.integers(0, 1000).map(lambda i: i / 1000)


def ours(mean=90.0, half=1.0, std=1.0, n=2, runs=("main-mvtec-carpet-wrn50.256px.200ep-s0",)):
    return Ours(mean, std, n, half, runs)


def scored(normal, anomalous):
    """Images with these scores."""
    images = [(f"{i}.png", 0, float(s), 0) for i, s in enumerate(normal)]
    return images + [(f"b{i}.png", 1, float(s), 9) for i, s in enumerate(anomalous)]


def by_row(cells, column=None):
    return {c.row: c for c in cells if column in (None, c.column)}


@pytest.fixture
def quick(monkeypatch):
    """The made-up images are told apart without a mistake: drawing them again gives 0, as a test below shows."""
    monkeypatch.setattr(tables, "bootstrap_std", lambda run: 0.0)


# --- Mean, spread, uncertainty ------------------------------------------------------------------------------------


def test_mean_spread_and_half_width_by_hand():
    found = tables.summarise([run(v, seed=i) for i, v in enumerate((0.90, 0.92, 0.94))], AUROC)
    assert (found.mean, found.std, found.n) == (pytest.approx(92), pytest.approx(2), 3)
    assert found.half == pytest.approx(Z * 2 / math.sqrt(3), rel=1e-6)
    assert found.runs == tuple(f"main-mvtec-carpet-wrn50.256px.200ep-s{i}" for i in range(3))


def test_one_run_has_no_spread():
    found = tables.summarise([run(0.5)], AUROC)
    assert (found.mean, found.n) == (50, 1) and math.isnan(found.std) and math.isnan(found.half)


def test_runs_without_the_value_do_not_count():
    undefined = run(metrics={"image_auroc": None}, seed=1)
    assert tables.summarise([], AUROC) is None and tables.summarise([undefined], AUROC) is None
    assert tables.summarise([run(0.8), undefined], AUROC).runs == (run()["run_id"],)
    assert tables.summarise([run(dataset="digits", normal_class=1)], metric("au_pro")) is None


def test_the_test_images_add_their_uncertainty():
    """One normal image at 0, anomalous ones at -1 and 1: a draw's AUROC is 0, 1/2 or 1 with chance 1/4, 1/2, 1/4."""
    images = scored([0], [-1, 1])
    drawn = tables.bootstrap_std(run(0.5, images=images))
    assert drawn == pytest.approx(100 * math.sqrt(1 / 8), rel=0.15)
    one = tables.summarise([run(0.5, images=images)], AUROC, bootstrap=True)
    assert math.isnan(one.std) and one.half == pytest.approx(Z * drawn, rel=1e-6)
    two = tables.summarise([run(v, seed=i, images=images) for i, v in enumerate((0.4, 0.6))], AUROC, bootstrap=True)
    assert two.half == pytest.approx(Z * math.sqrt(2 * 10**2 / 2 + drawn**2), rel=1e-6)


def test_drawing_images_again_is_repeatable_and_leaves_the_random_state_alone():
    made = run(images=scored(range(0, 20, 2), range(5, 25, 2)))
    np.random.seed(3)
    expected = np.random.RandomState(3).rand()
    first = tables.bootstrap_std(made)
    assert np.random.rand() == expected and tables.bootstrap_std(made) == first > 0


@settings(max_examples=5, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.lists(st.integers(10, 19), min_size=1, max_size=5))
def test_perfect_separation_has_no_uncertainty(normal, anomalous):
    assert tables.bootstrap_std(run(images=scored(normal, anomalous))) == 0


def hanley_mcneil(normal, anomalous):
    """Standard error of the AUROC (Hanley & McNeil 1982, eq. 2), in per cent."""
    n, m = len(anomalous), len(normal)
    a = image_auroc(labels=np.repeat([0, 1], [m, n]), scores=np.concatenate([normal, anomalous]))
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    return 100 * math.sqrt((a * (1 - a) + (n - 1) * (q1 - a * a) + (m - 1) * (q2 - a * a)) / (n * m))


def test_drawing_agrees_with_hanley_and_mcneil():
    rng = np.random.default_rng(1)
    normal, anomalous = rng.normal(size=200), rng.normal(1, size=150)
    assert tables.bootstrap_std(run(images=scored(normal, anomalous))) == pytest.approx(hanley_mcneil(normal, anomalous), rel=0.2)


def test_a_large_test_set_takes_the_closed_form():
    rng = np.random.default_rng(1)
    normal, anomalous = rng.normal(size=1001), rng.normal(1, size=70)
    assert tables.bootstrap_std(run(images=scored(normal, anomalous))) == pytest.approx(hanley_mcneil(normal, anomalous), rel=1e-9)


def test_the_closed_form_of_pure_chance_is_mann_and_whitneys():
    """Equal scores: AUROC 1/2 and variance (n + m + 1) / 12nm."""
    made = run(images=scored(np.zeros(1001), np.zeros(98)))
    assert tables.bootstrap_std(made) == pytest.approx(100 * math.sqrt(1100 / (12 * 1001 * 98)), rel=1e-9)


def test_average_adds_variances():
    found = tables.average([ours(90, half=6, std=3, n=3, runs=("a",)), ours(80, half=8, std=4, n=2, runs=("b", "c"))])
    assert (found.mean, found.std, found.half, found.n, found.runs) == (85, 2.5, 5, 2, ("a", "b", "c"))


def test_average_wants_all_of_them():
    assert tables.average([ours(), None]) is None and tables.average([]) is None
    assert tables.average([ours(70, half=2, std=1)]) == ours(70, half=2, std=1)


# --- The verdict --------------------------------------------------------------------------------------------------

# Half-width 0.45 and rounding 0.05 make 0.5 exactly.
VERDICTS = [
    (None, 98.0, True, "not run"),
    (None, None, False, "not run"),
    (ours(98), None, True, "not published"),
    (ours(98), 98.0, False, "different setting"),
    (ours(98, half=math.nan), 98.0, True, "one seed: no verdict"),
    (ours(98.5, half=0.45), 98.0, True, "agrees"),
    (ours(97.5, half=0.45), 98.0, True, "agrees"),
    (ours(98.501, half=0.45), 98.0, True, "higher"),
    (ours(97.499, half=0.45), 98.0, True, "lower"),
    (ours(98.0, half=0), 98.0, True, "agrees"),
]


@pytest.mark.parametrize("value, paper, same, expected", VERDICTS)
def test_verdict(value, paper, same, expected):
    assert tables.verdict(Cell("row", "column", value, paper, "published", same)) == expected


@given(mean=FRACTIONS, half=FRACTIONS, paper=FRACTIONS)
def test_a_verdict_turns_round_with_the_two_sides(mean, half, paper):
    there = tables.verdict(Cell("", "", ours(mean, half), paper, same=True))
    back = tables.verdict(Cell("", "", ours(paper, half), mean, same=True))
    assert {"agrees": "agrees", "higher": "lower", "lower": "higher"}[there] == back


# --- Choosing runs ------------------------------------------------------------------------------------------------

VARIANTS = {
    "bottleneck": "pre",
    "conv1x1": True,
    "scales": "2,3",
    "loss": "pixel",
    "resize": "no_antialias",
    "mask_rule": "any",
    "batch_size": 8,
    "lr": 0.01,
    "beta1": 0.9,
    "beta2": 0.99,
    "sigma": 2.0,
    "image_score": "mean",
    "precision": "bf16",
}
CELLS = {"category": "wood", "teacher": "resnet18", "image_size": 128, "epochs": 8, "seed": 1, "label": "x", "experiment": "main"}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_departs_and_is_chosen_only_by_name(name):
    plain, variant = run(), run(**{name: VARIANTS[name]})
    assert tables.departures(variant) == {name} and tables.departures(plain) == set()
    assert tables.choose([plain, variant]) == [plain]
    assert tables.choose([plain, variant], **{name: variant["config"][name]}) == [variant]


@pytest.mark.parametrize("name", CELLS)
def test_what_says_which_cell_is_no_departure(name):
    made = run(**{name: CELLS[name]})
    assert tables.departures(made) == set() and tables.choose([made], **{name: CELLS[name]}) == [made]


def test_every_field_is_a_cell_or_a_factor():
    assert set(tables.CELL) | set(VARIANTS) | {"normalise"} == set(Config.__dataclass_fields__)


def test_normalisation_belongs_to_the_teacher():
    made = run(normalise="none")
    assert tables.departures(made) == {"normalise"} and tables.choose([made]) == [made]


def test_cost_runs_and_baselines_are_left_out_unless_named():
    plain, cost = run(), run(experiment="cost")
    others = {m: run(method=m) for m in ("conventional", "padim", "spade")}
    everything = [plain, cost, *others.values()]
    assert tables.choose(everything) == [plain]
    assert tables.choose(everything, experiment="cost") == [cost]
    assert all(tables.choose(everything, method=m) == [r] for m, r in others.items())


def test_the_main_setting_is_that_of_the_most_runs():
    lite = {"dataset": "demo", "category": "brick", "epochs": 2}
    assert tables.main_setting([]) == {"dataset": "mvtec", "teacher": "wide_resnet50_2", "image_size": 256, "epochs": 200}
    few = [run(**lite, seed=s) for s in (0, 1)]
    variants = [run(**lite, image_size=64, seed=s, loss="pixel") for s in range(3)]
    smaller = [run(**lite, image_size=64)]
    demo = {"dataset": "demo", "teacher": "efficientnet_lite0"}
    assert tables.main_setting(few + variants + smaller) == demo | {"image_size": 128, "epochs": 2}
    assert tables.main_setting(few[:1] + smaller) == demo | {"image_size": 128, "epochs": 2}, "as many of both: the larger"
    real = run(teacher="resnet18", image_size=128)
    wanted = {"dataset": "mvtec", "teacher": "resnet18", "image_size": 128, "epochs": real["config"]["epochs"]}
    assert tables.main_setting([*few, real]) == wanted


def test_runs_of_other_epochs_are_not_seeds_of_the_same_cell():
    base = {"dataset": "demo", "category": "brick"}
    wanted = [run(**base, epochs=15, seed=s) for s in (0, 1)]
    old = [run(**base, epochs=8), run(**base, epochs=15, label="try")]
    (cell, _) = tables.category_table(wanted + old, "image_AUROC", dataset="demo", resolution=128)
    assert cell.ours.n == 2 and set(cell.ours.runs) == {r["run_id"] for r in wanted}


def test_the_demo_set_is_what_tables_are_about_without_real_data():
    demo, digits = run(dataset="demo", category="coin"), run(dataset="digits", normal_class=1)
    assert tables.dataset_of([demo, digits]) == "demo" and tables.dataset_of([demo, run()]) == "mvtec"


# --- Tables 1 and 2 -----------------------------------------------------------------------------------------------


def all_categories(**params):
    """Carpet 71 %, grid 72 %, ... zipper 85 %, in the paper's order."""
    return [run((71 + i) / 100, category=c, **params) for i, c in enumerate(MVTEC_COUNTS)]


def test_table_1_has_the_papers_rows_and_averages(quick):
    cells = tables.category_table(all_categories(), "image_AUROC", dataset="mvtec", resolution=256)
    textures, objects = ["carpet", "grid", "leather", "tile", "wood"], [c.row for c in cells[5:15]]
    assert [c.row for c in cells] == [*textures, *objects, "avg_textures", "avg_objects", "avg_total"]
    assert objects[0] == "bottle" and objects[-1] == "zipper" and not set(textures) & set(objects)
    assert [c.ours.mean for c in cells[:15]] == pytest.approx(range(71, 86))
    assert [c.ours.mean for c in cells[15:]] == pytest.approx([73, 80.5, 78])
    assert [(c.paper, c.evidence, c.same) for c in cells[:2]] == [(98.9, "published", True), (100.0, "published", True)]
    assert {c.column for c in cells} == {"image_AUROC 256 px"}


@pytest.mark.parametrize("name, in_file", [("pixel_AUROC", "pixel_auroc"), ("PRO", "au_pro_per_image")])
def test_table_2_reads_the_papers_metric(name, in_file):
    cells = tables.category_table([run(0.1, metrics={in_file: 0.7})], name, dataset="mvtec", resolution=256)
    assert cells[0].ours.mean == pytest.approx(70) and math.isnan(cells[0].ours.half), "the image bootstrap is the image AUROC's"
    assert cells[0].paper == {"pixel_AUROC": 98.9, "PRO": 97.0}[name]


def test_a_missing_category_leaves_its_averages_unrun(quick):
    runs = [r for r in all_categories() if r["config"]["category"] != "screw"]
    found = by_row(tables.category_table(runs, "image_AUROC", dataset="mvtec", resolution=256))
    assert [row for row, cell in found.items() if cell.ours is None] == ["screw", "avg_objects", "avg_total"]
    assert tables.verdict(found["screw"]) == "not run" and found["avg_textures"].ours.mean == pytest.approx(73)


def test_resolutions_and_variants_are_kept_apart(quick):
    runs = [run(0.9), run(0.6, image_size=128), run(0.1, loss="pixel"), run(0.2, method="padim"), run(0.3, experiment="cost")]
    for resolution, expected in ((256, 90), (128, 60)):
        found = by_row(tables.category_table(runs, "image_AUROC", dataset="mvtec", resolution=resolution))["carpet"]
        assert (found.ours.mean, found.ours.n) == (pytest.approx(expected), 1)


def test_another_teacher_gets_no_verdict():
    runs = [run(0.989, teacher="resnet18", seed=s) for s in (0, 1)]
    found = by_row(tables.category_table(runs, "image_AUROC", dataset="mvtec", resolution=256))["carpet"]
    assert tables.verdict(found) == "different setting" and found.paper == 98.9


def test_the_demo_table_has_no_paper():
    runs = [run(v, dataset="demo", category=c) for v, c in ((0.8, "coin"), (0.6, "brick"))]
    cells = tables.category_table(runs, "image_AUROC", dataset="demo", resolution=128)
    assert [(c.row, c.ours.mean, c.paper) for c in cells] == [("brick", 60, None), ("coin", 80, None), ("avg_total", 70, None)]


# --- Same teacher, ablations, novelty -----------------------------------------------------------------------------


def test_methods_are_compared_on_seed_0_of_the_categories_all_have_run():
    methods = ("reverse", "conventional", "padim", "spade")
    runs = [run(v, method=m, category=c) for m, v in zip(methods, (0.9, 0.8, 0.7, 0.6)) for c in ("carpet", "wood")]
    runs += [run(0.1, category="zipper"), run(0.1, seed=1)]
    found = tables.methods_table(runs)
    means = {c.row: c.ours.mean for c in found if c.column == "image_auroc"}
    assert means == pytest.approx({"reverse distillation (ours)": 90, "conventional distillation": 80, "PaDiM": 70, "SPADE": 60})
    assert {c.column for c in found} == {"image_auroc", "pixel_auroc", "au_pro_per_image", "au_pro"}
    assert all(len(c.ours.runs) == 2 and c.paper is None for c in found)


def test_methods_without_a_shared_category_are_not_run():
    assert {tables.verdict(c) for c in tables.methods_table([run(), run(method="padim")])} == {"not run"}


def test_ablations_of_the_whole_data_set():
    scales = {"M1": {"image_auroc": 0.5, "image_ap": 0.5}, "M2+M3": {"image_auroc": 0.75, "image_ap": 0.5}}
    runs = [run(0.985, category=c, seed=s, by_scales=scales) for c in MVTEC_COUNTS for s in (0, 1)]
    runs += [run(0.96, category=c, seed=s, bottleneck="pre") for c in MVTEC_COUNTS for s in (0, 1)]
    found = {name: by_row(cells, "image_AUROC") for name, cells in tables.ablation_rows(runs).items()}
    verdicts = {name: {row: tables.verdict(c) for row, c in cells.items()} for name, cells in found.items()}
    assert verdicts["table5_bottleneck"] == {
        "Pre (pre-trained bottleneck)": "agrees",
        "Pre+OCE": "not run",
        "Pre+OCE+MFF (full model)": "agrees",
    }
    assert verdicts["table6_scales"] == {"M1": "not published", "M2": "not run", "M3": "not run"} | {
        "M2+M3": "not published",
        "M1+M2+M3": "agrees",
    }
    assert verdicts["table7_backbones"] == {"resnet18": "not run", "resnet50": "not run", "wide_resnet50_2": "agrees"}
    assert found["table6_scales"]["M1"].ours.mean == 50 and found["table6_scales"]["M2+M3"].ours.mean == 75
    assert found["table5_bottleneck"]["Pre+OCE"].paper == 97.9 and found["table7_backbones"]["resnet18"].evidence == "unverified"


def test_ablations_of_some_categories_are_another_setting():
    runs = [run(0.985, category=c, seed=s) for c in ("carpet", "wood") for s in (0, 1)] + [run(bottleneck="pre")]
    found = {name: by_row(cells, "PRO") for name, cells in tables.ablation_rows(runs).items()}
    assert tables.verdict(found["table5_bottleneck"]["Pre+OCE+MFF (full model)"]) == "different setting"
    assert tables.verdict(found["table5_bottleneck"]["Pre (pre-trained bottleneck)"]) == "not run", "wood has no such run"
    assert tables.verdict(found["table7_backbones"]["wide_resnet50_2"]) == "different setting"


def test_table_7_adds_the_teachers_that_were_used():
    runs = [run(0.7, dataset="demo", category="brick", teacher=f"efficientnet_lite{i}", seed=s) for i, s in ((0, 0), (0, 1), (2, 0))]
    found = by_row(tables.ablation_rows(runs)["table7_backbones"], "image_AUROC")
    assert list(found) == ["resnet18", "resnet50", "wide_resnet50_2", "efficientnet_lite0", "efficientnet_lite2"]
    assert [tables.verdict(c) for c in found.values()] == ["not run"] * 3 + ["not published"] * 2


def novelty(dataset, values, **params):
    return [run(v, dataset=dataset, normal_class=k, **params) for k, v in enumerate(values)]


def test_table_4_is_the_mean_over_ten_classes(quick):
    runs = novelty("digits", [0.5] * 5 + [0.7] * 5) + novelty("mnist", [0.9] * 9)
    runs += [r for s in (0, 1) for r in novelty("fashion_mnist", [0.95] * 10, seed=s)]
    runs += novelty("cifar10", [0.865] * 10, teacher="efficientnet_lite0")
    cells = tables.novelty_table(runs)
    assert [c.row for c in cells] == ["mnist", "fashion_mnist", "cifar10", "digits"]
    assert [tables.verdict(c) for c in cells] == ["not run", "agrees", "different setting", "not published"]
    assert cells[3].ours.mean == pytest.approx(60) and cells[1].ours.n == 2 and len(cells[1].ours.runs) == 20


def test_table_4_is_about_one_setting(quick):
    """Variants of a few classes are neither mixed in nor taken for the main setting."""
    usual = novelty("digits", [0.5] * 10)
    others = novelty("digits", [0.9] * 3, image_size=64) + novelty("digits", [0.9] * 3, epochs=7)
    others += novelty("digits", [0.9] * 3, normalise="imagenet") + novelty("digits", [0.9] * 3, sigma=4.0)
    assert tables.novelty_runs(others + usual, "digits") == usual
    assert by_row(tables.novelty_table(others + usual))["digits"].ours.mean == 50


def test_classes_have_a_cell_each(quick):
    cells = tables.novelty_classes(novelty("digits", [k / 10 for k in range(9)]))
    assert [c.row for c in cells] == list("0123456789") and {c.column for c in cells} == {"digits"}
    assert [c.ours.mean for c in cells[:9]] == pytest.approx(range(0, 90, 10)) and cells[9].ours is None


# --- Runs that failed ---------------------------------------------------------------------------------------------

DEMO = {"dataset": "demo", "image_size": 128}


def missing(cells, column=None):
    """Row -> what stands there instead of a value."""
    return {row: tables.verdict(c) for row, c in by_row(cells, column).items() if c.ours is None}


def test_a_failed_category_keeps_its_row_and_no_average_leaves_it_out(quick):
    runs = [run(v, **DEMO, category=c, seed=s) for v, c in ((0.9, "brick"), (0.8, "coin")) for s in (0, 1)]
    runs += [failed("diverged", "loss is nan", **DEMO, category="gravel", seed=s) for s in (0, 1)]
    cells = tables.category_table(runs, "image_AUROC", dataset="demo", resolution=128)
    assert [c.row for c in cells] == ["brick", "coin", "gravel", "avg_total"]
    assert missing(cells) == {"gravel": "diverged", "avg_total": "diverged"}
    assert {f["reason"] for c in cells for f in c.failures} == {"loss is nan"}


def test_a_failure_marks_only_the_cells_it_is_a_run_of(quick):
    """Not those of another resolution, of another variant, or of another data set whose class has the same name."""
    runs = [run(category="wood"), failed(category="bottle", image_size=128), failed(category="cable", loss="pixel")]
    for resolution, expected in ((256, "not run"), (128, "failed")):
        found = by_row(tables.category_table(runs, "image_AUROC", dataset="mvtec", resolution=resolution))
        assert tables.verdict(found["bottle"]) == expected and tables.verdict(found["cable"]) == "not run"
    runs = novelty("digits", [0.5] * 3) + [failed(dataset="digits", normal_class=3)] + novelty("mnist", [0.5] * 3)
    cells = tables.novelty_classes(runs)
    assert missing(cells, "digits")["3"] == "failed" and missing(cells, "mnist")["3"] == missing(cells, "digits")["4"] == "not run"
    assert missing(tables.novelty_table(runs)) == {"mnist": "not run", "fashion_mnist": "not run", "cifar10": "not run", "digits": "failed"}


def test_an_average_is_failed_only_by_a_category_without_any_run(quick):
    """Carpet has another seed: the average is missing for the categories that were not run."""
    found = by_row(tables.category_table([run(), failed(seed=1)], "image_AUROC", dataset="mvtec", resolution=256))
    assert tables.verdict(found["avg_textures"]) == "not run"


def test_a_value_over_fewer_seeds_than_planned_is_marked(quick, tmp_path):
    runs = [run(0.9, **DEMO, category=c, seed=0) for c in ("brick", "coin")] + [run(0.8, **DEMO, category="coin", seed=1)]
    runs += [failed(**DEMO, category="brick", seed=1)]
    cells = tables.category_table(runs, "PRO", dataset="demo", resolution=128)
    shown = tables.display_table(cells)["ours"]
    assert shown["brick"] == "90.0 (1)‡" and shown["coin"] == "85.0 ± 7.1 (2)" and shown["avg_total"].endswith("‡")
    files = written(tmp_path, cells)
    assert all(tables.FEWER in files[s] for s in ("md", "html")) and "over fewer seeds than planned" in files["tex"]
    table = pd.read_csv(tmp_path / "t.csv", index_col="row", keep_default_na=False)
    assert table["failed"].tolist() == [runs[-1]["run_id"], "", runs[-1]["run_id"]]


def test_without_failures_there_is_no_mark_and_no_column():
    cells = tables.category_table([run(**DEMO, category="coin")], "PRO", dataset="demo", resolution=128)
    assert "failed" not in tables.frame(cells) and "‡" not in tables.display_table(cells).to_string()


@pytest.mark.parametrize("method, row", [("reverse", "reverse distillation (ours)"), ("padim", "PaDiM")])
def test_a_method_that_failed_on_a_category_has_no_average_and_the_others_keep_theirs(method, row):
    methods = ("reverse", "conventional", "padim", "spade")
    runs = [run(0.9 if c == "wood" else 0.7, method=m, category=c) for m in methods for c in ("carpet", "wood")]
    at = next(i for i, r in enumerate(runs) if r["config"]["method"] == method)
    runs[at] = failed(method=method, category="carpet")
    cells = tables.methods_table(runs)
    assert missing(cells, "image_auroc") == {row: "failed"}
    assert [c.ours.mean for c in cells if c.ours] == pytest.approx([80] * 12)


def test_ablations_say_which_rows_failed():
    runs = [run(category=c, **variant) for c in ("carpet", "wood") for variant in ({}, {"bottleneck": "pre"}, {"teacher": "resnet18"})]
    runs = [r for r in runs if r["config"]["teacher"] != "resnet18" or r["config"]["category"] != "wood"]
    runs += [failed(category="wood", teacher="resnet18"), failed(category="wood", bottleneck="oce")]
    runs += [run(category=c, seed=1) for c in ("carpet", "wood")]
    found = {name: missing(cells, "image_AUROC") for name, cells in tables.ablation_rows(runs).items()}
    assert found["table5_bottleneck"] == {"Pre+OCE": "failed"}
    assert found["table7_backbones"] == {"resnet18": "failed", "resnet50": "not run"}
    runs = [r for r in runs if r["config"]["category"] == "wood"] + [failed(category="carpet")]
    assert set(missing(tables.ablation_rows(runs)["table6_scales"]).values()) == {"failed"}


def test_failures_count_for_what_tables_are_about():
    """Or a profile whose own runs failed would be told by its variants."""
    runs = [failed(category=c) for c in MVTEC_COUNTS] + [run(category="wood", teacher="resnet18"), run(dataset="demo", category="coin")]
    assert tables.main_setting(runs) == {"dataset": "mvtec", "teacher": "wide_resnet50_2", "image_size": 256, "epochs": 200}


def test_a_failed_run_has_no_effect():
    runs = [run(0.8), run(0.6, seed=1), failed(loss="pixel"), failed(seed=2)]
    assert tables.factor_effects(runs, runs, ["image_auroc"]).empty
    assert len(tables.seed_effects(runs, ["image_auroc"])) == 2 and set(tables.free_effects(runs)["seed"]) <= {0, 1}


# --- What moves the number ----------------------------------------------------------------------------------------


def effects(runs, bases, **limits):
    found = tables.factor_effects(runs, bases, ["image_auroc"], **limits)
    return [(e.factor, round(e.effect, 6)) for e in found.itertuples()]


def test_exactly_one_differing_value_is_an_effect():
    base = run(0.8)
    runs = [base, run(0.7, loss="pixel"), run(0.85, beta2=0.99), run(0.1, loss="pixel", beta2=0.99)]
    assert effects(runs, [base]) == [("loss = pixel (at 256 px)", -10), ("beta2 = 0.99 (at 256 px)", 5)]


def test_effects_are_paired_by_category_and_seed():
    bases = [run(v, category=c, seed=s) for v, c, s in ((0.8, "carpet", 0), (0.6, "carpet", 1), (0.5, "wood", 0))]
    runs = [*bases, run(0.9, loss="pixel"), run(0.9, loss="pixel", seed=1), run(0.9, loss="pixel", seed=2)]
    found = tables.factor_effects(runs, bases, ["image_auroc", "au_pro"])
    assert found[["seed", "metric"]].values.tolist() == [[0, "image_auroc"], [0, "au_pro"], [1, "image_auroc"], [1, "au_pro"]]
    assert found["effect"].tolist() == pytest.approx([10, 10, 30, 30]) and set(found["category"]) == {"carpet"}
    assert found["base"].tolist() == [bases[0]["run_id"]] * 2 + [bases[1]["run_id"]] * 2
    summary = tables.effect_summary(found).query("metric == 'au_pro'").iloc[0]
    assert summary[["mean", "smallest", "largest", "n"]].tolist() == pytest.approx([20, 10, 30, 2])


def test_seed_category_class_and_experiment_are_no_factors():
    others = [run(seed=1), run(category="wood"), run(experiment="cost")]
    assert effects(others, [run()]) == []
    digits = novelty("digits", [0.5, 0.6])
    assert effects(digits, digits) == []


def test_the_data_set_is_no_factor():
    """MNIST and Fashion-MNIST have the same defaults: the same class on both differs in the data set alone."""
    there, here = novelty("mnist", [0.9]), novelty("fashion_mnist", [0.5])
    assert effects(there + here, here) == []


def test_factors_can_be_left_out_or_named():
    base = run(0.5)
    runs = [run(0.6, teacher="resnet18"), run(0.7, image_size=128), run(0.8, loss="pixel")]
    assert effects(runs, [base], leave=("teacher", "image_size")) == [("loss = pixel (at 256 px)", 30)]
    assert effects(runs, [base], only=("image_size",)) == [("image_size = 128", 20)]


def test_an_undefined_metric_has_no_effect():
    assert effects([run(metrics={"image_auroc": None}, loss="pixel")], [run()]) == []
    assert list(tables.factor_effects([], [run()], ["image_auroc"]).columns) == tables.EFFECT_COLUMNS


def test_an_undefined_seed_is_no_noise_and_no_look_at_it_the_best():
    undefined = {"image_auroc": None}
    found = tables.seed_effects([run(0.9), run(0.7, seed=1), run(metrics=undefined, seed=2)], ["image_auroc"])
    assert found["effect"].tolist() == pytest.approx([10, -10])
    assert tables.seed_effects([run(0.9), run(metrics=undefined, seed=1)], ["image_auroc"]).empty
    looks = [undefined, {"image_auroc": 0.85}, undefined]
    best = tables.free_effects([run(0.8, history=looks)]).query("factor == 'best epoch on test, not last' and metric == 'image_auroc'")
    assert best["effect"].tolist() == pytest.approx([5])
    assert "image_auroc" not in set(tables.free_effects([run(0.8, history=[undefined])])["metric"])


def test_effects_read_from_the_same_run():
    rules = {rule: {"image_auroc": v, "image_ap": v} for rule, v in (("max", 0.8), ("sum", 0.7), ("mean", 0.85))}
    base = run(0.8, metrics={"au_pro": 0.5, "au_pro_per_image": 0.9}, by_image_score=rules)
    found = tables.free_effects([base])
    assert dict(zip(found["factor"], found["effect"].round(6))) == {
        "image score = sum": -10,
        "image score = mean": 5,
        "PRO = MVTec's, pooled": -40,
    }
    assert set(found["run"]) == {base["run_id"]} == set(found["base"])


def test_the_best_epoch_on_test_by_hand():
    looks = [{"image_auroc": 0.7, "pixel_auroc": 0.6}, {"image_auroc": 0.9, "pixel_auroc": 0.5}]
    found = tables.free_effects([run(0.8, history=looks)])
    found = found.query("factor == 'best epoch on test, not last'")
    assert dict(zip(found["metric"], found["effect"].round(6))) == {"image_auroc": 10, "pixel_auroc": 0, "au_pro_per_image": 0}


@settings(max_examples=20, deadline=None)
@given(last=FRACTIONS, looks=st.lists(FRACTIONS, max_size=4))
def test_the_best_epoch_on_test_is_never_worse(last, looks):
    found = tables.free_effects([run(last, history=[{"image_auroc": v} for v in looks])])
    chosen = found.query("factor == 'best epoch on test, not last'")
    assert len(chosen) == (3 if looks else 0) and (chosen["effect"] >= 0).all()
    if looks:
        assert chosen["effect"].iloc[0] == pytest.approx(100 * max(0, max(looks) - last))


def test_seeds_by_hand():
    bases = [run(0.90), run(0.94, seed=1), run(0.5, category="wood"), run(0.1, loss="pixel")]
    found = tables.seed_effects(bases, ["image_auroc"])
    assert found[["factor", "category", "seed"]].values.tolist() == [["another seed", "carpet", 0], ["another seed", "carpet", 1]]
    assert found["effect"].tolist() == pytest.approx([-2, 2])


@settings(max_examples=20, deadline=None)
@given(st.lists(FRACTIONS, min_size=2, max_size=5))
def test_seeds_add_up_to_nothing(values):
    found = tables.seed_effects([run(v, seed=i) for i, v in enumerate(values)], ["image_auroc"])
    assert len(found) == len(values) and found["effect"].sum() == pytest.approx(0, abs=1e-9)


# --- Text and files -----------------------------------------------------------------------------------------------

CARPET = Cell(
    "carpet",
    "PRO",
    ours(98.26, half=0.4, std=0.34, n=2, runs=("main-mvtec-carpet-x-s0", "main-mvtec-carpet-x-s1")),
    97.0,
    "published",
    True,
)
GRID = Cell("grid", "PRO", None, 91.25, "unverified", True)
WOOD = Cell("wood", "PRO", ours(90.04, half=math.nan, std=math.nan, n=1, runs=("main-mvtec-wood-x-s0",)), None, "", True)


def test_a_table_for_reading():
    assert tables.display_table([CARPET, GRID, WOOD]).to_dict("index") == {
        "carpet": {"paper": "97.0", "ours": "98.3 ± 0.3 (2)", "difference": "+1.3", "verdict": "higher"},
        "grid": {"paper": "91.2†", "ours": "not run", "difference": "", "verdict": "not run"},
        "wood": {"paper": "not published", "ours": "90.0 (1)", "difference": "", "verdict": "not published"},
    }


def test_a_table_without_published_numbers_has_ours_only():
    assert tables.display_table([WOOD]).to_dict("index") == {"wood": {"ours": "90.0 (1)"}}


def test_several_columns_stand_side_by_side_or_below_each_other():
    other = Cell("carpet", "pixel_AUROC", None, 98.9, "published")
    wide = tables.display_table([CARPET, other])
    assert list(wide.index) == ["carpet"] and wide.loc["carpet", ["PRO paper", "pixel_AUROC ours"]].tolist() == ["97.0", "not run"]
    assert list(tables.display_table(tables.by_column([CARPET, other])).index) == ["carpet, PRO", "carpet, pixel_AUROC"]


@pytest.mark.parametrize("evidence", ["published", "unverified", "derived", ""])
def test_only_what_is_unverified_has_a_dagger(evidence):
    assert tables.paper_text(98.0, evidence) == ("98.0†" if evidence == "unverified" else "98.0")
    assert tables.paper_text(None, evidence) == tables.paper_text(math.nan, evidence) == "not published"


def written(folder, cells, caption="Table 1, %"):
    tables.write_table(folder, "t", cells, caption)
    return {p.suffix[1:]: p.read_text(encoding="utf-8") for p in folder.iterdir()}


def test_a_table_is_written_in_four_formats(tmp_path):
    files = written(tmp_path / "tables", [CARPET, GRID, WOOD])
    assert set(files) == {"csv", "md", "tex", "html"}
    assert all("98.3 ± 0.3 (2)" in files[suffix] and "Table 1, " in files[suffix] for suffix in ("md", "tex", "html"))


def test_the_csv_holds_the_numbers_unrounded(tmp_path):
    written(tmp_path, [CARPET, GRID, WOOD])
    found = pd.read_csv(tmp_path / "t.csv", index_col="row", keep_default_na=True)
    numbers = ["paper", "ours", "std", "n", "half_width", "difference"]
    assert found.loc["carpet", numbers].tolist() == pytest.approx([97, 98.26, 0.34, 2, 0.4, 1.26])
    assert found.loc["grid", "paper"] == 91.25 and found.loc["grid", ["ours", "std", "half_width", "difference"]].isna().all()
    assert found.loc["wood", "ours"] == 90.04 and found.loc["wood", ["paper", "std", "half_width", "difference"]].isna().all()
    assert found["verdict"].tolist() == ["higher", "not run", "not published"] and found["n"].tolist() == [2, 0, 1]
    assert found.loc["carpet", "runs"].split() == list(CARPET.ours.runs) and found.loc["grid", "evidence"] == "unverified"


def test_the_page_links_every_run_file(tmp_path):
    page = written(tmp_path / "tables", [CARPET, GRID, WOOD])["html"]
    assert re.findall(r'href="([^"]*)"', page) == [f"../runs/{r}/result.json" for r in (*CARPET.ours.runs, *WOOD.ours.runs)]
    assert re.findall(r">(s\d)</a>", page) == ["s0", "s1", "s0"]


@pytest.mark.parametrize("suffix", ["md", "html", "tex"])
def test_a_dagger_is_explained_where_there_is_one(tmp_path, suffix):
    with_one, without = written(tmp_path / "a", [CARPET, GRID]), written(tmp_path / "b", [CARPET, WOOD])
    assert "91.2†" in with_one[suffix] and "recalled, not seen in print" in with_one[suffix]
    assert "†" not in without[suffix] and "recalled" not in without[suffix]


def test_a_caption_is_escaped_for_latex(tmp_path):
    """Unescaped, % hides the rest of the line and _ stops LaTeX. Captions name teachers and metrics."""
    (caption,) = re.findall(r"\\caption\{(.*)\}", written(tmp_path, [WOOD], "Same teacher (efficientnet_lite0), 50 %")["tex"])
    assert caption == r"Same teacher (efficientnet\_lite0), 50 \%"


@pytest.mark.parametrize("name", ["label", "category", "experiment"])
def test_a_run_id_cannot_hold_markup(name):
    with pytest.raises(InputError, match=f"^{name}="):
        run(**{name: "<script>alert(1)</script>"})


def test_markup_in_a_frame_is_escaped(tmp_path):
    shown = pd.DataFrame({"<b>column</b>": ["<script>alert(1)</script>"]}, index=["<i>row</i>"])
    tables.write_frame(tmp_path, "t", shown, shown, "<script>caption</script>")
    page = (tmp_path / "t.html").read_text()
    assert page.count("&lt;script&gt;") == 2 and not re.search(r"<(script|b|i)>", page)


def test_markup_in_a_table_is_escaped_and_its_links_are_not(tmp_path):
    """A row is named after a category, and that after a folder: nothing proves that the run file was written by us."""
    cells = [replace(CARPET, row="<script>alert(1)</script>", column=f"<b>{x}</b>") for x in "xy"]
    tables.write_table(tmp_path, "t", cells, "caption")
    page = (tmp_path / "t.html").read_text()
    assert "&lt;script&gt;" in page and "&lt;b&gt;x" in page and not re.search(r"<(script|b)>", page) and '<a href="../runs/' in page


def test_markup_is_escaped_in_a_notebook_too(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(report, "display", lambda thing: shown.append(thing.data))
    report.Report._show(pd.DataFrame({"<b>column</b>": ["<script>alert(1)</script>"]}, index=["<i>row</i>"]), "<u>caption</u>")
    assert "&lt;script&gt;" in shown[0] and not re.search(r"<(script|b|i|u)>", shown[0])


# --- The paper's numbers ------------------------------------------------------------------------------------------


PRINTED = [("Table 1", "image_AUROC", 256), ("Table 1", "image_AUROC", 128), ("Table 2", "pixel_AUROC", 256), ("Table 2", "PRO", 256)]


@pytest.mark.parametrize("table, name, resolution", PRINTED)
def test_the_papers_averages_are_those_of_its_categories(table, name, resolution):
    where = {"table": table, "metric": name, "resolution": resolution, "method": "Ours (RD4AD)"}
    values = [tables.paper_value(**where, category=c)[0] for c in MVTEC_COUNTS]
    printed = [tables.paper_value(**where, category=f"avg_{g}")[0] for g in ("textures", "objects", "total")]
    assert printed == pytest.approx([np.mean(values[:5]), np.mean(values[5:]), np.mean(values)], abs=0.06)


def test_every_published_number_has_one_row_evidence_and_source():
    rows = tables.published()
    assert not rows.duplicated(["table", "dataset", "category", "resolution", "method", "metric"]).any()
    assert set(rows["evidence"]) <= {"published", "unverified", "derived"} and rows["source"].str.len().gt(0).all()
    per_cent = rows[rows["metric"].isin(tables.PAPER_METRICS)]
    assert per_cent["value"].between(0, 100).all()


def test_the_full_model_is_the_same_in_every_table():
    """Tables 3, 5, 6 and 7 repeat the averages of Tables 1 and 2."""
    full = {"Table 3": "Ours (WResNet50)", "Table 5": "Pre+OCE+MFF (full model)", "Table 6": "M1,M2,M3 (full model)"}
    full |= {"Table 7": "Ours, WResNet50"}
    for name, expected in (("image_AUROC", 98.5), ("pixel_AUROC", 97.8), ("PRO", 93.9)):
        assert {tables.paper_value(table=t, method=m, metric=name)[0] for t, m in full.items()} == {expected}


def test_a_number_that_is_not_there():
    assert tables.paper_value(table="Table 9") == (None, "")


def test_a_table_as_printed():
    shown = tables.paper_methods("Table 1", "image_AUROC", 256)
    assert list(shown.index) == [*MVTEC_COUNTS, "avg_textures", "avg_objects", "avg_total"]
    assert shown.loc["carpet", "Ours (RD4AD)"] == "98.9" and "PaDiM (WResNet50)" in shown

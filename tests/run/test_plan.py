"""The plans of the three profiles: complete, accepted by the configuration, each run once; missing things by name."""

import os
from collections import Counter
from pathlib import Path

import pytest
from helpers import REPO

from rdlib.config import Config
from rdlib.datasets import MVTEC_COUNTS
from rdlib.run import plan
from rdlib.run.parameters import from_notebook

IDX = "train-images-idx3-ubyte"
WEIGHTS = ("resnet18-f37072fd.pth", "resnet50-0676ba61.pth", "wide_resnet50_2-95faca4d.pth")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A machine without data sets and weights of its own. Returns the folder in place of Debian's."""
    monkeypatch.setattr(plan, "DEBIAN", str(tmp_path / "debian"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "debian"


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def categories(root, names=MVTEC_COUNTS):
    for name in names:
        (root / name / "train" / "good").mkdir(parents=True)
    return str(root)


@pytest.fixture
def everything(tmp_path):
    """Folder with all data sets (empty), and the weights in torch's cache."""
    categories(tmp_path / "data")
    for place in (f"mnist/{IDX}", f"fashion_mnist/{IDX}.gz", "cifar10/cifar-10-python.tar.gz"):
        touch(tmp_path / "data" / place)
    for file in WEIGHTS:
        touch(tmp_path / "torch" / "hub" / "checkpoints" / file)
    return str(tmp_path / "data")


@pytest.fixture(params=plan.PROFILES)
def profile(request):
    return request.param


def distinct(plan, *names):
    return {tuple(p.get(n) for n in names) for p in plan}


# --- Plans --------------------------------------------------------------------------------------------------------


def test_every_run_is_accepted_as_parameters_of_the_notebook(profile, everything):
    for run_id, parameters in plan.runs(profile, everything).items():
        cfg, where = from_notebook(parameters)
        assert cfg.run_id == run_id and where.data_root == parameters.get("data_root", "")


def test_runs_have_distinct_and_stable_ids(profile, everything):
    planned = plan.runs(profile, everything)
    assert list(planned) == list(plan.runs(profile, everything))
    configs = {from_notebook(p)[0] for p in planned.values()}
    assert len(configs) == len(planned)
    for run_id, parameters in planned.items():
        backwards = dict(reversed(parameters.items())) | {"data_root": "elsewhere", "threads": 7, "save_maps": False}
        assert plan.identity(backwards) == run_id


def test_a_run_that_several_tables_need_is_there_once(profile, everything):
    tables = plan.tables(profile, everything)
    ids = {table: [plan.identity(p) for p in needed] for table, needed in tables.items()}
    assert set().union(*map(set, ids.values())) == set(plan.runs(profile, everything))
    assert sum(map(len, ids.values())) > len(plan.runs(profile, everything))
    assert set(ids["mvtec"]) & set(ids["bottleneck"]) & set(ids["backbones"]) & set(ids["deviations"])
    planned = plan.runs(profile, everything)
    assert all(planned[plan.identity(p)].items() >= p.items() for needed in tables.values() for p in needed), "it has what any table wants"


def test_every_table_of_the_paper_has_runs(profile, everything):
    tables = plan.tables(profile, everything)
    assert all(tables.values())
    assert set(tables) == {
        "mvtec",
        "baselines",
        "complexity",
        "novelty",
        "novelty_sweep",
        "bottleneck",
        "backbones",
        "deviations",
        "unified",
    }


def test_the_demo_is_enough_to_see_something():
    tables = plan.tables("demo")
    assert len(distinct(tables["mvtec"], "category")) >= 5 and distinct(tables["mvtec"], "seed") == {(0,), (1,)}
    assert {p["dataset"] for p in plan.runs("demo").values()} == {"demo", "digits"}
    assert {p["teacher"] for p in plan.runs("demo").values()} <= {f"efficientnet_lite{i}" for i in range(3)}
    assert distinct(tables["novelty"], "normal_class") == {(k,) for k in range(10)}


def test_the_paper_plan_is_the_papers(everything):
    tables = plan.tables("paper", everything)
    main = tables["mvtec"]
    for parameters in main:  # departs from the paper's defaults in nothing but seeds, and TF32, which is PyTorch's own
        cfg, _ = from_notebook(parameters)
        assert cfg == Config.create(dataset="mvtec", category=cfg.category, image_size=cfg.image_size, seed=cfg.seed, precision="tf32")
    assert distinct(main, "category", "image_size", "seed") == {(c, px, s) for c in MVTEC_COUNTS for px in (256, 128) for s in range(3)}
    assert distinct(main, "teacher", "epochs") == {("wide_resnet50_2", 200)} and len(main) == 15 * 2 * 3
    assert distinct(tables["bottleneck"], "bottleneck", "seed") == {(b, s) for b in (None, "pre", "oce") for s in range(3)}
    teachers = ("wide_resnet50_2", "resnet50", "resnet18")
    assert distinct(tables["backbones"], "teacher", "category") == {(t, c) for t in teachers for c in MVTEC_COUNTS}
    sets = ("mnist", "fashion_mnist", "cifar10")
    assert distinct(tables["novelty"], "dataset", "normal_class", "seed") == {(d, k, s) for d in sets for k in range(10) for s in range(3)}
    assert distinct(tables["novelty"], "teacher", "image_size") == {("resnet18", 32)}
    assert distinct(tables["baselines"], "method", "category") == {(m, c) for m in plan.BASELINES for c in MVTEC_COUNTS}


def test_the_cpu_plan_is_about_what_is_there(tmp_path):
    data = categories(tmp_path / "data", ["wood", "bottle"])
    touch(tmp_path / "data" / "mnist" / IDX)
    tables = plan.tables("cpu", data)
    assert distinct(tables["mvtec"], "category") == {("bottle",), ("wood",)} and distinct(tables["novelty"], "dataset") == {("mnist",)}
    roots = {p["dataset"]: p["data_root"] for p in plan.runs("cpu", data).values()}
    assert roots == {"mvtec": data, "mnist": str(tmp_path / "data" / "mnist")}
    novelty = plan.tables("cpu", roots["mnist"])
    assert novelty["mvtec"] == novelty["complexity"] == [] and len(novelty["novelty"]) == 30, "without MVTec AD"


@pytest.mark.parametrize("place", ["", "weights"])
def test_the_papers_teacher_of_table_4_is_taken_where_its_weights_lie_beside_the_data(tmp_path, place):
    touch(tmp_path / "mnist" / IDX)
    lite = plan.tables("cpu", str(tmp_path))["novelty"]
    assert distinct(lite, "teacher", "normalise", "weights") == {("efficientnet_lite0", "imagenet", None)}
    weights = tmp_path / place / "resnet18-of_mine.pth"
    touch(weights)
    touch(tmp_path / place / "resnet181.pth")
    tables = plan.tables("cpu", str(tmp_path))
    assert distinct(tables["novelty"], "teacher", "normalise", "weights") == {("resnet18", None, str(weights))}
    assert {p["seed"] for p in tables["novelty"]} == {0, 1, 2}


def test_cost_is_measured_once_per_method(profile, everything):
    needed = plan.tables(profile, everything)["complexity"]
    assert [p.get("method", "reverse") for p in needed] == ["reverse", "padim", "spade"]
    assert all(p["measure"] and p["experiment"] == "cost" and not p["save_maps"] for p in needed)
    others = [p for i, p in plan.runs(profile, everything).items() if not i.startswith("cost-")]
    assert not any(p.get("measure") for p in others)


def test_one_model_for_all_is_trained_once_per_seed_and_by_the_first_run_of_it(profile, everything):
    planned = plan.runs(profile, everything)
    unified = {i: p for i, p in planned.items() if p.get("train_on") == "all"}
    main = {(p["category"], p["seed"]) for p in plan.tables(profile, everything)["mvtec"] if profile != "demo" or p["seed"] == 0}
    assert distinct(unified.values(), "category", "seed") == main and not any(plan.keeps_maps(p) for p in unified.values())
    trainers = plan.trainers(planned)
    first = [i for i in unified if i not in trainers]
    assert set(trainers) < set(unified) and set(trainers.values()) == set(first) and len(first) == len({s for _, s in main})
    assert all(planned[i]["seed"] == planned[trainers[i]]["seed"] for i in trainers)


def test_one_model_for_all_is_of_one_folder_and_more_than_one_category(tmp_path):
    data = [categories(tmp_path / "a", ["wood"]), categories(tmp_path / "b", ["wood", "tile", "pill"])]
    assert plan.tables("cpu", data[0])["unified"] == []
    planned = plan.tables("cpu", os.pathsep.join(data))
    assert (
        distinct(planned["unified"], "category", "data_root")
        == {("tile", data[1]), ("pill", data[1])}
        < distinct(planned["mvtec"], "category", "data_root")
    )


def test_maps_are_kept_for_the_figures_only():
    planned = plan.runs("demo")
    kept = {i for i, p in planned.items() if plan.keeps_maps(p)}
    teachers = {i for i in kept if ".128px" in i and "lite0" in i}
    assert {f"main-demo-{c}-lite0.128px.12ep-s0" for c in plan.DEMO_CATEGORIES} <= teachers
    assert {f"main-demo-{c}-lite0.128px.12ep.method_conventional-s0" for c in ("brick", "coin")} <= teachers
    assert not any("digits" in i or i.endswith("-s1") or "loss_" in i or "method_padim" in i for i in kept)


def test_the_paper_plan_is_in_tf32_with_float32_and_bfloat16_as_factors(everything):
    planned = plan.runs("paper", everything)
    usual = [p for p in planned.values() if p["precision"] == "tf32"]
    assert {p["precision"] for p in planned.values()} == {"tf32", "fp32", "bf16"} and len(planned) - len(usual) == 2 * len(MVTEC_COUNTS)
    kept = [p for p in planned.values() if plan.keeps_maps(p)]
    assert kept and {p["precision"] for p in kept} == {"tf32"}
    for profile in ("demo", "cpu"):
        assert ("tf32",) not in distinct(plan.runs(profile, everything).values(), "precision")


# --- One factor at a time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs, share, expected", [(50, 0.5, 25), (15, 0.5, 8), (1, 0.5, 1), (50, 3, 3)])
def test_a_fraction_of_the_epochs(epochs, share, expected):
    assert plan.apply({"dataset": "mnist", "epochs": epochs}, {"epochs": share})["epochs"] == expected


@pytest.mark.parametrize(
    "base, other",
    [({"dataset": "mnist"}, "imagenet"), ({"dataset": "mvtec"}, "none"), ({"dataset": "mnist", "normalise": "imagenet"}, "none")],
)
def test_the_other_normalisation(base, other):
    assert plan.apply(base, {"normalise": "other"})["normalise"] == other
    assert plan.apply(base | {"normalise": other}, {"normalise": "other"})["normalise"] != other


@pytest.mark.parametrize("factors", [plan.TRAINING_FACTORS, plan.RESIZE_FACTORS, plan.NOVELTY_FACTORS])
@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_a_factor_changes_exactly_one_value(factors, dataset):
    base = {"dataset": dataset, "normal_class": 0, "epochs": 10, "seed": 0}
    plain = Config.create(**base).to_dict()
    for change in factors:
        found = Config.create(**plan.apply(base, change)).to_dict()
        assert sum(found[k] != plain[k] for k in plain) == 1, change


def test_every_run_of_table_4s_sweep_differs_from_one_of_the_table_in_one_value():
    planned = plan.cpu({"mnist": "data", "fashion_mnist": "data", "resnet18": "file"})
    table = {(c.dataset, c.category, c.seed): c.to_dict() for c in (from_notebook(p)[0] for p in planned["novelty"])}
    changes = Counter()
    for cfg in {plan.identity(p): from_notebook(p)[0] for p in planned["novelty_sweep"]}.values():
        own, base = cfg.to_dict(), table[cfg.dataset, cfg.category, cfg.seed]
        changed = [name for name in own if own[name] != base[name]]
        assert len(changed) <= 1, cfg.run_id
        changes.update((cfg.dataset, name, own[name]) for name in changed)
    assert changes["fashion_mnist", "normalise", "imagenet"] == changes["fashion_mnist", "epochs", 16] == 10  # the search is on all classes
    assert changes["mnist", "normalise", "imagenet"] == 1


# --- Finding data -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [".", "mvtec", "mvtec_anomaly_detection"])
def test_categories_are_found(tmp_path, folder):
    categories(tmp_path / "data" / folder, ["screw", "bottle"])
    (tmp_path / "data" / folder / "carpet").mkdir()
    root = str(tmp_path / "data" / folder)
    assert plan.find_data(str(tmp_path / "data")) == {"screw": root, "bottle": root}, "carpet has no train/good"


LAYOUTS = [
    ("mnist", f"mnist/{IDX}", "mnist"),
    ("mnist", f"mnist/{IDX}.gz", "mnist"),
    ("mnist", f"MNIST/raw/{IDX}", "MNIST/raw"),
    ("fashion_mnist", f"fashion_mnist/{IDX}.gz", "fashion_mnist"),
    ("fashion_mnist", f"fashion-mnist/{IDX}.gz", "fashion-mnist"),
    ("fashion_mnist", f"FashionMNIST/raw/{IDX}", "FashionMNIST/raw"),
    ("cifar10", "cifar10/data_batch_1", "cifar10"),
    ("cifar10", "cifar10/cifar-10-python.tar.gz", "cifar10"),
    ("cifar10", "cifar10/cifar-10-batches-py/data_batch_1", "cifar10"),
    ("cifar10", "cifar-10-batches-py/data_batch_1", "."),
    ("cifar10", "cifar-10-python.tar.gz", "."),
]


@pytest.mark.parametrize("name, file, root", LAYOUTS)
def test_novelty_sets_are_found(tmp_path, name, file, root):
    touch(tmp_path / "data" / file)
    found = plan.find_data(str(tmp_path / "data"))
    assert list(found) == [name] and Path(found[name]) == tmp_path / "data" / root
    itself = str(tmp_path / "data" / root)
    assert root == "." or plan.find_data(itself) == {name: itself}, "a folder may be the set itself"


def test_own_folders_go_before_debians(elsewhere, tmp_path):
    for folder in (elsewhere / "fashion-mnist", tmp_path / "data" / "fashion_mnist"):
        touch(folder / f"{IDX}.gz")
    assert plan.find_data(str(tmp_path / "data")) == {"fashion_mnist": str(tmp_path / "data" / "fashion_mnist")}


@pytest.mark.parametrize("written", ["bottle", "bottle/", "./bottle", "."])
def test_a_category_itself_is_taken_without_its_neighbours(tmp_path, monkeypatch, written):
    categories(tmp_path, ["bottle", "cable"])
    monkeypatch.chdir(tmp_path / "bottle" if written == "." else tmp_path)
    assert plan.find_data(written) == {"bottle": str(tmp_path)}


def test_several_folders_are_searched_and_the_first_counts(tmp_path):
    data = [categories(tmp_path / "a", ["wood"]), categories(tmp_path / "b", ["wood", "tile"])]
    touch(tmp_path / "b" / "mnist" / IDX)
    found = plan.find_data(os.pathsep.join(data))
    assert found == {"wood": data[0], "tile": data[1], "mnist": str(tmp_path / "b" / "mnist")}


def test_what_each_folder_contributes_is_said(tmp_path, elsewhere):
    data = categories(tmp_path / "data", ["wood", "bottle"])
    (tmp_path / "empty").mkdir()
    touch(elsewhere / "fashion-mnist" / f"{IDX}.gz")
    lines = plan.data_lines("cpu", f"{data}{os.pathsep}{tmp_path / 'empty'}")
    assert lines == [
        f"DATA={data}: wood, bottle",
        f"DATA={tmp_path / 'empty'}: {plan.NOTHING}",
        f"Debian's packages in {elsewhere}: fashion_mnist",
    ]
    assert plan.plan_text("cpu", data).splitlines()[1:3] == [lines[0], lines[2]]
    assert plan.data_lines("demo", data) == [f"DATA={data}: not used, the demo brings its own"] and plan.data_lines("demo", "") == []


# --- What is missing ----------------------------------------------------------------------------------------------


def test_every_missing_thing_has_a_line(tmp_path):
    assert plan.missing("demo") == []
    lines = plan.missing("paper")
    assert len(lines) == 15 + 3 + 3
    for name in (*MVTEC_COUNTS, *plan.NOVELTY, *WEIGHTS):
        assert sum(name in line for line in lines) >= 1, name
    assert Counter(line.split()[0] for line in lines[:15]) == {"MVTec": 15} and str(tmp_path / "torch") in lines[-1]


@pytest.mark.parametrize("gone", ["screw/train/good", f"mnist/{IDX}", f"../torch/hub/checkpoints/{WEIGHTS[1]}"])
def test_the_one_missing_thing_is_named(everything, gone):
    assert plan.missing("paper", everything) == [] == plan.missing("cpu", everything)
    path = Path(everything) / gone
    path.rmdir() if path.is_dir() else path.unlink()
    (line,) = plan.missing("paper", everything)
    assert gone.split("/")[0 if ".." not in gone else -1] in line


def test_the_cpu_profile_needs_any_data_at_all(tmp_path):
    assert plan.missing("cpu", "") == ["DATA: none of the data sets in docs/datasets.md found; give DATA=FOLDER"]
    assert plan.missing("cpu", categories(tmp_path / "data", ["pill"])) == []


def test_the_text_of_the_plan_is_complete(profile, everything):
    text, planned = plan.plan_text(profile, everything), plan.runs(profile, everything)
    assert text.startswith(f"Profile {profile}: {len(planned)} different runs.")
    for parameters in planned.values():
        cell = str(parameters.get("category", parameters.get("normal_class")))
        what = f"{parameters['dataset']} {parameters['image_size']} px, {parameters['teacher']}, {parameters.get('method', 'reverse')}"
        assert any(what in line and cell in line.split(": ")[1].split() for line in text.splitlines() if " x " in line)


@pytest.mark.parametrize("name", ["demo", "paper"])
def test_the_page_on_full_runs_states_their_number(name, everything):
    (row,) = [line for line in (REPO / "docs/full_run.md").read_text().splitlines() if line.startswith(f"| `{name}`")]
    assert int(row.split("|")[4]) == len(plan.runs(name, everything))

"""Which runs each table needs: plain data. The Snakefile turns it into papermill calls; nothing here schedules.

A run is a dictionary of parameters of notebooks/02_run.ipynb. A run that several tables need has one id and is done once.
Profiles: `demo` (embedded photographs, minutes), `cpu` (real data that is there, small teacher), `paper` (everything).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdlib.config import PUBLISHED_WEIGHTS
from rdlib.datasets import DATASET_DEFAULTS, DATASETS, FURTHER_DATASETS, MVTEC_COUNTS, NOVELTY_DATASETS
from rdlib.errors import InputError
from rdlib.paths import at_home
from rdlib.run.parameters import from_notebook

Parameters = dict[str, Any]
PROFILES = ("demo", "cpu", "paper")
DEMO_CATEGORIES = ("brick", "grass", "gravel", "tissue", "coin")
NOVELTY = ("mnist", "fashion_mnist", "cifar10")
BASELINES = ("conventional", "padim", "spade")

# Parameters of 02_run that are no part of a run's identity, by the table that wants them.
BEST_ON_TEST = {"evaluate_every": 4}
COST = {"experiment": "cost", "measure": True, "save_maps": False}
TF32 = {"precision": "tf32"}
UNIFIED = {"train_on": "all"}


@dataclass(frozen=True)
class Report:
    """One table notebook, a section of the page.

    heading: of the section
    needs: the groups of runs it reads, keys of `tables(profile)`
    tables, figures: names it gives to `report.tables.write` and `report.figures.save_figure`, in the page's order
    sometimes: those of them that are written only where there is something to tell; all others always are
    """

    heading: str
    needs: tuple[str, ...]
    tables: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    sometimes: tuple[str, ...] = ()


# The one registry of tables and figures: the Snakefile, the page and the tests read it.
REPORTS = {
    "04_mvtec": Report(
        "Tables 1 and 2: MVTec AD, and the same teacher with other methods",
        ("mvtec", "baselines", "unified", "further"),
        ("demo_image_auroc", "demo_pixel_auroc", "demo_pro", "table1_run", "table1_256", "table1_128", "table2_pixel_auroc", "table2_pro", "low_fpr", "further_data_sets", "same_teacher", "unified"),
        ("category_bars",),
        ("demo_image_auroc", "demo_pixel_auroc", "demo_pro", "table1_run", "low_fpr", "further_data_sets", "unified"),
    ),
    "05_complexity": Report(
        "Table 3: cost",
        ("complexity", "mvtec", "baselines"),
        ("table3_size", "table3_timing", "table3_accuracy", "speed_training", "speed_drift", "speed_scoring", "speed_metrics", "speed_whole_runs"),
        ("growth",),
        ("speed_training", "speed_drift", "speed_scoring", "speed_metrics", "speed_whole_runs", "growth"),
    ),
    "06_novelty": Report(
        "Table 4: one-class novelty",
        ("novelty", "novelty_sweep"),
        ("table4", "table4_classes", "table4_epochs", "table4_sensitivity_mnist", "table4_sensitivity_fashion_mnist", "table4_sensitivity_cifar10", "table4_sensitivity_digits"),
        ("novelty_classes", "novelty_epochs"),
        ("table4_epochs", "table4_sensitivity_mnist", "table4_sensitivity_fashion_mnist", "table4_sensitivity_cifar10", "table4_sensitivity_digits"),
    ),
    "07_ablations": Report("Tables 5 to 7: ablations", ("mvtec", "bottleneck", "backbones"), ("table5", "table6", "table7")),
    "08_figures": Report(
        "Figures 1 and 5 to 7",
        ("mvtec", "baselines"),
        figures=("fig1_conventional_vs_reverse", "fig5_small", "fig6_large", "failures", "scales", "fig7_histograms", "loss_curves", "pro_curves"),
    ),
    "09_deviations": Report("What moves the number", ("mvtec", "deviations"), ("deviations", "epochs"), ("deviations", "epochs")),
    "12_claims": Report(
        "The paper's claims, one by one", ("mvtec", "baselines", "bottleneck", "backbones", "deviations", "complexity"), ("claims",), ("claims",)
    ),
}  # fmt: skip


# --- The profiles -------------------------------------------------------------------------------------------------


def demo() -> dict[str, list[Parameters]]:
    """Embedded photographs with synthetic defects, scikit-learn's digits, EfficientNet-Lite teachers."""
    base = {"dataset": "demo", "teacher": "efficientnet_lite0", "image_size": 128, "epochs": 12}
    main = _grid(base | BEST_ON_TEST, category=DEMO_CATEGORIES, seed=(0, 1))
    few, one = {"category": ("brick", "coin"), "seed": (0,)}, {"category": ("brick",), "seed": (0,)}
    digits = _novelty("digits", "efficientnet_lite0", epochs=15)
    return {
        "mvtec": main,
        "baselines": _baselines(base, **few),
        "complexity": _cost(base | {"category": "brick", "seed": 0}),
        "novelty": _grid(digits, normal_class=range(10), seed=(0,)),
        "novelty_sweep": _sweep(digits, NOVELTY_FACTORS, normal_class=(3,), seed=(0,)),
        "bottleneck": main + _grid(base, bottleneck=("pre", "oce"), **few),
        "backbones": main + _grid(base, teacher=("efficientnet_lite1",), **few),
        "deviations": main + _sweep(base, TRAINING_FACTORS, **one) + _sweep(base | {"image_size": 64}, RESIZE_FACTORS, **one),
        "unified": _grid(base | UNIFIED, category=DEMO_CATEGORIES, seed=(0,)),
    }


def cpu(data: dict[str, str]) -> dict[str, list[Parameters]]:
    """Real data that is there, on a processor: MVTec AD with EfficientNet-Lite0, novelty with the paper's ResNet-18 if its weights are.

    Epochs: the first of 2, 4, 8, 16 ... whose second half lowers the training loss by less than a third; no test label plays a part.
    Our method at 256 and 128 px with three seeds; the ablations at 128 px, a quarter of the time, so that they have two.
    """
    categories, seeds = [c for c in MVTEC_COUNTS if c in data], (0, 1, 2)
    base = {"dataset": "mvtec", "teacher": "efficientnet_lite0", "image_size": 256, "epochs": 16}
    small, cells = base | {"image_size": 128}, {"category": categories, "seed": seeds}
    pairs = cells | {"seed": seeds[:2]}
    main = _grid(base | BEST_ON_TEST, **cells) + _grid(small | BEST_ON_TEST, **cells)
    novelty = [_novelty(name, "resnet18" if "resnet18" in data else "efficientnet_lite0", epochs=4) for name in NOVELTY if name in data]
    looks = [own | {"seed": seed} | ({} if seed else {"evaluate_every": 1}) for own in novelty for seed in seeds]
    factors = NOVELTY_FACTORS + [{"teacher": "efficientnet_lite0"}] * ("resnet18" in data)
    teachers = ("efficientnet_lite1", *["resnet18"] * ("resnet18" in data))
    return {
        "mvtec": main,
        "baselines": _baselines(base, category=categories, seed=(0,)) + _grid(_method(small, "conventional"), **pairs),
        "complexity": _cost(base | {"category": categories[0], "seed": 0}) if categories else [],
        "novelty": [p for own in looks for p in _grid(own, normal_class=range(10))],
        "novelty_sweep": [p for own in novelty for p in _sweep(own, factors, normal_class=(6,), seed=(0,))]
        + [p for own in novelty if own["dataset"] == "fashion_mnist" for p in _search(own)],
        "bottleneck": main + _grid(small, bottleneck=("pre", "oce"), **pairs),
        "backbones": main + _grid(small, teacher=teachers, **pairs),
        "deviations": main
        + _sweep(small, TRAINING_FACTORS[:1], **pairs)
        + _sweep(small, TRAINING_FACTORS[1:] + RESIZE_FACTORS, category=categories, seed=(0,)),
        "unified": _grid(small | UNIFIED, **cells),
    }


def paper() -> dict[str, list[Parameters]]:
    """Every table at the paper's settings, three seeds. Missing data are named by `missing`, not here.

    In TF32, PyTorch's default on NVIDIA's GPUs and so the official code's; a device without it computes in float32 and the run says so.
    """
    seeds = (0, 1, 2)
    base, looks = {"dataset": "mvtec", "teacher": "wide_resnet50_2", "image_size": 256, "epochs": 200} | TF32, {"evaluate_every": 10}
    main = _grid(base | looks, category=MVTEC_COUNTS, seed=seeds)
    # Epochs are [open]: 50, stated in every table.
    novelty = [{"dataset": name, "teacher": "resnet18", "image_size": 32, "epochs": 50, "save_maps": False} | TF32 for name in NOVELTY]
    return {
        "mvtec": main + _grid(base | {"image_size": 128}, category=MVTEC_COUNTS, seed=seeds),
        "baselines": _baselines(base, category=MVTEC_COUNTS, seed=(0,)),
        "complexity": _cost(base | {"category": "bottle", "seed": 0}),
        "novelty": [p for own in novelty for p in _grid(own | looks, normal_class=range(10), seed=seeds)],
        "novelty_sweep": [
            p for own in novelty for p in _sweep(own, NOVELTY_FACTORS + [{"image_size": 128}], normal_class=range(10), seed=(0,))
        ],
        "bottleneck": main + _grid(base, bottleneck=("pre", "oce"), category=MVTEC_COUNTS, seed=seeds),
        "backbones": main + _grid(base | looks, teacher=("resnet18", "resnet50"), category=MVTEC_COUNTS, seed=seeds),
        "deviations": main + _sweep(base, TRAINING_FACTORS + PRECISIONS + RESIZE_FACTORS, category=MVTEC_COUNTS, seed=(0,)),
        "unified": _grid(base | UNIFIED, category=MVTEC_COUNTS, seed=seeds),
    }


def further(data: dict[str, str]) -> dict[str, list[Parameters]]:
    """Our method at profile cpu's own setting on every further data set that is there; no group if none is."""
    cells = [dict(zip(("dataset", "category"), key.split("/"))) for key in data if "/" in key]
    main = cpu({"bottle": ""})["mvtec"][0]
    return {"further": [p for cell in cells for p in _grid(main | cell | {"save_maps": False}, seed=(0, 1))]} if cells else {}


# One factor at a time against the profile's own setting (09_deviations, 06_novelty).
TRAINING_FACTORS: list[Parameters] = [
    {"loss": "pixel"},  # per position, eq. 2
    {"conv1x1": True},  # of Fig. 4
    {"beta2": 0.99},
    {"sigma": 2.0},
]
PRECISIONS: list[Parameters] = [{"precision": "fp32"}, {"precision": "bf16"}]  # of profile paper, which computes in TF32
RESIZE_FACTORS: list[Parameters] = [{"resize": "no_antialias"}, {"mask_rule": "any"}]
NOVELTY_FACTORS: list[Parameters] = [{"image_size": 64}, {"normalise": "other"}, {"sigma": 4.0}, {"epochs": 0.5}]  # half the epochs


def _novelty(name: str, teacher: str, epochs: int) -> Parameters:
    """Table 4 with the paper's teacher as the official code has it; others get the normalisation that they were trained with."""
    base = {"dataset": name, "teacher": teacher, "image_size": 32, "epochs": epochs, "save_maps": False}
    return base if teacher == "resnet18" else base | {"normalise": "imagenet"}


def _grid(base: Parameters, **axes: Iterable[Any]) -> list[Parameters]:
    """`base` with every combination of the axes' values."""
    runs = [base]
    for name, values in axes.items():
        runs = [run | {name: value} for run in runs for value in values]
    return runs


def _sweep(base: Parameters, factors: list[Parameters], **axes: Iterable[Any]) -> list[Parameters]:
    """Every combination of the axes for `base` itself and for each factor's change to it."""
    return [run for change in ({}, *factors) for run in _grid(apply(base, change), **axes)]


def apply(base: Parameters, change: Parameters) -> Parameters:
    """`base` with the change; a fractional `epochs` is a share of the base's, `normalise` may be the "other" one of the two."""
    if isinstance(change.get("epochs"), float):
        change = change | {"epochs": max(1, round(base["epochs"] * change["epochs"]))}
    if change.get("normalise") == "other":
        own = base.get("normalise", DATASET_DEFAULTS.get(base["dataset"], {}).get("normalise", "imagenet"))
        change = change | {"normalise": "imagenet" if own == "none" else "none"}
    return base | change


def _search(base: Parameters) -> list[Parameters]:
    """The search for what Fashion-MNIST lacks beside the paper (docs/numbers.md); the other novelty sets agree or were not run."""
    on_one = [{"lr": lr} for lr in (0.0005, 0.002, 0.01)] + [{"batch_size": size} for size in (8, 32)]
    on_all = [{"normalise": "other"}, {"lr": 0.001}, {"batch_size": 64}, {"loss": "pixel"}, {"epochs": 4.0, "evaluate_every": 2}]
    return _sweep(base, on_one, normal_class=(6,), seed=(0,)) + _sweep(base, on_all, normal_class=range(10), seed=(0,))


def _baselines(base: Parameters, **axes: Iterable[Any]) -> list[Parameters]:
    return [run for method in BASELINES for run in _grid(_method(base, method), **axes)]


def _method(base: Parameters, method: str) -> Parameters:
    untrained = {"epochs": 0, "scales": "1"} if method in ("padim", "spade") else {}
    return base | {"method": method} | untrained


def _cost(base: Parameters) -> list[Parameters]:
    """One run per method for Table 3; the cost of inference does not depend on how long was trained."""
    return [_method(base | {"epochs": 1}, m) | COST for m in ("reverse", "padim", "spade")]


# --- Plans ----------------------------------------------------------------------------------------------------------


def tables(profile: str, data: str = "") -> dict[str, list[Parameters]]:
    """Group of runs, named after the table that wants it (`Report.needs`) -> its runs.

    data: folder(s) with real data, separated by os.pathsep (":"), for the profiles cpu and paper
    raises: InputError for an unknown profile
    """
    if profile not in PROFILES:
        raise InputError(f"profile={profile!r}: must be one of {', '.join(PROFILES)}")
    if profile == "demo":
        return demo()
    found = find_data(data)
    needed = cpu(found) | further(found) if profile == "cpu" else paper()
    located = {table: [p | _places(p, found) for p in runs] for table, runs in needed.items()}
    return located | {"unified": _in_one_folder(located["unified"])}


def _in_one_folder(runs: list[Parameters]) -> list[Parameters]:
    """Those in the folder that holds the most categories: one model is trained on one folder. None if it holds one category only."""
    folders = Counter(folder for _, folder in {(p["category"], p["data_root"]): None for p in runs})
    most, count = max(folders.items(), key=lambda item: item[1], default=("", 0))
    return [p for p in runs if p["data_root"] == most and count > 1]


def _places(parameters: Parameters, found: dict[str, str]) -> Parameters:
    """Where a run's data lie, and its teacher's weights if a folder of DATA holds them."""
    weights = found.get(parameters["teacher"])
    data_root = found.get(_key(parameters["dataset"], parameters.get("category", "")), "")
    return {"data_root": data_root} | ({"weights": weights} if weights else {})


def runs(profile: str, data: str = "") -> dict[str, Parameters]:
    """Run id -> parameters of every run of a profile, each once (with all that any table wants of it)."""
    merged: dict[str, Parameters] = {}
    for needed in tables(profile, data).values():
        for parameters in needed:
            run_id = identity(parameters)
            merged[run_id] = merged.get(run_id, {}) | parameters
    return merged


def identity(parameters: Parameters) -> str:
    """The run id of a run's parameters, read as 02_run reads them."""
    return from_notebook(parameters)[0].run_id


def trainers(planned: dict[str, Parameters]) -> dict[str, str]:
    """Run id of each run of `train_on=all` that others come before -> the first planned one of its model, which trains it."""
    first: dict[str, str] = {}
    models = {run_id: from_notebook(p)[0].model_id for run_id, p in planned.items() if UNIFIED.items() <= p.items()}
    return {run_id: first[model] for run_id, model in models.items() if first.setdefault(model, run_id) != run_id}


def find_data(data: str) -> dict[str, str]:
    """What is there: data -> the `data_root` that holds it, teacher -> its file of weights: the first of DATA, then Debian's.

    data: folders separated by os.pathsep, see `contributions`
    returns: keys of data are a category of MVTec AD, a novelty data set, or DATASET/CATEGORY of another data set
    raises: InputError naming a folder that does not exist
    """
    return {name: root for there in reversed(contributions(data).values()) for name, root in there.items()}


def contributions(data: str) -> dict[str, dict[str, str]]:
    """What each folder holds: folder -> what `find_data` returns, and last Debian's dataset packages.

    data: folders separated by os.pathsep; each may hold categories, or data sets in folders of their own names, or be one of these
        itself. Teachers' weights (`resnet18-f37072fd.pth`, or any name that begins with the teacher's) may lie in it or in its `weights`.
    raises: InputError naming a folder that does not exist
    """
    folders = [p for p in data.split(os.pathsep) if p]
    for folder in folders:
        if not at_home(folder).is_dir():
            raise InputError(f"DATA={folder}: no such folder; give folders that are there, separated by {os.pathsep!r}")
    return {folder: _held_by(at_home(folder)) for folder in (*folders, DEBIAN)}


def _held_by(folder: Path) -> dict[str, str]:
    whole, found = folder.absolute(), {}
    for dataset, known in DATASETS.items():
        for category in _others(whole) if dataset == "folder" else known.counts or ("",):
            places = [whole.parent] * (whole.name == category)  # a category itself: this one, not its neighbours
            places += [folder / p for p in known.places] + [folder] * any(f"{whole}".endswith(f"/{p}") for p in known.places)
            there = [p for p in places if any((p / sign.format(category)).exists() for sign in known.signs)]
            if there:
                found[_key(dataset, category)] = str(there[0])
    files = [path for place in (folder / "weights", folder) for path in sorted(place.glob("*.pth"))]
    return found | {name: str(path) for name in PUBLISHED_WEIGHTS for path in files if re.fullmatch(rf"{name}[-_.].*", path.name)}


def _others(folder: Path) -> list[str]:
    """Categories in MVTec AD's layout, below a folder or itself, that no data set is known to have; their names go into run ids."""
    known = {c for d in DATASETS.values() if d.layout == "mvtec" for c in d.counts}
    there = [p.name for p in (*folder.glob("*"), folder) if (p / "train/good").is_dir()]
    return sorted(name for name in there if name not in known and re.fullmatch(r"\w[\w.]*", name, re.ASCII))


def _key(dataset: str, category: str) -> str:
    return dataset if dataset in NOVELTY_DATASETS else f"{dataset}/{category}" if dataset in FURTHER_DATASETS else category


DEBIAN = "/usr/share/datasets"


def missing(profile: str, data: str = "") -> list[str]:
    """What a profile needs and is not here: data sets and teacher weights, and folders that hold none; a line each with the remedy."""
    if not tables(profile, data) or profile == "demo":  # `tables` refuses an unknown profile
        return []
    empty = [folder for folder, held in contributions(data).items() if not held and folder != DEBIAN]
    lines = [f"DATA={folder}: {NOTHING}; give the folder that holds bottle/train/good, mnist, ..., or leave it out" for folder in empty]
    found = find_data(data)
    if profile == "cpu":
        return lines or ([] if found else ["DATA: none of the data sets in docs/datasets.md found; give DATA=FOLDER"])
    for category in [c for c in MVTEC_COUNTS if c not in found]:
        lines.append(f"MVTec AD category {category}: no folder {category}/train/good under DATA (request the archive at mvtec.com)")
    for name in [n for n in NOVELTY if n not in found]:
        lines.append(f"{name}: original files not found under DATA (torchvision.datasets fetches them, see docs/full_run.md)")
    hub = Path(os.environ.get("TORCH_HOME", "~/.cache/torch")).expanduser() / "hub" / "checkpoints"
    for name, sha256 in PUBLISHED_WEIGHTS.items():
        if not (path := hub / f"{name}-{sha256}.pth").is_file():
            fetch = f"python -c \"import torchvision.models as m; m.{name}(weights='IMAGENET1K_V1')\""
            lines.append(f"weights of {name}: {path} is not there; fetch it with {fetch}")
    return lines


NOTHING = "no data set is there"


def data_lines(profile: str, data: str) -> list[str]:
    """What each folder of DATA contributes, a line each; Debian's only if it holds something."""
    if profile == "demo":
        return [f"DATA={data}: not used, the demo brings its own"] * bool(data)
    there = contributions(data)
    lines = [f"DATA={folder}: {', '.join(held) or NOTHING}" for folder, held in there.items() if folder != DEBIAN]
    return lines + [f"Debian's packages in {DEBIAN}: {', '.join(there[DEBIAN])}"] * bool(there[DEBIAN])


def plan_text(profile: str, data: str = "") -> str:
    """The complete plan as text: runs per table (shared ones counted in each), data set, teacher and resolution."""
    lines = [f"Profile {profile}: {len(runs(profile, data))} different runs.", *data_lines(profile, data)]
    for table, needed in tables(profile, data).items():
        distinct = {identity(p): p for p in needed}.values()
        lines.append(f"{table}: {len(distinct)} runs")
        groups: dict[str, list[Parameters]] = {}
        for p in distinct:
            what = f"{p['dataset']} {p['image_size']} px, {p['teacher']}, {p.get('method', 'reverse')}, {p['epochs']} epochs"
            groups.setdefault(what, []).append(p)
        for what, chosen in groups.items():
            cells = dict.fromkeys(str(p.get("category", p.get("normal_class"))) for p in chosen)
            lines.append(f"  {len(chosen):4d} x {what}, seeds {sorted({p['seed'] for p in chosen})}: {' '.join(cells)}")
    return "\n".join(lines)


def keeps_maps(parameters: Parameters) -> bool:
    """Whether a run of the batch keeps its test images and maps: only those that a figure shows (08_figures)."""
    shown = parameters.get("method", "reverse") in ("reverse", "conventional") and parameters["seed"] == 0
    usual = not set(parameters) & {"train_on", "loss", "conv1x1", "beta2", "sigma", "resize", "mask_rule", "bottleneck"}
    own_precision = TF32.items() <= parameters.items() or "precision" not in parameters
    return bool(shown and usual and own_precision and "category" in parameters and parameters["image_size"] != 64)

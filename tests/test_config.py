"""What one run is: the paper's values, everything impossible refused by name, one id per configuration."""

import dataclasses
import json
import math
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rdlib.config import CHOICES, LONGEST_ID, Config, parse_scales
from rdlib.datasets import FURTHER_DATASETS, MVTEC_COUNTS, NOVELTY_DATASETS
from rdlib.errors import InputError
from rdlib.paths import PACKAGE

BOTTLE = {"dataset": "mvtec", "category": "bottle"}


def bottle(**params):
    return Config.create(**BOTTLE | params)


# --- Defaults -----------------------------------------------------------------------------------------------------

PAPER = {
    "teacher": "wide_resnet50_2", "bottleneck": "mff+oce", "scales": (1, 2, 3), "loss": "flat", "image_size": 256,
    "epochs": 200, "batch_size": 16, "lr": 0.005, "beta1": 0.5, "beta2": 0.999, "sigma": 4.0, "image_score": "max",
    "seed": 111, "normalise": "imagenet", "method": "reverse", "precision": "fp32", "conv1x1": False,
}  # fmt: skip


def test_defaults_for_mvtec_are_the_papers():
    assert dataclasses.asdict(bottle()).items() >= PAPER.items()


@pytest.mark.parametrize("dataset", FURTHER_DATASETS)
def test_defaults_for_further_image_folders_are_those_for_mvtec(dataset):
    further = Config.create(dataset=dataset, category="bottle")
    assert dataclasses.asdict(further) == dataclasses.asdict(bottle()) | {"dataset": dataset} and further.has_masks
    assert further.run_id == bottle().run_id.replace("-mvtec-", f"-{dataset}-")


@pytest.mark.parametrize("dataset, normalise", [("mnist", "none"), ("fashion_mnist", "none"), ("cifar10", "imagenet")])
def test_defaults_for_novelty_are_the_papers(dataset, normalise):
    cfg = Config.create(dataset=dataset, normal_class=7)
    assert (cfg.teacher, cfg.image_size, cfg.image_score, cfg.sigma, cfg.normalise) == ("resnet18", 32, "sum", 0.0, normalise)
    assert cfg.category == "7" and not cfg.has_masks


def test_mvtec_has_its_fifteen_categories_and_5354_images():
    assert len(MVTEC_COUNTS) == 15
    assert [sum(n[i] for n in MVTEC_COUNTS.values()) for i in (0, 1)] == [3629, 1725]


def test_none_means_the_data_sets_default():
    assert Config.create(dataset="mnist", normal_class=1, sigma=None, normalise=None) == Config.create(dataset="mnist", normal_class=1)


@pytest.mark.parametrize("method", ["padim", "spade"])
def test_methods_that_train_nothing_have_no_epochs(method):
    assert (bottle(method=method).epochs, bottle(method=method).scales) == (0, (1,))
    with pytest.raises(InputError, match=f"epochs=5.*{method}"):
        bottle(method=method, epochs=5)


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        bottle().seed = 1


def test_to_dict_survives_json():
    there_and_back = json.loads(json.dumps(bottle(scales="2,3").to_dict()))
    assert there_and_back == bottle(scales="2,3").to_dict() and Config.create(**there_and_back) == bottle(scales="2,3")


def test_weights_of_ones_own_are_another_run_and_the_published_ones_leave_no_trace():
    """Result files from before there was a choice compare as equal."""
    own = bottle(weights_id="0123456789ab")
    assert own.run_id == "main-mvtec-bottle-wrn50.256px.200ep.weights_0123456789ab-s111"
    assert own.to_dict() == bottle().to_dict() | {"weights_id": "0123456789ab"} and "weights_id" not in bottle().to_dict()
    assert own.torch_seed == bottle().torch_seed and Config.create(**own.to_dict()) == own


def test_one_model_for_all_is_another_run_with_one_seed_and_a_model_of_each_category_leaves_no_trace():
    own = bottle(train_on="all")
    assert own.run_id == "main-mvtec-bottle-wrn50.256px.200ep.train_on_all-s111" and own.model_id == own.run_id.replace("bottle-", "")
    assert own.to_dict() == bottle().to_dict() | {"train_on": "all"} and "train_on" not in bottle().to_dict()
    others = [bottle(train_on="all", category=c) for c in MVTEC_COUNTS]
    assert {cfg.torch_seed for cfg in others} == {own.torch_seed} and {cfg.model_id for cfg in others} == {own.model_id}
    seeds = {bottle(seed=s, category=c, train_on=t).torch_seed for s in range(2) for c in MVTEC_COUNTS for t in ("category", "all")}
    assert len(seeds) == 2 * (15 + 1) and Config.create(**own.to_dict()) == own


# --- Refusals beside those of test_bad_inputs ---------------------------------------------------------------------

REFUSED = [(name, "nonsense") for name in CHOICES]
REFUSED += [("image_size", 0), ("batch_size", 0), ("lr", 0.0), ("lr", math.inf), ("beta1", 1.0), ("beta2", math.nan), ("sigma", -1.0)]
REFUSED += [
    ("sigma", math.nan),
    ("seed", -1),
    ("seed", 1.0),
    ("epochs", 0),
    ("epochs", 2.5),
    ("epochs", True),
    ("lr", "0.005"),
    ("conv1x1", 1),
]
REFUSED += [(name, word) for name in ("category", "experiment", "label", "weights_id") for word in ("a/b", "a b", "a-b", ".a", "ä", "a\n")]
REFUSED += [("experiment", ""), ("dataset", None)]


@pytest.mark.parametrize("name, value", REFUSED)
def test_a_value_that_makes_no_sense_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=re.escape(f"{name}={value!r}: ")):
        bottle(**{name: value})


@pytest.mark.parametrize("name", ["timm/", "timm/../x", "timm/a/b", "timm/.x", "timm/x.", "timm/X-1", "resnet18/timm"])
def test_what_is_no_name_of_timm_is_refused(name):
    with pytest.raises(InputError, match=f"^teacher='{name}': must be one of .*, timm/NAME$"):
        bottle(teacher=name)


@pytest.mark.parametrize("value", [None, -1])
@pytest.mark.parametrize("dataset", NOVELTY_DATASETS)
def test_novelty_needs_a_normal_class(dataset, value):
    with pytest.raises(InputError, match=f"^normal_class={value}: .*0..9"):
        Config.create(dataset=dataset, normal_class=value)


def test_of_a_name_that_is_near_no_other_all_are_told():
    with pytest.raises(InputError, match="^unknown parameter 'learning_rate'; known: .*epochs"):
        bottle(learning_rate=1)


# --- Scales -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["1, 2, 3", "[1, 2, 3]", "(1,2,3)", "1+2+3", "1 2 3", [1, 2, 3]])
def test_spellings_of_scales(value):
    assert parse_scales(value) == (1, 2, 3)


@pytest.mark.parametrize("value", ["", "all", "1,,2", "1,1", "0,1", (), (1.0,), "-1", True, 2.5])
def test_scales_that_make_no_sense(value):
    with pytest.raises(InputError, match="scales="):
        parse_scales(value)


@given(st.sets(st.integers(1, 9), min_size=1))
def test_scales_survive_every_spelling(chosen):
    scales = tuple(sorted(chosen))
    assert parse_scales(scales) == parse_scales(",".join(map(str, scales))) == parse_scales("+".join(f"M{k}" for k in scales)) == scales
    assert len(scales) > 1 or parse_scales(scales[0]) == scales


# --- Run ids ------------------------------------------------------------------------------------------------------

WORDS = st.text("abcXYZ019_", min_size=1, max_size=8)
OTHERS = {name: st.sampled_from(values) for name, values in CHOICES.items()} | {
    "dataset": st.just("demo"),
    "category": WORDS,
    "method": st.just("conventional"),
    "conv1x1": st.booleans(),
    "scales": st.sets(st.integers(1, 9), min_size=1).map(lambda s: tuple(sorted(s))),
    "image_size": st.integers(1, 40).map(lambda n: 32 * n),
    "epochs": st.integers(1, 1000),
    "batch_size": st.integers(1, 512),
    "lr": st.floats(1e-6, 10),
    "beta1": st.floats(0, 0.999),
    "beta2": st.floats(0, 0.999),
    "sigma": st.floats(0, 50),
    "seed": st.integers(0, 2**31),
    "experiment": WORDS,
    "label": WORDS.map(lambda w: f"L{w}"),
    "weights_id": st.text("0123456789abcdef", min_size=12, max_size=12),
}
SCHEMA = json.loads((PACKAGE / "run/result.schema.json").read_text())["properties"]["run_id"]["pattern"]


def test_every_field_of_a_run_is_tried_below():
    assert set(OTHERS) | {"normal_class"} == {f.name for f in dataclasses.fields(Config)}


@pytest.mark.parametrize("name", OTHERS)
@given(data=st.data())
def test_another_value_is_another_run(name, data):
    value = data.draw(OTHERS[name])
    one, other = bottle(), bottle(**{name: value})
    assert (one.run_id == other.run_id) == (one == other) == (getattr(one, name) == getattr(other, name))


FIXED = {"dataset": st.just("mvtec"), "category": WORDS}


@given(params=st.fixed_dictionaries(FIXED, optional={k: v for k, v in OTHERS.items() if k not in FIXED}))
def test_run_ids_are_stable_file_names_that_fit_the_schema(params):
    assume(params.get("batch_size") != 1 or params.get("image_size") != 32)  # refused, see below
    try:
        cfg = Config.create(**params)
    except InputError as error:  # many factors at once
        assert "run id has" in str(error)
        return
    assert cfg.run_id == Config.create(**params).run_id and len(cfg.run_id) <= LONGEST_ID
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", cfg.run_id) and not cfg.run_id.startswith(".")
    assert re.search(SCHEMA, cfg.run_id)
    experiment, dataset, category, variant, seed = cfg.run_id.split("-")
    assert (experiment, dataset, category, variant, seed) == (cfg.experiment, cfg.dataset, cfg.category, cfg.variant, f"s{cfg.seed}")


@pytest.mark.parametrize("dataset", NOVELTY_DATASETS)
def test_classes_are_different_runs(dataset):
    ids = {Config.create(dataset=dataset, normal_class=n).run_id for n in range(10)}
    assert len(ids) == 10 and all(re.search(SCHEMA, i) for i in ids)


def test_run_ids_are_these():
    """Committed results and users' folders carry them: they may not change by accident."""
    assert bottle().run_id == "main-mvtec-bottle-wrn50.256px.200ep-s111"
    params = {"loss": "pixel", "scales": "2,3", "lr": 0.001, "bottleneck": "oce", "label": "try2", "seed": 0, "experiment": "t5"}
    assert bottle(**params).run_id == "t5-mvtec-bottle-wrn50.256px.200ep.bottleneck_oce.scales_23.loss_pixel.lr_0.001.try2-s0"
    assert Config.create(dataset="digits", normal_class=3).run_id == "main-digits-3-lite0.32px.200ep-s111"
    assert Config.create(dataset="demo", category="coin", seed=0, epochs=15).run_id == "main-demo-coin-lite0.128px.15ep-s0"
    assert Config.create(dataset="cifar10", normal_class=9, sigma=4).run_id == "main-cifar10-9-resnet18.32px.200ep.sigma_4.0-s111"
    assert Config.create(dataset="btad", category="01").run_id == "main-btad-01-wrn50.256px.200ep-s111"


@pytest.mark.parametrize("name, whole", [("lr", 1), ("sigma", 2), ("beta1", 0)])
def test_a_whole_number_is_the_same_run_as_its_float(name, whole):
    """papermill's -p lr 1 gives an int."""
    assert bottle(**{name: whole}).run_id == bottle(**{name: float(whole)}).run_id


def test_seeds_differ_with_seed_and_category_and_not_with_the_variant():
    assert len({bottle(seed=s, category=c).torch_seed for s in range(20) for c in MVTEC_COUNTS}) == 300
    assert bottle(loss="pixel").torch_seed == bottle().torch_seed
    assert all(0 <= bottle(seed=s).torch_seed < 2**63 for s in range(20))


def test_an_input_error_shows_as_one_sentence():
    assert InputError("seed=-1: must be 0 or greater")._render_traceback_() == ["InputError: seed=-1: must be 0 or greater"]


@pytest.mark.parametrize("method, size, smallest", [("reverse", 32, 2), ("reverse", 64, 1), ("conventional", 32, 1)])
def test_batches_of_one_need_more_than_one_position(method, size, smallest):
    assert bottle(method=method, image_size=size).smallest_batch == smallest

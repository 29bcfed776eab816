"""What one run is: the paper's values, everything impossible refused by name, one id per configuration."""

import dataclasses
import json
import math
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import rdlib
from rdlib.config import (
    CHOICES,
    DATASET_DEFAULTS,
    LONGEST_ID,
    MVTEC_COUNTS,
    NOVELTY_DATASETS,
    Config,
    parse_scales,
)
from rdlib.errors import InputError
from rdlib.paths import PACKAGE, output_folder
from rdlib.run.parameters import Where, from_notebook

BOTTLE = {"dataset": "mvtec", "category": "bottle"}


def bottle(**params):
    return Config.create(**BOTTLE | params)


# --- Defaults -----------------------------------------------------------------------------------------------------

PAPER = {
    "teacher": "wide_resnet50_2", "bottleneck": "mff+oce", "scales": (1, 2, 3), "loss": "flat", "image_size": 256,
    "epochs": 200, "batch_size": 16, "lr": 0.005, "beta1": 0.5, "beta2": 0.999, "sigma": 4.0, "image_score": "max",
    "seed": 111, "normalise": "imagenet", "method": "reverse", "precision": "fp32", "conv1x1": False,
}  # fmt: skip


@pytest.mark.parametrize("name, value", PAPER.items())
def test_defaults_for_mvtec_are_the_papers(name, value):
    assert getattr(bottle(), name) == value


@pytest.mark.parametrize("dataset, normalise", [("mnist", "none"), ("fashion_mnist", "none"), ("cifar10", "imagenet")])
def test_defaults_for_novelty_are_the_papers(dataset, normalise):
    cfg = Config.create(dataset=dataset, normal_class=7)
    assert (cfg.teacher, cfg.image_size, cfg.image_score, cfg.sigma, cfg.normalise) == ("resnet18", 32, "sum", 0.0, normalise)
    assert cfg.category == "7" and not cfg.has_masks


def test_mvtec_has_its_fifteen_categories_and_5354_images():
    assert len(MVTEC_COUNTS) == 15
    assert [sum(n[i] for n in MVTEC_COUNTS.values()) for i in (0, 1)] == [3629, 1725]


@pytest.mark.parametrize("value", [None, "auto"])
def test_none_and_auto_mean_the_data_sets_default(value):
    assert Config.create(dataset="mnist", normal_class=1, sigma=value, normalise=value) == Config.create(dataset="mnist", normal_class=1)


@pytest.mark.parametrize("method", ["padim", "spade"])
def test_methods_that_train_nothing_have_no_epochs(method):
    assert (bottle(method=method).epochs, bottle(method=method).scales) == (0, (1,))
    with pytest.raises(InputError, match=f"epochs=5.*{method}"):
        bottle(method=method, epochs=5)
    with pytest.raises(InputError, match="epochs=0"):
        bottle(epochs=0)


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        bottle().seed = 1


def test_to_dict_survives_json():
    there_and_back = json.loads(json.dumps(bottle(scales="2,3").to_dict()))
    assert there_and_back == bottle(scales="2,3").to_dict() and Config.create(**there_and_back) == bottle(scales="2,3")


# --- Refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHOICES)
def test_a_word_that_is_no_choice_is_refused(name):
    with pytest.raises(InputError, match=f"^{name}='nonsense': must be one of {re.escape(CHOICES[name][0])}"):
        bottle(**{name: "nonsense"})


LIMITS = [("image_size", 0), ("image_size", -32), ("image_size", 100), ("epochs", -1), ("batch_size", 0), ("lr", 0.0), ("lr", -0.1)]
LIMITS += [("lr", math.nan), ("lr", math.inf), ("beta1", 1.0), ("beta2", -0.1), ("beta1", math.nan), ("sigma", -1.0), ("sigma", math.nan)]
LIMITS += [("sigma", math.inf), ("seed", -1)]


@pytest.mark.parametrize("name, value", LIMITS)
def test_a_number_out_of_range_is_refused(name, value):
    with pytest.raises(InputError, match=f"^{name}={value}: "):
        bottle(**{name: value})


TYPES = [
    ("epochs", "20"),
    ("epochs", 2.5),
    ("epochs", True),
    ("lr", "0.005"),
    ("conv1x1", "False"),
    ("conv1x1", 1),
    ("seed", 1.0),
    ("label", 3),
]


@pytest.mark.parametrize("name, value", TYPES)
def test_a_wrong_type_is_refused(name, value):
    with pytest.raises(InputError, match=f"^{name}={value!r}: expected"):
        bottle(**{name: value})


@pytest.mark.parametrize("name", ["category", "experiment", "label"])
@pytest.mark.parametrize("value", ["../up", "a/b", "a b", "a-b", ".hidden", "ä", "a\n"])
def test_words_that_become_file_names_are_checked(name, value):
    with pytest.raises(InputError, match=f"^{name}="):
        bottle(**{name: value})


def test_an_empty_experiment_is_refused():
    """The run id would not fit the schema, which is found out only after the training."""
    with pytest.raises(InputError, match="^experiment=''"):
        bottle(experiment="")


@pytest.mark.parametrize("value", [None, -1, 10])
@pytest.mark.parametrize("dataset", NOVELTY_DATASETS)
def test_novelty_needs_a_normal_class(dataset, value):
    with pytest.raises(InputError, match=f"^normal_class={value}: .*0..9"):
        Config.create(dataset=dataset, normal_class=value)


def test_mvtec_needs_a_category():
    with pytest.raises(InputError, match="^category=''"):
        Config.create(dataset="mvtec")


def test_no_data_set_is_refused():
    with pytest.raises(InputError, match="^dataset=None: must be one of"):
        Config.create(category="bottle")


@pytest.mark.parametrize("wrong, right", [("epoch", "epochs"), ("learning_rate", None), ("batchsize", "batch_size"), ("teachr", "teacher")])
def test_a_misspelt_name_is_refused_with_the_nearest(wrong, right):
    hint = rf" \(did you mean '{right}'\?\)" if right else ""
    with pytest.raises(InputError, match=rf"^unknown parameter '{wrong}'{hint}; known: .*epochs"):
        bottle(**{wrong: 1})


# --- Scales -------------------------------------------------------------------------------------------------------

SPELLINGS = ["1,2,3", "1, 2, 3", "[1, 2, 3]", "(1,2,3)", "M1+M2+M3", "1+2+3", "1 2 3", [1, 2, 3], (1, 2, 3)]


@pytest.mark.parametrize("value", SPELLINGS)
def test_spellings_of_scales(value):
    assert parse_scales(value) == (1, 2, 3)


@pytest.mark.parametrize(
    "value", ["", "all", "1,,2", "3,2", "2,1", "1,1", "0,1", (), (0,), (2, 1), (1, 1), (1.0,), "1;2", "-1", (1.5,), True, 2.5]
)
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
OTHERS = {
    "dataset": st.just("demo"),
    "category": WORDS,
    "method": st.just("conventional"),
    "teacher": st.sampled_from(CHOICES["teacher"]),
    "bottleneck": st.sampled_from(CHOICES["bottleneck"]),
    "conv1x1": st.booleans(),
    "scales": st.sets(st.integers(1, 9), min_size=1).map(lambda s: tuple(sorted(s))),
    "loss": st.sampled_from(CHOICES["loss"]),
    "image_size": st.integers(1, 40).map(lambda n: 32 * n),
    "resize": st.sampled_from(CHOICES["resize"]),
    "mask_rule": st.sampled_from(CHOICES["mask_rule"]),
    "normalise": st.sampled_from(CHOICES["normalise"]),
    "epochs": st.integers(1, 1000),
    "batch_size": st.integers(1, 512),
    "lr": st.floats(1e-6, 10),
    "beta1": st.floats(0, 0.999),
    "beta2": st.floats(0, 0.999),
    "sigma": st.floats(0, 50),
    "image_score": st.sampled_from(CHOICES["image_score"]),
    "seed": st.integers(0, 2**31),
    "precision": st.sampled_from(CHOICES["precision"]),
    "experiment": WORDS,
    "label": WORDS.map(lambda w: f"L{w}"),
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


@given(
    params=st.fixed_dictionaries(
        BOTTLE | {"dataset": st.just("mvtec"), "category": WORDS},
        optional={k: v for k, v in OTHERS.items() if k not in ("dataset", "category")},
    )
)
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


@pytest.mark.parametrize("name, whole", [("lr", 1), ("sigma", 2), ("beta1", 0)])
def test_a_whole_number_is_the_same_run_as_its_float(name, whole):
    """papermill's -p lr 1 gives an int."""
    assert bottle(**{name: whole}).run_id == bottle(**{name: float(whole)}).run_id


def test_a_normal_class_that_plays_no_part_is_refused():
    """Ignored, it would make two configurations with one run id."""
    with pytest.raises(InputError, match="^normal_class=3"):
        bottle(normal_class=3)


def test_seeds_differ_with_seed_and_category_and_not_with_the_variant():
    assert len({bottle(seed=s, category=c).torch_seed for s in range(20) for c in MVTEC_COUNTS}) == 300
    assert bottle(loss="pixel").torch_seed == bottle().torch_seed
    assert all(0 <= bottle(seed=s).torch_seed < 2**63 for s in range(20))


# --- From a notebook ----------------------------------------------------------------------------------------------


def test_from_notebook_parts_the_run_from_its_place():
    cfg, where = from_notebook(BOTTLE | {"data_root": "somewhere", "epochs": 3, "threads": 1, "normal_class": None, "image_score": "auto"})
    assert cfg == bottle(epochs=3) and where == Where(data_root="somewhere", threads=1)


def test_from_notebook_ignores_what_is_no_parameter():
    def helper():
        pass

    noise = {"re": re, "rdlib": rdlib, "helper": helper, "Config": Config, "_private": 1, "__name__": "__main__", "In": [""], "Out": {}}
    noise |= {"get_ipython": print, "exit": 1, "quit": 1, "open": open, "_i1": "x"}
    assert from_notebook(BOTTLE | noise) == from_notebook(BOTTLE)


@pytest.mark.parametrize("wrong, right", [("epoch", "epochs"), ("outdir", "out_dir"), ("dataroot", "data_root")])
def test_from_notebook_refuses_a_misspelt_name(wrong, right):
    with pytest.raises(InputError, match=rf"unknown parameter '{wrong}' \(did you mean '{right}'\?\)"):
        from_notebook(BOTTLE | {wrong: "x"})


@pytest.mark.parametrize("name, value", [("threads", "1"), ("threads", True), ("out_dir", 3), ("overwrite", "True"), ("overwrite", 1)])
def test_from_notebook_refuses_a_wrong_type(name, value):
    with pytest.raises(InputError, match=f"^{name}={value!r}: expected"):
        from_notebook(BOTTLE | {name: value})


@pytest.mark.parametrize("name", ["threads", "evaluate_every"])
def test_from_notebook_refuses_a_negative_number(name):
    with pytest.raises(InputError, match=f"^{name}=-1"):
        from_notebook(BOTTLE | {name: -1})


def test_an_input_error_shows_as_one_sentence():
    assert InputError("seed=-1: must be 0 or greater")._render_traceback_() == ["InputError: seed=-1: must be 0 or greater"]


def test_defaults_exist_for_every_data_set():
    assert set(DATASET_DEFAULTS) == set(CHOICES["dataset"])


def test_a_run_id_that_is_too_long_for_a_file_name_is_refused():
    longest = LONGEST_ID - len(bottle(label="").run_id) - 1
    assert len(bottle(label="x" * longest).run_id) == LONGEST_ID
    with pytest.raises(InputError, match=r"^label='xxx.*run id has 241 characters, at most 240"):
        bottle(label="x" * (longest + 1))


@pytest.mark.parametrize("method, size, refused", [("reverse", 32, True), ("reverse", 64, False), ("conventional", 32, False)])
def test_batches_of_one_need_more_than_one_position(method, size, refused):
    if refused:
        with pytest.raises(InputError, match="^batch_size=1: .*take batch_size=2 or image_size=64"):
            bottle(method=method, image_size=size, batch_size=1)
    else:
        assert bottle(method=method, image_size=size, batch_size=1).smallest_batch == 1


# --- Where results go ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out_dir", "cache_dir"])
@pytest.mark.parametrize("path", ["results/x", "results/../results/x", "./results/demo", "results/reference2"])
def test_a_relative_folder_below_results_is_taken(name, path):
    assert getattr(from_notebook(BOTTLE | {name: path})[1], name) == path


def test_no_cache_is_no_folder():
    assert from_notebook(BOTTLE | {"cache_dir": ""})[1].cache_dir == ""


def test_an_absolute_folder_is_the_users_choice(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert output_folder("out_dir", tmp_path / "x") == output_folder("out_dir", "~/x") == tmp_path / "x"


LEAVES = ["..", "../x", "../../x", "results/../../x", "/etc/../x", "~/../x", "a\0b", "a\nb"]
ELSEWHERE = [".", "x", "results", "results/x/..", "rdlib", "tests", ".git/hooks", "results/../rdlib"]
REFERENCE = ["results/reference", "results/reference/demo", "results/x/../reference/demo"]


@pytest.mark.parametrize("name", ["out_dir", "cache_dir"])
@pytest.mark.parametrize("path", LEAVES + ELSEWHERE + REFERENCE)
def test_a_folder_that_leaves_results_by_a_side_door_is_refused(name, path):
    with pytest.raises(InputError, match=f"^{name}="):
        from_notebook(BOTTLE | {name: path})


def test_results_need_a_folder():
    with pytest.raises(InputError, match="^out_dir='': must be the name of a folder"):
        from_notebook(BOTTLE | {"out_dir": ""})


def test_a_results_folder_that_is_a_link_is_the_users_choice(tmp_path, monkeypatch):
    for name in ("project/notebooks", "disk"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "project/pyproject.toml").touch()
    (tmp_path / "project/results").symlink_to(tmp_path / "disk")
    monkeypatch.chdir(tmp_path / "project")
    assert output_folder("out_dir", "results/x").resolve() == tmp_path / "disk/x"


def test_a_file_is_no_folder_for_results(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        output_folder("out_dir", tmp_path / "file")

"""The parameters cell of a notebook: every name checked, text kept as it was typed, the run told apart from its place."""

import hashlib
import re

import papermill.cli
import pytest

import rdlib
from rdlib.config import PUBLISHED_WEIGHTS, Config
from rdlib.errors import InputError
from rdlib.paths import output_folder
from rdlib.run import parameters, plan
from rdlib.run.parameters import Where, from_notebook, text_parameter

BOTTLE = {"dataset": "mvtec", "category": "bottle"}


def bottle(**params):
    return Config.create(**BOTTLE | params)


def test_from_notebook_parts_the_run_from_its_place():
    nothing = dict.fromkeys(("normal_class", "image_score", "device", "weights", "label"))
    cfg, where = from_notebook(BOTTLE | {"data_root": "somewhere", "epochs": 3, "threads": 1} | nothing)
    assert cfg == bottle(epochs=3) and where == Where(data_root="somewhere", threads=1)


def test_from_notebook_ignores_what_is_no_parameter():
    def helper():
        pass

    noise = {"re": re, "rdlib": rdlib, "helper": helper, "Config": Config, "_private": 1, "__name__": "__main__", "In": [""], "Out": {}}
    noise |= {"get_ipython": print, "exit": 1, "quit": 1, "open": open, "_i1": "x"}
    assert from_notebook(BOTTLE | noise) == from_notebook(BOTTLE)


@pytest.mark.parametrize("name, value", [("threads", "1"), ("threads", True), ("overwrite", "True"), ("overwrite", 1)])
def test_from_notebook_refuses_a_wrong_type(name, value):
    with pytest.raises(InputError, match=f"^{name}={value!r}: expected"):
        from_notebook(BOTTLE | {name: value})


# --- Text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, taken_for", [("2024_01", 202401), ("1e3", 1000.0), ("True", True), ("bottle", "bottle")])
def test_what_papermill_takes_text_for_is_refused_or_read_back(text, taken_for):
    assert papermill.cli._resolve_type(text) == taken_for
    if isinstance(taken_for, bool | str):
        assert text_parameter("label", taken_for) == text
    else:
        with pytest.raises(InputError, match=f"^label={taken_for!r}: .*papermill -r label TEXT instead of -p"):
            text_parameter("label", taken_for)


# --- Teacher files ------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"weights")
    return path


OWN = hashlib.sha256(b"weights").hexdigest()[:12]


def test_a_teacher_file_of_ones_own_is_part_of_the_run(weights):
    given = BOTTLE | {"teacher": "resnet18", "weights": str(weights)}
    cfg, where = from_notebook(given)
    assert cfg == bottle(teacher="resnet18", weights_id=OWN) and f"weights_{OWN}" in cfg.run_id
    assert (where.weights, where.same_function) == (str(weights), False)
    assert from_notebook(given | {"same_function": True})[0] == cfg, "what is claimed of a file is no part of the run"
    assert plan.identity(given) == cfg.run_id
    weights.write_bytes(b"other weights")
    assert from_notebook(given)[0].weights_id == hashlib.sha256(b"other weights").hexdigest()[:12]


def test_the_published_file_is_the_published_run(weights, monkeypatch):
    monkeypatch.setitem(PUBLISHED_WEIGHTS, "resnet18", OWN[:8])
    assert from_notebook(BOTTLE | {"teacher": "resnet18", "weights": str(weights)})[0] == bottle(teacher="resnet18")


def test_a_teacher_of_timm_makes_a_file_name_and_takes_a_file(weights):
    given = BOTTLE | {"teacher": "timm/resnet50.a1_in1k"}
    assert from_notebook(given)[0].run_id.startswith("main-mvtec-bottle-timm_resnet50.a1_in1k.256px.200ep")
    assert from_notebook(given | {"weights": str(weights)})[0].weights_id == OWN


def test_the_identity_of_weights_is_not_a_parameter():
    with pytest.raises(InputError, match="unknown parameter 'weights_id'"):
        from_notebook(BOTTLE | {"weights_id": "0123456789ab"})


def test_a_file_is_read_once_for_a_whole_plan(weights, monkeypatch):
    parameters.weights_id("resnet18", str(weights))
    monkeypatch.setattr(parameters.hashlib, "file_digest", None)
    assert parameters.weights_id("resnet18", str(weights)) == OWN


# --- Where results go ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out_dir", "cache_dir"])
@pytest.mark.parametrize("path", ["results/x", "results/../results/x", "./results/demo", "results/reference2"])
def test_a_relative_folder_below_results_is_taken(name, path):
    assert getattr(from_notebook(BOTTLE | {name: path})[1], name) == path
    assert from_notebook(BOTTLE | {"cache_dir": ""})[1].cache_dir == "", "no cache"


def test_an_absolute_folder_is_the_users_choice(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert output_folder("out_dir", tmp_path / "x") == output_folder("out_dir", "~/x") == tmp_path / "x"


@pytest.mark.parametrize("name", ["out_dir", "cache_dir"])
@pytest.mark.parametrize("path", ["..", "~/../x", "a\0b", "a\nb", ".", "results", "results/x/..", "results/x/../reference/demo", __file__])
def test_a_folder_that_leaves_results_by_a_side_door_is_refused(name, path):
    with pytest.raises(InputError, match=f"^{name}="):
        from_notebook(BOTTLE | {name: path})


def test_a_results_folder_that_is_a_link_is_the_users_choice(tmp_path, monkeypatch):
    for name in ("project/notebooks", "disk"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "project/pyproject.toml").touch()
    (tmp_path / "project/results").symlink_to(tmp_path / "disk")
    monkeypatch.chdir(tmp_path / "project")
    assert output_folder("out_dir", "results/x").resolve() == tmp_path / "disk/x"

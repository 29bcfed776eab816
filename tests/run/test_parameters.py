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


@pytest.mark.parametrize("wrong, right", [("epoch", "epochs"), ("outdir", "out_dir"), ("dataroot", "data_root")])
def test_from_notebook_refuses_a_misspelt_name(wrong, right):
    with pytest.raises(InputError, match=rf"unknown parameter '{wrong}' \(did you mean '{right}'\?\)"):
        from_notebook(BOTTLE | {wrong: "x"})


@pytest.mark.parametrize("name, value", [("threads", "1"), ("threads", True), ("overwrite", "True"), ("overwrite", 1)])
def test_from_notebook_refuses_a_wrong_type(name, value):
    with pytest.raises(InputError, match=f"^{name}={value!r}: expected"):
        from_notebook(BOTTLE | {name: value})


@pytest.mark.parametrize("name", ["threads", "evaluate_every"])
def test_from_notebook_refuses_a_negative_number(name):
    with pytest.raises(InputError, match=f"^{name}=-1"):
        from_notebook(BOTTLE | {name: -1})


# --- Text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("typed, value", [("2024_01", 202401), ("007", 7), ("1e3", 1000.0), ("nan", float("nan")), ("7", 7)])
def test_text_that_papermill_took_for_a_number_is_refused_with_the_flag_that_keeps_it(typed, value):
    for name in ("category", "data_root", "label", "out_dir"):
        with pytest.raises(InputError, match=f"^{name}={value!r}: .*papermill -r {name} TEXT instead of -p"):
            from_notebook(BOTTLE | {name: value})


def test_papermill_does_what_is_said_of_it():
    assert from_papermill("2024_01") == 202401 and from_papermill("True") is True and from_papermill("bottle") == "bottle"


def from_papermill(text):
    return papermill.cli._resolve_type(text)


@pytest.mark.parametrize("text", ["True", "False", "bottle", "a.b"])
def test_text_with_one_spelling_is_read_back(text):
    assert text_parameter("label", from_papermill(text)) == text


def test_what_is_no_text_at_all_is_refused():
    with pytest.raises(InputError, match=r"^category=\['a'\]: expected str, got list"):
        from_notebook(BOTTLE | {"category": ["a"]})


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


def test_no_file_is_the_published_run():
    assert from_notebook(BOTTLE | {"teacher": "resnet18", "weights": ""})[0] == bottle(teacher="resnet18")


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

"""Run files: complete, valid, whole or absent, and read back without torch."""

import json
import os
import subprocess
import sys

import fastjsonschema
import made_up_runs
import numpy as np
import pytest
from helpers import REPO, config, failures_of, image_set, made_up_scores
from torch import nn

from rdlib import evaluate, metrics
from rdlib.data import Data
from rdlib.errors import InputError
from rdlib.run import record
from rdlib.run.files import NUMERICS
from rdlib.run.parameters import Where
from rdlib.run.session import Run

CFG = config(image_score="sum")
SAME = {"teacher_sha256": "abc", "data_manifest": "def"}
HARDWARE = {"device": "cpu", "gpu": "", "threads": 1}


def begun(out_dir, cfg=CFG, **where):
    """A run of made-up data, as far as 02_run has it before training."""
    run = Run(cfg, Where(**{"out_dir": str(out_dir), "cache_dir": "", "save_maps": False, "device": "cpu"} | where))
    run.begin(Data(image_set(4), image_set(6, 16, masks=True), "def", {}), nn.Linear(4, 2), "abc")
    return run


def write(out_dir, cfg=CFG, scores=None, losses=(0.5, 0.25), **where):
    """A run file of made-up scores."""
    run, scores = begun(out_dir, cfg, **where), scores or made_up_scores()
    run.timing |= {"load_s": 0.1234567, "fit_s": 1.0, "score_s": 0.2}
    run.history.append({"epoch": 1, "metrics": {"image_auroc": 0.5, "image_ap": 0.5}})
    run.write(scores, list(losses), evaluate.evaluate(scores, cfg))
    return run.done


def files(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


# --- Writing and reading back -------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(tmp_path):
    written = write(tmp_path)
    path = tmp_path / "runs" / CFG.run_id / "result.json"
    assert (
        record.read_run(path) == written
        and written.items() >= {k: v for k, v in json.loads(path.read_text()).items() if k != "images"}.items()
    )
    assert record.read_runs(tmp_path) == [written]
    assert (written["run_id"], written["status"], written["format"]) == (CFG.run_id, "finished", 1)
    assert written["config"] == CFG.to_dict() and written["losses"] == [0.5, 0.25] and written["undefined"] == {}
    scores = made_up_scores()
    found = evaluate.evaluate(scores, CFG)
    assert written["metrics"] == found and written.items() >= evaluate.details(scores, CFG, found).items()
    assert written["timing"]["load_s"] == 0.123 and written["timing"]["metrics_s"] >= 0 and written["peak_memory_mb"] > 10


def test_the_images_stand_beside_the_result(tmp_path):
    made = made_up_runs.run(images=[("00012", 0, 0.1 + 0.2, 0), ("NA", 1, 1e-17, 3)])
    record.write(tmp_path, made)
    path = tmp_path / record.IMAGES
    assert record.read_run(tmp_path / "result.json") == made, "every bit of a score, and names that look like numbers"
    packed = path.read_bytes()
    record.write(tmp_path, made)
    assert path.read_bytes() == packed, "the same rows are the same bytes"
    for spoil in (lambda: path.write_bytes(packed[:-1]), path.unlink):
        spoil()
        with pytest.raises(InputError, match=r"images.csv.gz: not there, or another than result.json beside it was written with"):
            record.read_run(tmp_path / "result.json")


@pytest.mark.parametrize("label, counts", [(0, "6 normal and 0 anomalous"), (1, "0 normal and 6 anomalous")])
def test_undefined_is_null_with_the_reason(tmp_path, label, counts):
    scores = made_up_scores(masks=False)
    scores.labels[:] = label
    written = write(tmp_path, scores=scores)
    images = {"image_auroc", "image_ap", "image_f1_max", "image_tpr_fpr01"}
    assert written["metrics"] == dict.fromkeys(images) and set(written["thresholds"].values()) == {None}
    assert set(written["undefined"]) == images and all(counts in reason for reason in written["undefined"].values())
    assert "NaN" not in (tmp_path / "runs" / CFG.run_id / "result.json").read_text()


def test_the_reason_is_the_right_one_where_both_kinds_are_there(tmp_path):
    """The official PRO of constant maps is undefined, however many images there are."""
    scores = made_up_scores()
    scores.scale_maps[:] = 0.5
    written = write(tmp_path, scores=scores)
    assert written["metrics"]["image_auroc"] == 0.5 and written["metrics"]["au_pro_per_image"] is None
    assert list(written["undefined"]) == ["au_pro_per_image"] and "both kinds" not in written["undefined"]["au_pro_per_image"]


def test_vanished_defects_are_counted_and_not_called_missing_images(tmp_path):
    scores = made_up_scores()
    scores.masks[:] = False
    told = write(tmp_path, scores=scores)["undefined"]
    assert set(told) == {*metrics.PIXEL_METRICS, "au_pro_per_image"}
    assert all(f"{scores.masks.size} normal and 0 anomalous pixels" in t and "all 3 anomalous images vanished" in t for t in told.values())


def test_images_that_the_per_image_pro_leaves_out_are_counted(tmp_path):
    """The map of one anomalous image is constant: the mean is over the other two, and the file says so."""
    scores = made_up_scores()
    expected = [v for i, v in enumerate(metrics.image_pros(masks=scores.masks, maps=scores.scale_maps.sum(0))) if i]
    at = np.flatnonzero(scores.labels)[0]
    scores.scale_maps[:, at] = 0.5
    written = write(tmp_path, scores=scores)
    assert written["metrics"]["au_pro_per_image"] == pytest.approx(np.mean(expected))
    assert list(written["undefined"]) == ["au_pro_per_image"] and written["undefined"]["au_pro_per_image"].startswith("1 of 3 images with")


def test_a_result_of_other_numerics_threads_or_device_says_so(tmp_path):
    written = write(tmp_path)
    assert record.made_otherwise(written, HARDWARE) == ""
    assert "threads 1 (now 2)" in record.made_otherwise(written, HARDWARE | {"threads": 2})
    assert "device cpu (now cuda)" in record.made_otherwise(written, HARDWARE | {"device": "cuda:1"})
    old = written["provenance"]
    del old["numerics"]
    assert f"numerics 2 (now {NUMERICS})" in record.made_otherwise(written, HARDWARE), "before it was written down"
    del old["shared"]
    assert f"numerics 1 (now {NUMERICS})" in record.made_otherwise(written, HARDWARE), "of 0.1.0"


def test_runs_are_read_in_the_order_of_their_ids(tmp_path):
    for seed in (10, 9, 1):
        write(tmp_path, config(seed=seed))
    ids = [r["run_id"] for r in record.read_runs(tmp_path)]
    assert ids == sorted(ids) and len(ids) == 3
    assert record.read_runs(tmp_path / "nowhere") == []


# --- Whole or not at all ------------------------------------------------------------------------------------------


def test_nothing_temporary_is_left(tmp_path):
    write(tmp_path)
    assert files(tmp_path / "runs") == ["images.csv.gz", "result.json"]
    write(tmp_path, save_maps=True, overwrite=True)
    assert files(tmp_path / "runs") == ["images.csv.gz", "maps.npz", "result.json"]


def full(_):
    raise OSError(28, "No space left on device")


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="cannot be written .No space left on device.; make room"):
        write(tmp_path)
    assert files(tmp_path / "runs") == []


def test_a_failed_second_write_keeps_the_first(tmp_path, monkeypatch):
    first = write(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="cannot be written .No space left on device.; make room"):
        write(tmp_path, losses=[9.0], overwrite=True)
    assert record.read_runs(tmp_path) == [first]


def test_a_result_that_does_not_fit_the_schema_is_not_written(tmp_path):
    with pytest.raises(fastjsonschema.JsonSchemaValueException, match="provenance"):
        record.write(tmp_path, made_up_runs.run() | {"provenance": {}})
    assert files(tmp_path) == []


def test_an_infinite_loss_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="[Oo]ut of range float|not JSON compliant|inf"):
        write(tmp_path, losses=[float("inf")])
    assert "result.json" not in files(tmp_path)


# --- The schema ---------------------------------------------------------------------------------------------------


def lacks(result, part, name):
    return result | {part: {key: value for key, value in result[part].items() if key != name}}


WRONG = {
    "metric below 0": lambda r: r | {"metrics": r["metrics"] | {"pixel_auroc": -0.1}},
    "metric as text": lambda r: r | {"metrics": r["metrics"] | {"au_pro": "0.9"}},
    "id that is a path": lambda r: r | {"run_id": "../../etc"},
    "id that is too short": lambda r: r | {"run_id": "main-mvtec-bottle"},
    "unknown status": lambda r: r | {"status": "running"},
    "later format": lambda r: r | {"format": 2},
    "third label": lambda r: r | {"images": [r["images"][0] | {"label": 2}]},
    "no score": lambda r: r | {"images": [r["images"][0] | {"score": None}]},
    "no images": lambda r: r | {"images": []},
    "loss as text": lambda r: r | {"losses": ["0.5"]},
    "no revision": lambda r: lacks(r, "provenance", "git_revision"),
    "no learning rate": lambda r: lacks(r, "config", "lr"),
    "no time": lambda r: lacks(r, "timing", "fit_s"),
    "unknown entry": lambda r: r | {"unknown": 1},
}


@pytest.mark.parametrize("what", WRONG)
def test_the_schema_refuses(what):
    with pytest.raises(fastjsonschema.JsonSchemaValueException):
        record.validate(WRONG[what](made_up_runs.run()))


# --- A run that is already there ----------------------------------------------------------------------------------


def test_finished_is_none_then_the_result(tmp_path):
    assert record.finished(tmp_path, CFG, **SAME) is None
    written = write(tmp_path)
    assert record.finished(tmp_path, CFG, **SAME) == written
    assert record.finished(tmp_path, config(seed=7), **SAME) is None


@pytest.mark.parametrize("other", SAME)
def test_finished_refuses_other_data_or_weights(tmp_path, other):
    write(tmp_path)
    with pytest.raises(InputError, match=f"was made with another {other}; remove it or give another label"):
        record.finished(tmp_path, CFG, **SAME | {other: "changed"})


def test_a_failure_is_a_row_but_no_result(tmp_path):
    path = tmp_path / "runs" / CFG.run_id / "result.json"
    record.write_failure(path, CFG, status="diverged", reason="loss is nan", attempts=1)
    assert record.finished(tmp_path, CFG, **SAME) is None and record.read_runs(tmp_path) == []
    (failure,) = failures_of(tmp_path)
    assert (failure["status"], failure["reason"], failure["attempts"]) == ("diverged", "loss is nan", 1)
    with pytest.raises(fastjsonschema.JsonSchemaValueException):
        record.write_failure(path, CFG, status="finished", reason="", attempts=1)


# --- Maps and figures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masks", [True, False])
def test_maps_are_kept_for_the_figures(tmp_path, masks):
    scores = made_up_scores(masks=masks)
    pictures = np.random.default_rng(0).integers(0, 256, (6, 3, 16, 16), dtype=np.uint8)
    record.save_maps(tmp_path, scores, pictures)
    kept = record.load_maps(tmp_path)
    np.testing.assert_allclose(kept["scale_maps"], scores.scale_maps, atol=1e-3)
    assert kept["scale_maps"].dtype == np.float32 and np.array_equal(kept["images"], pictures)
    assert tuple(kept["paths"]) == scores.paths
    assert np.array_equal(kept["masks"], scores.masks) if masks else kept["masks"].size == 0


def test_a_run_without_maps_has_none(tmp_path):
    write(tmp_path)
    assert record.load_maps(tmp_path / "runs" / CFG.run_id) is None


# --- Imports ------------------------------------------------------------------------------------------------------


def test_reading_results_does_not_load_torch():
    modules = ["evaluate", "batch.compare", *(f"run.{name}" for name in ("record", "plan", "provenance", "progress"))]
    modules += [f"report.{name}" for name in ("tables", "figures", "page")]
    code = (
        "import sys, importlib\nfor m in sys.argv[1:]:\n    importlib.import_module(f'rdlib.{m}')\n    assert 'torch' not in sys.modules, m"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, *modules], cwd=REPO, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")

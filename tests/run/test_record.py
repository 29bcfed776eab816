"""Run files: complete, valid, whole or absent, and read back without torch."""

import copy
import json
import os
import subprocess
import sys

import fastjsonschema
import made_up_runs
import numpy as np
import pytest
from helpers import REPO, config, image_set, made_up_scores
from torch import nn

from rdlib import evaluate, metrics
from rdlib.data import Data
from rdlib.errors import InputError
from rdlib.run import record
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
    assert record.read_run(path) == written == json.loads(path.read_text())
    assert record.read_runs(tmp_path) == [written]
    assert (written["run_id"], written["status"], written["format"]) == (CFG.run_id, "finished", 1)
    assert written["config"] == CFG.to_dict() and written["losses"] == [0.5, 0.25] and written["undefined"] == {}
    assert written["timing"]["load_s"] == 0.123 and written["timing"]["metrics_s"] >= 0 and written["peak_memory_mb"] > 10


def test_metrics_in_the_file_are_those_of_the_scores(tmp_path):
    written, scores = write(tmp_path), made_up_scores()
    maps = scores.scale_maps.sum(0)
    expected = metrics.pixel_metrics(masks=scores.masks, maps=maps)
    expected |= {"au_pro_per_image": metrics.au_pro_per_image(masks=scores.masks, maps=maps)}
    sums = maps.astype(float).sum((1, 2))
    expected |= {"image_auroc": metrics.image_auroc(labels=scores.labels, scores=sums)}
    expected |= {"image_ap": metrics.image_ap(labels=scores.labels, scores=sums)}
    assert written["metrics"] == pytest.approx(expected)
    assert set(written["metrics"]) == set(evaluate.METRICS)
    assert [i["score"] for i in written["images"]] == pytest.approx(sums)
    assert [(i["path"], i["label"]) for i in written["images"]] == list(zip(scores.paths, scores.labels.tolist()))


def test_every_scale_set_and_image_score_is_in_the_file(tmp_path):
    written, scores = write(tmp_path), made_up_scores()
    assert list(written["by_scales"]) == ["M1", "M2", "M3", "M2+M3", "M1+M2+M3"]
    assert written["by_scales"]["M1+M2+M3"] == written["metrics"]
    two_and_three = scores.scale_maps[1] + scores.scale_maps[2]
    assert written["by_scales"]["M2+M3"]["pixel_auroc"] == pytest.approx(metrics.pixel_auroc(masks=scores.masks, maps=two_and_three))
    largest = scores.scale_maps.sum(0).max((1, 2))
    assert written["by_image_score"]["max"]["image_auroc"] == metrics.image_auroc(labels=scores.labels, scores=largest)
    assert written["by_image_score"]["sum"] == {k: written["metrics"][k] for k in ("image_auroc", "image_ap")}


def test_without_masks_there_are_image_metrics_only(tmp_path):
    written = write(tmp_path, scores=made_up_scores(masks=False))
    assert set(written["metrics"]) == {"image_auroc", "image_ap"}


def with_labels(label):
    scores = made_up_scores(masks=False)
    scores.labels[:] = label
    return scores


@pytest.mark.parametrize("label, counts", [(0, "6 normal and 0 anomalous"), (1, "0 normal and 6 anomalous")])
def test_undefined_is_null_with_the_reason(tmp_path, label, counts):
    written = write(tmp_path, scores=with_labels(label))
    assert written["metrics"] == {"image_auroc": None, "image_ap": None}
    assert set(written["undefined"]) == {"image_auroc", "image_ap"} and all(counts in reason for reason in written["undefined"].values())
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
    assert set(told) == {"pixel_auroc", "pixel_ap", "au_pro", "au_pro_per_image"}
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


def test_the_thin_pro_curve_has_the_area_of_the_whole_one(tmp_path):
    written = write(tmp_path)
    fpr, pro = written["pro_curve"]["fpr"], written["pro_curve"]["pro"]
    assert (fpr[0], fpr[-1]) == (0, 0.3) and len(fpr) == len(pro)
    assert np.trapezoid(pro, fpr) / 0.3 == pytest.approx(written["metrics"]["au_pro"], abs=0.01)
    assert "pro_curve" not in write(tmp_path / "no_masks", scores=made_up_scores(masks=False))


def test_a_result_of_other_numerics_threads_or_device_says_so(tmp_path):
    written = write(tmp_path)
    assert record.made_otherwise(written, HARDWARE) == ""
    assert "threads 1 (now 2)" in record.made_otherwise(written, HARDWARE | {"threads": 2})
    assert "device cpu (now cuda)" in record.made_otherwise(written, HARDWARE | {"device": "cuda:1"})
    references = {p: record.read_runs(REPO / "results" / "reference" / p)[0] for p in ("demo", "cpu")}
    found = {p: record.made_otherwise(r, {"threads": r["provenance"]["threads"], "device": "cpu"}) for p, r in references.items()}
    assert found["demo"] == "" and "numerics 1 (now 2)" in found["cpu"], "cpu holds runs of 0.1.0, before the rounding changed"


def test_images_say_how_large_their_anomaly_is(tmp_path):
    assert [i["anomalous_pixels"] for i in write(tmp_path)["images"]] == [0, 20] * 3


def test_runs_are_read_in_the_order_of_their_ids(tmp_path):
    for seed in (10, 9, 1):
        write(tmp_path, config(seed=seed))
    ids = [r["run_id"] for r in record.read_runs(tmp_path)]
    assert ids == sorted(ids) and len(ids) == 3
    assert record.read_runs(tmp_path / "nowhere") == []


# --- Whole or not at all ------------------------------------------------------------------------------------------


def test_nothing_temporary_is_left(tmp_path):
    write(tmp_path)
    assert files(tmp_path / "runs") == ["result.json"]
    write(tmp_path, save_maps=True, overwrite=True)
    assert files(tmp_path / "runs") == ["maps.npz", "result.json"]


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="cannot be written .No space left on device.; make room"):
        write(tmp_path)
    assert files(tmp_path / "runs") == []


def test_a_failed_second_write_keeps_the_first(tmp_path, monkeypatch):
    first = write(tmp_path)

    def full(_):
        raise OSError(28, "No space left on device")

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


def broken(result, path, value):
    result = copy.deepcopy(result)
    inner = result
    for key in path[:-1]:
        inner = inner[key]
    if value is KeyError:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return result


WRONG = [
    (("metrics", "image_auroc"), 1.5),
    (("metrics", "pixel_auroc"), -0.1),
    (("metrics", "au_pro"), "0.9"),
    (("metrics", "image_ap"), KeyError),
    (("run_id",), "../../etc"),
    (("run_id",), "main-mvtec-bottle"),
    (("status",), "running"),
    (("format",), 2),
    (("images", 0, "label"), 2),
    (("images", 0, "score"), None),
    (("images", 0, "extra"), 1),
    (("images",), []),
    (("losses", 0), "0.5"),
    (("provenance", "git_revision"), KeyError),
    (("config", "lr"), KeyError),
    (("timing", "fit_s"), KeyError),
    (("unknown",), 1),
]


@pytest.mark.parametrize("path, value", WRONG)
def test_the_schema_refuses(tmp_path, path, value):
    result = write(tmp_path)
    file = tmp_path / "runs" / CFG.run_id / "result.json"
    file.write_text(json.dumps(broken(result, path, value)))
    with pytest.raises(InputError, match=f"^{file}: not a result of this version"):
        record.read_run(file)


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 1, "run_id": "ma', b"\xff\xfe"])
def test_a_file_that_is_no_json_is_named(tmp_path, content):
    path = tmp_path / "runs" / "some" / "result.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"^{path}: not JSON"):
        record.read_runs(tmp_path)


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
    (failure,) = record.read_failures(tmp_path)
    assert (failure["status"], failure["reason"], failure["attempts"]) == ("diverged", "loss is nan", 1)
    with pytest.raises(fastjsonschema.JsonSchemaValueException):
        record.write_failure(path, CFG, status="finished", reason="", attempts=1)


def test_finished_refuses_another_configuration_of_the_same_id(tmp_path):
    result = write(tmp_path)
    path = tmp_path / "runs" / CFG.run_id / "result.json"
    path.write_text(json.dumps(broken(result, ("config", "lr"), 0.1)))
    with pytest.raises(InputError, match=rf"^{path}: was made with another lr; remove it"):
        record.finished(tmp_path, CFG, **SAME)


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


def test_maps_hold_no_pickled_objects(tmp_path):
    record.save_maps(tmp_path, made_up_scores(), np.zeros((6, 3, 16, 16), np.uint8))
    with np.load(tmp_path / "maps.npz", allow_pickle=False) as file:
        assert {file[name].dtype.kind for name in file.files} == {"f", "u", "b", "U"}


def test_a_run_without_maps_has_none(tmp_path):
    write(tmp_path)
    assert record.load_maps(tmp_path / "runs" / CFG.run_id) is None


# --- Imports ------------------------------------------------------------------------------------------------------


def test_reading_results_does_not_load_torch():
    modules = (
        "config",
        "metrics",
        "evaluate",
        "run.record",
        "run.plan",
        "run.provenance",
        "run.progress",
        "report.tables",
        "report.figures",
        "report.page",
        "batch.compare",
    )
    code = (
        "import sys, importlib\nfor m in sys.argv[1:]:\n    importlib.import_module(f'rdlib.{m}')\n    assert 'torch' not in sys.modules, m"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, *modules], cwd=REPO, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")

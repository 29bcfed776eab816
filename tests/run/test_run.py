"""End to end: notebooks/02_run.ipynb under plain papermill, on a folder of the user's and on digits, and each user error."""

import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import REPO, mvtec_folder, save
from PIL import Image
from torchvision.models import resnet18

from rdlib import evaluate, metrics
from rdlib.config import Config
from rdlib.run import record

METRICS = ("image_auroc", "image_ap", "image_f1_max", "image_tpr_fpr01", "pixel_auroc", "pixel_ap", "pixel_f1_max", "pixel_tpr_fpr01")
METRICS += ("au_pro", "au_pro_05", "aupimo", "au_pro_per_image")
TINY = {"dataset": "mvtec", "category": "made_up", "image_size": 64, "epochs": 6, "batch_size": 4, "threads": 1}
DIGITS = {"dataset": "digits", "normal_class": 3, "image_size": 32, "epochs": 1, "threads": 1}


@dataclass(frozen=True)
class Call:
    """One papermill call: exit code, what it printed, its out_dir and executed notebook."""

    code: int
    output: str
    out: Path
    notebook: Path

    @property
    def last_line(self):
        return self.output.strip().splitlines()[-1]

    @property
    def result(self):
        (path,) = self.out.glob("runs/*/result.json")
        return record.read_run(path)

    @property
    def files(self):
        """What it wrote, without the lock files."""
        written = [p.relative_to(self.out) for p in self.out.rglob("*") if p.is_file()] if self.out.exists() else []
        return sorted(p.as_posix() for p in written if p.parts[0] != "locks")


def papermill(folder, parameters, out=None, **environment):
    """Run the notebook with these parameters; everything it writes goes below `folder`."""
    out = out or folder / "out"
    folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "papermill", "--no-progress-bar", "notebooks/02_run.ipynb", str(folder / "executed.ipynb")]
    for name, value in (parameters | {"out_dir": out}).items():
        words += ["-p", name, str(value)]
    done = subprocess.run(
        words,
        cwd=REPO,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Call(done.returncode, done.stdout, out, folder / "executed.ipynb")


def spotted_folder(root):
    """Eight flat grey images with faint noise to train on; three such and three with a bright square to test on."""
    folder = mvtec_folder(root / "made_up", train=8, good=3, bad=3, size=(80, 64))
    for path in folder.rglob("*.png"):
        if "ground_truth" not in path.parts:
            rng = np.random.default_rng(len(path.name) + hash_of(path.relative_to(folder)))
            pixels = rng.integers(110, 130, (64, 80, 3))
            if "hole" in path.parts:
                pixels[4:16, 4:20] = 250
            save(Image.fromarray(pixels.astype(np.uint8)), path)
    return root


def hash_of(path):
    return sum(ord(c) * (i + 1) for i, c in enumerate(path.as_posix()))


def broken_folder(root):
    """Three things wrong at once: no mask, a truncated image, a mask of another size."""
    folder = mvtec_folder(root / "made_up", train=3, good=2, bad=3)
    (folder / "ground_truth/hole/002_mask.png").unlink()
    (folder / "train/good/001.png").write_bytes((folder / "train/good/001.png").read_bytes()[:60])
    save(Image.new("L", (8, 8), 255), folder / "ground_truth/hole/000_mask.png")
    return root


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """All papermill calls of this file, two at a time. The second of the two equal runs keeps no maps."""
    root = tmp_path_factory.mktemp("run")
    data = {"data_root": spotted_folder(root / "data")}
    empty = root / "empty"
    empty.mkdir()
    own = {"teacher": "resnet18", "weights": root / "own.pth", "epochs": 1, "same_function": True}
    torch.save(resnet18().state_dict(), own["weights"])
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(papermill, root / "first", TINY | data)
        started = {
            "second": pool.submit(papermill, root / "second", TINY | data | {"save_maps": False}),
            "digits": pool.submit(papermill, root / "digits", DIGITS),
            "misspelt": pool.submit(papermill, root / "misspelt", TINY | data | {"epoch": 1}),
            "broken": pool.submit(papermill, root / "broken", TINY | {"data_root": broken_folder(root / "broken_data")}),
            "empty": pool.submit(papermill, root / "empty_run", TINY | {"data_root": empty}),
            "absent": pool.submit(papermill, root / "absent", TINY | data | own | {"weights": root / "nowhere.pth"}),
            "own": pool.submit(papermill, root / "own", TINY | data | own),
            "again": pool.submit(lambda: again(root, data, first.result())),
        }
        return {"first": first.result()} | {name: call.result() for name, call in started.items()}


def again(root, data, first):
    """The first call once more, into the same out_dir."""
    before = {name: (first.out / name).stat().st_mtime_ns for name in first.files if name.endswith("result.json")}
    call = papermill(root / "again", TINY | data, out=first.out)
    return call, before


# --- Runs that end well -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["first", "second", "digits"])
def test_a_run_ends_well_with_a_valid_result(calls, name):
    call = calls[name]
    assert call.code == 0, call.output
    parameters = DIGITS if name == "digits" else TINY
    fields = {k: v for k, v in parameters.items() if k != "threads"}
    cfg = Config.create(teacher="efficientnet_lite0", seed=0, **fields)
    assert (call.result["status"], call.result["run_id"], call.result["config"]) == ("finished", cfg.run_id, cfg.to_dict())
    kept = (
        ["images.csv.gz", "loss.png", "result.json"]
        if name == "second"
        else ["images.csv.gz", "loss.png", "maps.npz", "maps.png", "result.json"]
    )
    assert call.files == [f"runs/{cfg.run_id}/{file}" for file in kept]


def test_every_metric_of_a_folder_with_masks_is_there(calls):
    result = calls["first"].result
    assert set(result["metrics"]) == set(METRICS) == set(evaluate.METRICS) and result["undefined"] == {}
    assert all(0 <= v <= 1 for v in result["metrics"].values())
    assert set(result["by_scales"]) == {"M1", "M2", "M3", "M2+M3", "M1+M2+M3"} and set(result["by_image_score"]) == {"max", "sum", "mean"}


def test_plain_anomalies_are_found(calls):
    """A bright square on grey: six epochs are enough."""
    assert calls["first"].result["metrics"]["image_auroc"] == 1
    assert calls["first"].result["metrics"]["pixel_auroc"] > 0.9


def test_images_losses_timing_and_provenance_are_there(calls):
    result = calls["first"].result
    assert [(i["path"], i["label"]) for i in result["images"]] == [
        (f"test/{d}/00{n}.png", d == "hole") for d in ("good", "hole") for n in range(3)
    ]
    assert all(math.isfinite(i["score"]) for i in result["images"])
    assert len(result["losses"]) == 6 and result["losses"][-1] < result["losses"][0]
    assert result["data"] == {"train_images": 8, "test_images": 6, "test_anomalous": 3, "vanished_regions": 0, "train_test_duplicates": 0}
    assert set(result["timing"]) == {"load_s", "build_s", "fit_s", "score_s", "metrics_s"} and all(
        v >= 0 for v in result["timing"].values()
    )
    assert result["provenance"]["threads"] == 1 and len(result["provenance"]["teacher_sha256"]) == 64


def test_metrics_follow_from_the_images_of_the_file(calls):
    for name in ("first", "digits"):
        images = calls[name].result["images"]
        arrays = {"labels": np.array([i["label"] for i in images]), "scores": np.array([i["score"] for i in images])}
        assert metrics.image_auroc(**arrays) == pytest.approx(calls[name].result["metrics"]["image_auroc"], abs=1e-12)
        points = metrics.operating_points(**arrays)
        for kind, of in enumerate(("metrics", "thresholds")):
            assert points["f1_max"][kind] == pytest.approx(calls[name].result[of]["image_f1_max"], abs=1e-12)
        assert metrics.image_ap(**arrays) == pytest.approx(calls[name].result["metrics"]["image_ap"], abs=1e-12)


def test_kept_maps_are_those_that_were_scored(calls):
    result = calls["first"].result
    kept = record.load_maps(calls["first"].out / "runs" / result["run_id"])
    assert list(kept["paths"]) == [i["path"] for i in result["images"]] and kept["masks"].any((1, 2)).tolist() == [False] * 3 + [True] * 3
    assert kept["scale_maps"].sum(0).max((1, 2)) == pytest.approx([i["score"] for i in result["images"]], rel=2e-3)


SAME = (
    "run_id",
    "config",
    "losses",
    "metrics",
    "thresholds",
    "undefined",
    "by_scales",
    "by_image_score",
    "history",
    "images",
    "data",
    "model",
)


@pytest.mark.parametrize("key", SAME)
def test_the_same_run_in_two_places_is_the_same_to_the_bit(calls, key):
    assert calls["first"].out != calls["second"].out
    assert calls["first"].result[key] == calls["second"].result[key]


def test_the_same_data_have_the_same_manifest(calls):
    found = [calls[name].result["provenance"] for name in ("first", "second", "digits")]
    assert found[0]["data_manifest"] == found[1]["data_manifest"] != found[2]["data_manifest"]
    assert found[0]["teacher_sha256"] == found[2]["teacher_sha256"]


def test_a_finished_run_is_shown_again_not_repeated(calls):
    call, before = calls["again"]
    assert call.code == 0, call.output
    after = {name: (call.out / name).stat().st_mtime_ns for name in before}
    assert len(before) == 1 and after == before


def test_a_teacher_file_of_ones_own_is_in_the_identity_and_in_the_provenance(calls):
    result = calls["own"].result
    sha256 = result["provenance"]["teacher_sha256"]
    assert result["config"]["weights_id"] == sha256[:12] and f".weights_{sha256[:12]}-" in result["run_id"]
    assert result["provenance"]["weights"] == "same function" and calls["first"].result["provenance"]["weights"] == "published"
    assert "weights_id" not in calls["first"].result["config"]


def test_digits_have_image_metrics_only(calls):
    result = calls["digits"].result
    assert set(result["metrics"]) == {name for name in METRICS if name.startswith("image")} and all(
        0 <= v <= 1 for v in result["metrics"].values()
    )
    assert result["data"]["test_images"] == len(result["images"]) == 797
    assert sum(i["label"] for i in result["images"]) == result["data"]["test_anomalous"]
    assert result["metrics"]["image_auroc"] > 0.6  # one epoch; guessing is 0.5


def test_the_executed_notebook_shows_figures_and_metrics(calls):
    notebook = json.loads(calls["first"].notebook.read_text())
    outputs = [o for c in notebook["cells"] if c["cell_type"] == "code" for o in c["outputs"]]
    shown = [o["data"] for o in outputs if "data" in o]
    assert sum("image/png" in d for d in shown) == 2 and any("image_auroc" in "".join(d.get("text/plain", "")) for d in shown)
    assert not [o for o in outputs if o["output_type"] == "error"]


# --- Errors of a user ---------------------------------------------------------------------------------------------

LAST_LINES = {
    "misspelt": r"InputError: unknown parameter 'epoch' (did you mean 'epochs'?)",
    "empty": "no category made_up of mvtec; there are: none",
    "absent": "nowhere.pth': no such file; give torchvision's",
}


@pytest.mark.parametrize("name", ["misspelt", "broken", "empty", "absent"])
def test_a_user_error_fails_and_leaves_no_result(calls, name):
    call = calls[name]
    assert call.code != 0
    assert call.files == []


@pytest.mark.parametrize("name, sentence", LAST_LINES.items())
def test_the_last_line_is_the_sentence_that_helps(calls, name, sentence):
    assert sentence in calls[name].last_line
    assert "Traceback" not in calls[name].output.splitlines()[-3:]


def test_all_that_is_wrong_with_a_folder_is_named_at_the_end(calls):
    *_, headline, first, second, third = calls["broken"].output.strip().splitlines()
    assert headline.endswith("made_up: 3 problem(s) with the data:")
    named = ("test/hole/002.png: no mask ", "train/good/001.png: cannot be decoded", "ground_truth/hole/000_mask.png: mask is 8x8")
    for start in named:
        assert any(start in line for line in (first, second, third)), start

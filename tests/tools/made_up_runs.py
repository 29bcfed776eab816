"""Result files without training: valid by the schema, with the values a test wants; and a table notebook run on them."""

import json

import numpy as np
from helpers import REPO

from rdlib.config import Config
from rdlib.datasets import IMAGE_FOLDER_DATASETS
from rdlib.evaluate import METRICS
from rdlib.run import record
from rdlib.score import Scores

# Two normal and two anomalous images, told apart without a mistake: nothing to gain or lose by drawing them again.
SEPARATED = [(f"test/{kind}/{i}.png", label, label + i / 10, 9 * label) for kind, label in (("good", 0), ("hole", 1)) for i in range(2)]
COST = ("latency_ms_p50", "latency_ms_p95", "images_per_s", "memory_mb", "stored_mb", "trainable_parameters", "gmacs")


def rows(*images):
    """(path, label, score, anomalous pixels) of each image as in a result."""
    return [dict(zip(("path", "label", "score", "anomalous_pixels"), image)) for image in images]


def run(value=0.9, *, metrics=None, by_scales=None, by_image_score=None, history=(), images=None, **params):
    """A run in which every metric is `value` unless `metrics` says otherwise.

    params: of Config; MVTec's carpet, seed 0 and the paper's setting unless given
    """
    cfg = Config.create(**{"dataset": "mvtec", "seed": 0} | ({} if "normal_class" in params else {"category": "carpet"}) | params)
    names = [name for name in METRICS if name.startswith("image") or cfg.dataset in IMAGE_FOLDER_DATASETS]
    values = dict.fromkeys(names, value) | (metrics or {})
    result = {
        "format": record.FORMAT,
        "run_id": cfg.run_id,
        "status": "finished",
        "config": cfg.to_dict(),
        "losses": [1.0] * cfg.epochs,
        "metrics": values,
        "undefined": {},
        "by_scales": {"M1+M2+M3": values} | (by_scales or {}),
        "by_image_score": by_image_score or {},
        "history": [{"epoch": i, "metrics": values | looked} for i, looked in enumerate(history, 1)],
        "images": rows(*(SEPARATED if images is None else images)),
        "data": {"train_images": 2, "test_images": 4, "test_anomalous": 2},
        "model": {"trainable_parameters": 1},
        "timing": {"load_s": 0, "fit_s": 0, "score_s": 0, "metrics_s": 0},
        "peak_memory_mb": 1,
        "provenance": PROVENANCE | {"seed": cfg.seed} | ({"model": {"id": cfg.model_id, "fit_s": 9}} if cfg.train_on == "all" else {}),
    }
    record.validate(result)
    return result


PROVENANCE = dict.fromkeys(("git_revision", "lock_sha256", "python", "os", "cpu", "gpu", "teacher_sha256", "data_manifest"), "") | {
    "git_dirty": False,
    "packages": {},
    "device": "cpu",
    "threads": 1,
    "finished_at": "",
}


def failed(status="failed", reason="no memory", **params):
    """A run that did not finish; params as of `run`."""
    cfg = Config.create(**{"dataset": "mvtec", "seed": 0} | ({} if "normal_class" in params else {"category": "carpet"}) | params)
    result = {"format": record.FORMAT, "run_id": cfg.run_id, "status": status, "reason": reason, "attempts": 1}
    result |= {"config": cfg.to_dict(), "finished_at": ""}
    record.validate(result)
    return result


def put(folder, *results):
    """Write results as run files below `folder`; returns it."""
    for result in results:
        record.write(folder / "runs" / result["run_id"], result)
    return folder


def put_with_maps(folder, result, maps, masks=None, pictures=None):
    """Write a run file, and what it kept of its first N images: maps (3, N, H, W), masks (N, H, W), and pictures, black unless given."""
    _, count, *size = np.shape(maps)
    paths = tuple(image["path"] for image in result["images"][:count])
    pictures = np.zeros((count, 3, *size), np.uint8) if pictures is None else pictures
    target = put(folder, result) / "runs" / result["run_id"]
    record.save_maps(target, Scores(np.asarray(maps, np.float32), np.zeros(count), masks, paths), pictures)
    return result


def execute(name, results_dir, out_dir, monkeypatch, **changes):
    """Run a notebook's code here, on these results. changes: text of its source -> other text, both as `old=(old, new)`

    returns: its variables
    """
    monkeypatch.chdir(REPO)
    cells = json.loads((REPO / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = [("".join(c["source"]), c["metadata"].get("tags", ())) for c in cells if c["cell_type"] == "code"]
    for old, new in changes.values():
        assert any(old in text for text, _ in sources), old
        sources = [(text.replace(old, new), tags) for text, tags in sources]
    space = {}
    for text, tags in sources:
        exec(text, space)  # noqa: S102
        if "parameters" in tags:
            space |= {"results_dir": str(results_dir), "out_dir": str(out_dir)}
    return space

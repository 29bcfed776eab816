"""The cpu profile on real data, through the batch: the run of each kind that trains shortest.

Debian's Fashion-MNIST is installed by `make datasets`; categories of MVTec AD are those of `make test DATA=FOLDER`, or of a folder
`shared/data/mvtec256` beside the project.
"""

import os
from pathlib import Path

import pytest
from batches import project, start
from helpers import PATIENCE, REPO

from rdlib.run import plan, record

BESIDE = REPO.parent / "shared/data/mvtec256"
GIVEN = os.environ.get("DATA") or (str(BESIDE) if BESIDE.is_dir() else "")
DATA = os.pathsep.join(str(Path(p).absolute()) for p in GIVEN.split(os.pathsep) if p)
CATEGORIES = [name for name in plan.find_data(DATA) if name not in plan.NOVELTY]


def trained(root, experiment, data=""):
    """The finished run of the cpu profile's experiment that trains shortest, trained by the batch."""
    epochs = {i: p["epochs"] for i, p in plan.runs("cpu", data).items() if i.startswith(experiment) and p["epochs"]}
    target = f"results/cpu/runs/{min(epochs, key=epochs.get)}/result.json"
    batch = start(project(root), [target], profile="cpu", data=data)
    assert batch.wait(PATIENCE) == 0, (root / "log.txt").read_text()[-2000:]
    return record.read_run(root / target)


@pytest.mark.skipif(not (Path(plan.DEBIAN) / "fashion-mnist").is_dir(), reason="needs apt-get install dataset-fashion-mnist")
def test_one_class_of_debians_fashion_mnist_trains_from_the_packages_own_folder(tmp_path):
    made = trained(tmp_path / "project", "main-fashion_mnist-6-lite0.32px")
    assert made["status"] == "finished" and made["data"]["train_images"] == 6000 and made["data"]["test_images"] == 10_000
    assert made["metrics"]["image_auroc"] > 0.6  # guessing is 0.5


@pytest.mark.skipif(not CATEGORIES, reason="needs categories of MVTec AD: make test DATA=FOLDER")
def test_a_category_of_mvtec_trains_at_256_px(tmp_path):
    made = trained(tmp_path / "project", "cost-mvtec", DATA)
    assert made["status"] == "finished" and made["config"]["category"] in CATEGORIES and made["complexity"]["gmacs"] > 0
    assert made["metrics"]["pixel_auroc"] > 0.8  # one epoch; guessing is 0.5

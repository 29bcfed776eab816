"""`train_on=all`: one model for all categories, trained once, the same bits as if each run had trained it, and told in every run file."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import TinyTeacher, config, mvtec_folder, picture, save

from rdlib import data, features, fit, model, score
from rdlib.errors import InputError
from rdlib.evaluate import evaluate
from rdlib.run import checkpoint, record
from rdlib.run.parameters import Where
from rdlib.run.session import Run

CATEGORIES = {"hazelnut": 3, "made_up": 4, "wood": 2}  # -> training images


def unified(**params):
    return config(train_on="all", **params)


@pytest.fixture
def root(tmp_path):
    for i, (name, count) in enumerate(CATEGORIES.items()):
        mvtec_folder(tmp_path / "data" / name, train=count)
        save(picture(seed=1000 + i), tmp_path / "data" / name / "train/good/own.png")
    return tmp_path / "data"


def whole_run(root, out, category="made_up", on_epoch=None, **where):
    """What 02_run does, with the tiny teacher."""
    run = Run(unified(category=category), Where(**{"out_dir": str(out), "cache_dir": "", "device": "cpu", "threads": 1} | where))
    with run.part("load"):
        images = data.load(run.cfg, root, run.store)
    fit.seed_everything(run.cfg)
    net = model.build(run.cfg, TinyTeacher())
    run.begin(images, net, "abc")
    if not run.done:
        with run.training(net):
            losses = fit.fit(net, images.train, run.cfg, on_epoch, run.store, run.checkpoint)
        with run.part("score"):
            scores = score.score(net, images.test, run.cfg, run.store)
        run.write(scores, losses, evaluate(scores, run.cfg))
    run.lock.release()
    return run


def kept(run):
    return record.load_maps(run.folder)["scale_maps"]


def test_the_training_images_are_those_of_all_categories_and_the_test_images_its_own(root):
    images, own = data.load(unified(), root), data.load(config(), root)
    assert images.train.paths[:4] == ("hazelnut/train/good/000.png", *(f"hazelnut/train/good/{n}.png" for n in ("001", "002", "own")))
    assert [len(images.train), len(images.train.labels), images.train.labels.sum()] == [12, 12, 0]
    assert np.array_equal(images.train.images[4:9], own.train.images) and np.array_equal(images.test.images, own.test.images)
    assert images.test.paths == own.test.paths and (images.manifest, images.notes) == (own.manifest, own.notes)
    assert images.train_manifests == {name: data.load(config(category=name), root).manifest for name in CATEGORIES}
    assert data.remarks(images, unified()) == data.remarks(own, config()) and own.train_manifests == {}


def test_what_is_said_of_a_category_counts_its_own_images(root):
    said = data.remarks(data.load(unified(category="wood"), root), unified(category="wood"))
    assert said == ["wood: 3 training and 4 test images, MVTec AD has 247 and 79"]


def test_the_demo_brings_its_five_categories():
    images = data.load(unified(dataset="demo", category="coin"))
    assert list(images.train_manifests) == ["brick", "coin", "grass", "gravel", "tissue"]
    assert {path.split("/")[0] for path in images.train.paths} == set(images.train_manifests)


def test_the_second_run_of_a_model_takes_it_and_has_the_bits_of_one_that_trained(root, tmp_path, monkeypatch):
    first = whole_run(root, tmp_path / "shared", "wood")
    trained, fits = [], []
    monkeypatch.setattr(fit, "step", lambda *args, _step=fit.step: trained.append(1) or _step(*args))
    monkeypatch.setattr(fit, "TeacherFeatures", lambda *args, _made=fit.TeacherFeatures: fits.append(1) or _made(*args))
    second = whole_run(root, tmp_path / "shared")
    assert not trained and not fits, "neither a step nor the features of a training image"
    alone = whole_run(root, tmp_path / "alone")
    assert trained and second.done["losses"] == alone.done["losses"] == first.done["losses"]
    assert second.done["metrics"] == alone.done["metrics"] and second.done["images"] == alone.done["images"]
    assert np.array_equal(kept(second), kept(alone)) and kept(second).std() > 0


def test_each_run_file_names_the_model_and_its_training_data(root, tmp_path):
    first, second = (whole_run(root, tmp_path, name).done for name in ("wood", "made_up"))
    told = first["provenance"]["model"]
    assert told == second["provenance"]["model"] == json.loads((tmp_path / "models" / unified().model_id / "model.json").read_text())
    assert told["id"] == unified().model_id == "main-mvtec-custom.32px.2ep.batch_size_4.sigma_1.0.train_on_all-s111"
    assert told["trained_by"] == first["run_id"] and told["fit_s"] == first["timing"]["fit_s"] and len(told["sha256"]) == 64
    assert second["timing"]["fit_s"] < told["fit_s"], "its own time: nobody counts the training twice"
    assert (first["provenance"]["resumed_from"], second["provenance"]["resumed_from"]) == (0, 2)
    assert first["provenance"]["train_manifests"] == second["provenance"]["train_manifests"]
    assert first["provenance"]["data_manifest"] == first["provenance"]["train_manifests"]["wood"]
    assert first["data"]["train_images"] == 12 and first["provenance"]["torch_seed"] == second["provenance"]["torch_seed"]


def test_a_result_or_a_model_of_other_training_categories_is_refused(root, tmp_path):
    whole_run(root, tmp_path)
    mvtec_folder(root / "cable")
    with pytest.raises(InputError, match="result.json: was made with another train_manifests"):
        whole_run(root, tmp_path)
    with pytest.raises(InputError, match=r"models.*: its checkpoint was made with another train_manifests; remove the folder"):
        whole_run(root, tmp_path, "wood")


def test_overwriting_trains_again(root, tmp_path):
    first = whole_run(root, tmp_path, "wood").done
    again = whole_run(root, tmp_path, overwrite=True).done["provenance"]["model"]
    assert again["trained_by"] == unified().run_id and again["sha256"] == first["provenance"]["model"]["sha256"]


def test_a_damaged_model_is_trained_again(root, tmp_path):
    first = whole_run(root, tmp_path, "wood").done
    (tmp_path / "models" / unified().model_id / checkpoint.NEWEST).write_bytes(b"cut")
    second = whole_run(root, tmp_path).done
    assert second["provenance"]["model"]["trained_by"] == second["run_id"] and second["losses"] == first["losses"]


def test_while_one_trains_other_processes_wait(root, tmp_path):
    def free():
        code = "from filelock import FileLock; import sys; FileLock(sys.argv[1], timeout=0).acquire()"
        return subprocess.run([sys.executable, "-c", code, tmp_path / "locks" / unified().model_id], capture_output=True).returncode == 0

    seen = []
    whole_run(root, tmp_path, on_epoch=lambda *_: seen.append(free()))
    assert seen == [False, False] and free()


class Killed(Exception):
    pass


def test_another_category_goes_on_where_a_killed_training_was(root, tmp_path):
    def kill(epoch, loss):
        if epoch == 2:
            raise Killed

    alone = whole_run(root, tmp_path / "alone").done
    with pytest.raises(Killed):
        whole_run(root, tmp_path, "wood", on_epoch=kill, checkpoint_s=0)
    second = whole_run(root, tmp_path).done
    assert second["losses"] == alone["losses"] and second["metrics"] == alone["metrics"]
    assert (second["provenance"]["resumed_from"], second["provenance"]["model"]["trained_by"]) == (1, second["run_id"])


def test_features_that_fit_nowhere_are_computed_again_and_the_run_says_so(root, tmp_path, monkeypatch):
    kept_somewhere = whole_run(root, tmp_path / "a", cache_dir=str(tmp_path / "cache")).done
    monkeypatch.setattr(features, "MEMORY", 0)
    nowhere = whole_run(root, tmp_path / "b", cache_dir=str(tmp_path / "cache"), cache_gb=0).done
    assert kept_somewhere["provenance"]["shared"]["train features"] == "computed and kept"
    assert nowhere["provenance"]["shared"]["train features"] == "not kept: 0.0 GB, limit 0.0 GB; recomputed"
    assert nowhere["losses"] == pytest.approx(kept_somewhere["losses"], rel=1e-6)

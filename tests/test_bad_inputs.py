"""Bad inputs and the message each gets: this file makes every one, checks its words, and is the source of tests/bad_inputs.md.

Renew the page with `RENEW=1 pytest tests/test_bad_inputs.py`.
"""

import hashlib
import io
import json
import os
import pickle
import shutil
import stat
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_folders import made
from filelock import FileLock
from helpers import REPO, TinyTeacher, config, mask, mvtec_folder, picture, save
from made_up_runs import run
from own_folders import folders, judge, own_settings
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torchvision.models import get_model

from rdlib import data, inference, metrics, model, official, teachers
from rdlib.batch import acquire, reference
from rdlib.config import Config
from rdlib.datasets import MVTEC_COUNTS
from rdlib.errors import InputError
from rdlib.novelty import IDX_FILES
from rdlib.own import detector, explorer, images, onnx
from rdlib.paths import output_folder
from rdlib.report import audit
from rdlib.report import page as report
from rdlib.report.runs import load
from rdlib.run import plan, record
from rdlib.run.parameters import from_notebook

PAGE = REPO / "tests" / "bad_inputs.md"
KINDS = ("corrupt", "missing", "extra", "wrong type", "wrong value", "wrong size", "hostile")


@dataclass(frozen=True)
class Case:
    """what: is wrong; kind: of KINDS; words: that the message must hold; use: does it, in an empty folder"""

    what: str
    kind: str
    words: tuple[str, ...]
    use: Callable[[Path], object]


CASES: list[Case] = []


def case(what, kind, *words):
    """Register the decorated function `use(tmp)` as a case."""

    def add(use):
        CASES.append(Case(what, kind, words, use))
        return use

    return add


# --- A data folder in MVTec layout --------------------------------------------------------------------------------


def after_spoiling(spoil, **params):
    """Load a folder of four training and four test images after `spoil(folder)`."""

    def use(tmp):
        folder = mvtec_folder(tmp / "made_up")
        spoil(folder)
        return data.load(config(**params), tmp)

    return use


def folder_case(what, kind, spoil, *words, **params):
    CASES.append(Case(what, kind, words, after_spoiling(spoil, **params)))


def truncate(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


def oversize(path):
    """A PNG whose header claims 60,000 x 60,000 pixels."""
    header = bytearray(path.read_bytes())
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    path.write_bytes(header)


def signed_tiff(path):
    """The smallest file of its kind: 2 x 2 pixels, written by hand since Pillow writes none."""
    tags = {256: 2, 257: 2, 258: 16, 259: 1, 262: 1, 273: 8, 277: 1, 278: 2, 279: 8, 339: 2}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = struct.pack("<2sHI4h", b"II", 42, 16, -5, 0, 1000, 32000)
    path.write_bytes(head + struct.pack("<H", len(tags)) + entries + bytes(4))


def keep_one(folder):
    for path in sorted((folder / "train/good").iterdir())[1:]:
        path.unlink()


@case("no `data_root` for MVTec", "missing", "data_root is empty", "-p data_root data/mvtec")
def _(tmp):
    data.load(config(), "")


@case("category that is not there", "missing", "no category made_up of mvtec; there are: none")
def _(tmp):
    data.load(config(), tmp)


@case("data audit of a category that is not there", "missing", "no category screw of mvtec; there are: nut")
def _(tmp):
    mvtec_folder(tmp / "nut")
    audit.category_folders("mvtec", tmp, "screw")


folder_case("no test folder", "missing", lambda f: shutil.rmtree(f / "test"), "no folder test")
folder_case(
    "no training images",
    "missing",
    lambda f: [p.unlink() for p in (f / "train/good").iterdir()],
    "train/good: no images; one normal image at least is needed",
)
folder_case("no mask for an image", "missing", lambda f: (f / "ground_truth/hole/001_mask.png").unlink(), "test/hole/001.png: no mask")
folder_case("no masks at all", "missing", lambda f: shutil.rmtree(f / "ground_truth"), "2 problem(s)", "000.png: no mask")
folder_case("empty folder of a defect", "missing", lambda f: (f / "test/crack").mkdir(), "test/crack: no images of this defect")
folder_case(
    "truncated image",
    "corrupt",
    lambda f: truncate(f / "train/good/001.png", 60),
    "train/good/001.png: cannot be decoded",
    "replace the file",
)
folder_case("image of no bytes", "corrupt", lambda f: truncate(f / "test/good/000.png", 0), "test/good/000.png: cannot be decoded")
folder_case(
    "web page named .png",
    "corrupt",
    lambda f: (f / "test/good/000.png").write_text("<html>please log in</html>"),
    "test/good/000.png: cannot be decoded",
)
folder_case("truncated mask", "corrupt", lambda f: truncate(f / "ground_truth/hole/000_mask.png", 40), "000_mask.png: cannot be decoded")
folder_case(
    "image of 3.6 gigapixels in 100 bytes", "hostile", lambda f: oversize(f / "train/good/000.png"), "000.png: cannot be decoded", "pixels"
)
folder_case(
    "mask of another size",
    "wrong size",
    lambda f: save(mask((32, 40)), f / "ground_truth/hole/000_mask.png"),
    "000_mask.png: mask is 32x40, its image 000.png is 40x32",
)
folder_case(
    "empty mask of an anomalous image",
    "wrong value",
    lambda f: save(mask(box=(0, 0, 0, 0)), f / "ground_truth/hole/000_mask.png"),
    "000_mask.png: mask is empty",
)
folder_case(
    "one training image at 32 px",
    "wrong size",
    keep_one,
    "train/good: 1 training image; at image_size=32",
    "take image_size=64",
    teacher="efficientnet_lite0",
)
folder_case(
    "mask without an image", "extra", lambda f: save(mask(), f / "ground_truth/hole/007_mask.png"), "007_mask.png: mask without an image"
)
folder_case(
    "masks of a defect without images",
    "extra",
    lambda f: save(mask(), f / "ground_truth/crack/000_mask.png"),
    "ground_truth/crack: masks of no defect",
)
folder_case(
    "masks of normal images",
    "extra",
    lambda f: save(mask(), f / "ground_truth/good/000_mask.png"),
    "ground_truth/good: masks of no defect",
)
folder_case(
    "no test images", "missing", lambda f: [p.unlink() for p in f.glob("*/*/*") if "train" not in p.parts], "test: no images; expected"
)
folder_case("GIF among the images", "extra", lambda f: (f / "train/good/000.gif").touch(), "000.gif: unexpected file (images are .png")
folder_case(
    "folder of images among the images",
    "extra",
    lambda f: save(picture(), f / "train/good/more/000.png"),
    "good/more: unexpected folder (images are",
)
folder_case(
    "pixels of signed 16 bits",
    "wrong type",
    lambda f: signed_tiff(f / "train/good/004.tif"),
    "004.tif: cannot be decoded (pixels are signed or 32-bit integers, and nothing says which is white; save",
)
folder_case(
    "pixels of floating-point numbers",
    "wrong type",
    lambda f: save(Image.new("F", (40, 32), 0.5), f / "train/good/004.tif"),
    "004.tif: cannot be decoded (pixels are floating-point numbers",
)
folder_case("image beside the defects' folders", "extra", lambda f: save(picture(), f / "test/000.png"), "test/000.png: unexpected file")
folder_case("image at the top of a category", "extra", lambda f: save(picture(), f / "000.png"), "made_up/000.png: unexpected file")
folder_case(
    "anomalous images to train on", "extra", lambda f: save(picture(), f / "train/bad/0.png"), "train/bad: unexpected folder in train"
)
folder_case(
    "unexpected folder in a category", "extra", lambda f: save(picture(), f / "test (copy)/good/0.png"), "test (copy): unexpected folder"
)
folder_case(
    "one image in two formats",
    "extra",
    lambda f: save(picture(), f / "test/hole/001.bmp"),
    "2 problem(s)",
    "001.bmp: another image has the same name",
)


# --- Data sets in other layouts -----------------------------------------------------------------------------------


def dataset_case(what, kind, dataset, spoil, *words):
    """Load a small folder in the data set's layout after `spoil(root)`."""

    def use(tmp):
        category, _ = made(dataset, tmp)
        spoil(tmp)
        return data.load(config(dataset=dataset, category=category), tmp)

    CASES.append(Case(what, kind, words, use))


dataset_case(
    "VisA without its split file",
    "missing",
    "visa",
    lambda f: (f / "split_csv/1cls.csv").unlink(),
    "split_csv/1cls.csv: not there, or not VisA's table of object,split,label,image,mask; put the original there",
)
dataset_case(
    "image that VisA's split file names and that is not there",
    "missing",
    "visa",
    lambda f: (f / "candle/Data/Images/Anomaly/001.JPG").unlink(),
    "Anomaly/001.JPG: not there, and ",
    "1cls.csv names it; put it there",
)
dataset_case(
    "mask that VisA's split file does not name",
    "extra",
    "visa",
    lambda f: save(mask(), f / "candle/Data/Masks/Anomaly/007.png"),
    "Masks/Anomaly/007.png: no row of ",
    "1cls.csv names it; remove it",
)
dataset_case(
    "anomalous image to train on in VisA's split file",
    "wrong value",
    "visa",
    lambda f: (f / "split_csv/1cls.csv").write_text((f / "split_csv/1cls.csv").read_text().replace("test,anomaly", "train,anomaly")),
    "1cls.csv: candle/Data/Images/Anomaly/000.JPG is 'anomaly' in 'train'; put the original there",
)
dataset_case(
    "image of BTAD without a mask",
    "missing",
    "btad",
    lambda f: (f / "03/ground_truth/ko/0001.png").unlink(),
    "test/ko/0001.bmp: no mask ",
    "ground_truth/ko/0001.png; put it there",
)
dataset_case(
    "folder good in BTAD, which has ok",
    "extra",
    "btad",
    lambda f: save(picture(), f / "03/test/good/0000.bmp"),
    "test/good: unexpected folder; normal images belong into test/ok",
)
dataset_case(
    "image of KolektorSDD without a label",
    "missing",
    "kolektorsdd",
    lambda f: (f / "kos01/Part0_label.bmp").unlink(),
    "kos01/Part0.jpg: no mask ",
    "kos01/Part0_label.bmp; put it there",
)
dataset_case(
    "mask of Magnetic-Tile without an image",
    "extra",
    "magnetic_tile",
    lambda f: save(mask(), f / "MT_Blowhole/Imgs/exp1_num_9.png"),
    "MT_Blowhole/Imgs/exp1_num_9.png: mask without an image",
)
dataset_case(
    "image of Magnetic-Tile without a frame number",
    "wrong value",
    "magnetic_tile",
    lambda f: save(picture(), f / "MT_Free/Imgs/copy.jpg"),
    "copy.jpg: no frame number at the end of its name, by which the split is made",
)
dataset_case(
    "folder of another data set",
    "wrong value",
    "kolektorsdd",
    lambda f: [shutil.rmtree(p) for p in f.glob("kos*")],
    "no normal images; expected KolektorSDD as published (docs/datasets.md)",
)


@case("category that VisA does not have", "wrong value", "no category candel of visa; there are: candle")
def _(tmp):
    made("visa", tmp)
    data.load(config(dataset="visa", category="candel"), tmp)


# --- Data sets for novelty detection ------------------------------------------------------------------------------


def mnist_names(tmp, suffix=""):
    """All four files, empty."""
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp / f"{name}-ubyte{suffix}").touch()


def novelty(name, folder):
    return data.load(Config.create(dataset=name, normal_class=3), folder)


@case("folder of MNIST with some files", "missing", "missing: ", "train-labels-idx1-ubyte[.gz]", "t10k-labels-idx1-ubyte[.gz]")
def _(tmp):
    for name in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
        (tmp / name).touch()
    novelty("mnist", tmp)


@case("truncated gzip file of MNIST", "corrupt", "train-images-idx3-ubyte.gz: cannot be read", "put the original there")
def _(tmp):
    mnist_names(tmp, ".gz")
    (tmp / "train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b\x08 cut short")
    novelty("mnist", tmp)


@case("web page saved as a file of MNIST", "corrupt", "train-images-idx3-ubyte: 26 bytes with md5 ", "damaged, or another file")
def _(tmp):
    mnist_names(tmp)
    (tmp / "train-images-idx3-ubyte").write_text("<html>please log in</html>")
    novelty("mnist", tmp)


@case("test labels of MNIST in place of training labels", "wrong value", "train-labels-idx1-ubyte: 18 bytes", "it is t10k-labels")
def _(tmp):
    contents = [bytes([i]) * (18 if i % 2 else 16 + 784) for i in range(4)]
    sums = {name: hashlib.md5(content).hexdigest() for name, content in zip(IDX_FILES["mnist"], contents)}
    for name, content in zip(sums, [contents[i] for i in (0, 3, 2, 3)]):
        (tmp / name).write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:  # small files, the same words
        patch.setitem(IDX_FILES, "mnist", sums)
        novelty("mnist", tmp)


@case(
    "archive of CIFAR-10 that would write elsewhere",
    "hostile",
    "cifar-10-python.tar.gz: not a complete copy of cifar10",
    "put the original there",
)
def _(tmp):
    tar_with(tmp / "cifar-10-python.tar.gz", tarfile.TarInfo("../../evil"))
    novelty("cifar10", tmp)


@case("empty folder for CIFAR-10", "missing", "no such folder, or empty; expected cifar-10-python.tar.gz")
def _(tmp):
    novelty("cifar10", tmp)


# --- Parameters ---------------------------------------------------------------------------------------------------

BOTTLE = {"dataset": "mvtec", "category": "bottle"}


def parameters(what, kind, given, *words):
    CASES.append(Case(what, kind, words, lambda tmp: from_notebook(BOTTLE | given)))


parameters("misspelt parameter", "extra", {"epoch": 1}, "unknown parameter 'epoch' (did you mean 'epochs'?)")
parameters("word for a number", "wrong type", {"epochs": "ten"}, "epochs='ten': expected int, got str")
parameters("a precision that is none", "wrong value", {"precision": "fp16"}, "precision='fp16': must be one of fp32, tf32, bf16")
parameters("number for a word", "wrong type", {"teacher": 18}, "teacher=18: is a number", "papermill -r teacher TEXT instead of -p")
parameters(
    "`-p category 2024_01`, which papermill turns into 202401",
    "wrong type",
    {"category": 202401},
    "(2024_01 becomes 202401)",
    "-r category",
)
parameters("list for a word", "wrong type", {"category": ["bottle"]}, "category=['bottle']: expected str, got list")
parameters(
    "weights file for a teacher that has its own",
    "extra",
    {"teacher": "efficientnet_lite0", "weights": "own.pth"},
    "weights='own.pth': teacher 'efficientnet_lite0' takes no file",
)
parameters("weights file that is not there", "missing", {"weights": "results/nowhere.pth"}, "weights='results/nowhere.pth': no such file")
parameters("word for yes or no", "wrong type", {"conv1x1": "yes"}, "conv1x1='yes': expected bool")
parameters("unknown data set", "wrong value", {"dataset": "imagenet"}, "dataset='imagenet': must be one of demo, mvtec")
parameters("no category", "missing", {"category": ""}, "category='': dataset 'mvtec' needs one, for example 'bottle'")
parameters("image size that is no multiple of 32", "wrong size", {"image_size": 100}, "image_size=100: must be a multiple of 32")
parameters("learning rate that is not a number", "wrong value", {"lr": float("nan")}, "lr=nan: must be greater than 0")
parameters("negative number of epochs", "wrong value", {"epochs": -1}, "epochs=-1: must be 0 or greater")
parameters("negative number of threads", "wrong value", {"threads": -2}, "threads=-2: must be 0 or greater")
parameters("scales that are none", "wrong value", {"scales": "1;2"}, "scales='1;2': give scale numbers")
parameters("scales in the wrong order", "wrong value", {"scales": "3,1"}, "distinct scale numbers from 1, shallow to deep")
parameters("class of a data set that has none", "extra", {"normal_class": 3}, "normal_class=3: dataset 'mvtec' takes a category instead")
parameters(
    "no class 12 of ten",
    "wrong value",
    {"dataset": "mnist", "normal_class": 12, "category": ""},
    "normal_class=12: dataset 'mnist' needs one of 0..9",
)
parameters("batches of one at 32 px", "wrong size", {"image_size": 32, "batch_size": 1}, "batch_size=1: at image_size=32")
parameters("run id too long for a file name", "wrong size", {"label": "x" * 300}, "at most 240 fit a file name")
parameters("category that is a path", "hostile", {"category": "../../etc"}, "category='../../etc': only letters, digits, '_' and '.'")
parameters("code in a parameter", "hostile", {"label": "__import__('os').system('id')"}, "label=", "only letters, digits")
parameters("markup in a parameter", "hostile", {"experiment": "<script>"}, "experiment='<script>': only letters, digits")
parameters("results outside the project", "hostile", {"out_dir": "../../x"}, "out_dir='../../x': must lie below results/")
parameters("results among the sources", "hostile", {"out_dir": "rdlib"}, "out_dir='rdlib': must lie below results/")
parameters(
    "results over the reference", "hostile", {"out_dir": "results/reference/demo"}, "out_dir='results/reference/demo': is the reference"
)
parameters("cache outside the project", "hostile", {"cache_dir": "../x"}, "cache_dir='../x': must lie below results/")
parameters("absolute path that hides its place", "hostile", {"out_dir": "/data/../etc"}, "out_dir='/data/../etc'", "must not hold '..'")
parameters("no folder for results", "missing", {"out_dir": ""}, "out_dir='': must be the name of a folder")


@case("device that is no device", "wrong value", "device='tpu': not available here; there is ", "cpu")
def _(tmp):
    with pytest.MonkeyPatch.context() as patch:  # the same page on every machine
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(torch.backends.mps, "is_available", lambda: False)
        inference.choose_device("tpu")


@case("unknown profile", "wrong value", "profile='papper': must be one of demo, cpu, paper")
def _(tmp):
    plan.runs("papper")


@case("profile that is a path", "hostile", "profile='../../x': must be one of demo, cpu, paper")
def _(tmp):
    reference.renew("../../x")


@case("`DATA` that is not there", "missing", "nowhere: no such folder")
def _(tmp):
    plan.find_data(str(tmp / "nowhere"))


@case("`DATA` of somebody unknown", "missing", "~nobody_of_this_name/x: no home folder of ~nobody_of_this_name is known here")
def _(tmp):
    plan.find_data("~nobody_of_this_name/x")


@case("`DATA` that holds no data set", "missing", "made_up: no data set is there; give the folder that holds bottle/train/good")
def _(tmp):
    save(picture(), tmp / "made_up/0.png")
    raise InputError(*plan.missing("cpu", str(tmp / "made_up")))  # the Snakefile ends with these lines


# --- Weights and checkpoints --------------------------------------------------------------------------------------


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def small_model():
    return model.build(config(image_size=64), TinyTeacher())


def own_teacher(tmp, change=lambda state, _: state):
    """From a weights file with torchvision's tensors of ResNet-18 through layer3, after `change`."""
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in get_model("resnet18").state_dict().items() if not k.startswith(("layer4", "fc"))}
    torch.save(change({k: torch.tensor(0.0).expand(shape) for k, shape in shapes.items()}, tmp), tmp / "own.pth")
    return teachers.load_teacher("resnet18", weights=tmp / "own.pth")[0]


def own_weights(what, kind, change, *words):
    CASES.append(Case(what, kind, words, lambda tmp: own_teacher(tmp, change)))


@case("weights that are not there", "missing", "weights=", "nowhere.pth: no such file; give a state dict of resnet18")
def _(tmp):
    teachers.load_teacher("resnet18", weights=tmp / "nowhere.pth")


@case("weights in torch's cache that are not the published ones", "corrupt", "weights of resnet18 begin f37072fd; fetch them again")
def _(tmp):
    path = tmp / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(tmp))
        teachers.load_teacher("resnet18")


@case("truncated weights", "corrupt", "cut.pth: damaged")
def _(tmp):
    torch.save({"conv1.weight": torch.zeros(1000)}, tmp / "cut.pth")
    truncate(tmp / "cut.pth", 2000)
    teachers.load_teacher("resnet18", weights=tmp / "cut.pth")


own_weights(
    "weights with code in them", "hostile", lambda s, tmp: {"model": Evil(tmp / "mark")}, "own.pth: damaged, or holds something else"
)
own_weights(
    "weights of another network",
    "wrong size",
    lambda s, _: s | {"layer1.0.conv3.weight": torch.zeros(1)},
    "own.pth: does not fit resnet18 (it differs at layer1.0.conv3.weight)",
)
own_weights(
    "weights that end before layer3", "missing", lambda s, _: {k: v for k, v in s.items() if "layer3" not in k}, "(it differs at layer3"
)
own_weights(
    "weights that are no tensors",
    "wrong type",
    lambda s, _: s | {"conv1.weight": "text"},
    "own.pth: does not fit resnet18 (it differs at conv1",
)
own_weights(
    "weights that are not finite",
    "wrong value",
    lambda s, _: s | {"bn1.bias": torch.full((64,), torch.nan)},
    "own.pth: bn1.bias is not finite",
)


@case("weights through layer3 for a bottleneck that needs layer4", "missing", "bottleneck='oce': needs the teacher's next stage", "layer3")
def _(tmp):
    model.build(config(bottleneck="oce"), own_teacher(tmp))


@case("weights for a teacher that has its own", "extra", "weights=w.pth: efficientnet_lite0 takes the weights of its pip package")
def _(tmp):
    teachers.load_teacher("efficientnet_lite0", weights="w.pth")


@case("checkpoint that is not there", "missing", "nowhere.pth: no such file; give the checkpoint's full name")
def _(tmp):
    official.load_checkpoint(small_model(), tmp / "nowhere.pth")


@case("checkpoint with code in it", "hostile", "evil.pth: damaged, or holds something else than a dictionary of tensors")
def _(tmp):
    torch.save({"bn": Evil(tmp / "mark"), "decoder": {}}, tmp / "evil.pth")
    try:
        official.load_checkpoint(small_model(), tmp / "evil.pth")
    finally:
        assert not (tmp / "mark").exists()


@case("truncated checkpoint", "corrupt", "cut.pth: damaged")
def _(tmp):
    torch.save({"bn": {"a": torch.zeros(1000)}, "decoder": {}}, tmp / "cut.pth")
    truncate(tmp / "cut.pth", 2000)
    official.load_checkpoint(small_model(), tmp / "cut.pth")


@case("checkpoint of something else", "wrong type", "other.pth: not of the official code; expected keys 'bn' and 'decoder'")
def _(tmp):
    torch.save({"state_dict": {}}, tmp / "other.pth")
    official.load_checkpoint(small_model(), tmp / "other.pth")


@case("checkpoint of another backbone", "wrong size", "other.pth: does not fit this model", "another backbone")
def _(tmp):
    torch.save({"bn": {"bn_layer.0.conv1.weight": torch.zeros(1)}, "decoder": {}}, tmp / "other.pth")
    official.load_checkpoint(small_model(), tmp / "other.pth")


@case("teacher with too few maps for the scales", "wrong size", "scales=(1, 2, 3): the teacher has 2 feature maps")
def _(tmp):
    model.build(config(image_size=64), TinyTeacher((4, 8)))


@case("teacher whose maps do not halve", "wrong size", "teacher: each feature map must be half the size of the one before")
def _(tmp):
    model.build(config(image_size=64), TinyTeacher(strides=(2, 1, 2)))


@case("custom teacher without a module", "missing", "teacher='custom': has no weights to load; pass your own module")
def _(tmp):
    teachers.load_teacher("custom")


# --- Results ------------------------------------------------------------------------------------------------------


def run_file(tmp, change):
    made = run(0.5)
    change(made)
    folder = tmp / "runs" / made["run_id"]
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(made))
    return made, folder


@case("folder without runs", "missing", "no run files (runs/*/result.json)")
def _(tmp):
    load(tmp)


@case("half a run file", "corrupt", "result.json: not JSON", "remove the run's folder and run it again")
def _(tmp):
    _, folder = run_file(tmp, lambda made: None)
    truncate(folder / "result.json", 500)
    load(tmp)


@case("run file without its metrics", "missing", "result.json: not a result of this version", "metrics")
def _(tmp):
    run_file(tmp, lambda made: made.pop("metrics"))
    load(tmp)


@case("metric above 1 in a run file", "wrong value", "result.json: not a result of this version", "image_auroc")
def _(tmp):
    run_file(tmp, lambda made: made["metrics"].update(image_auroc=1.5))
    load(tmp)


@case("markup in a run file's configuration", "hostile", "result.json: not a result of this version", "category")
def _(tmp):
    run_file(tmp, lambda made: made["config"].update(category="<script>"))
    load(tmp)


@case("another configuration under the same run id", "wrong value", "was made with another lr; remove it or give another label")
def _(tmp):
    cfg = Config.create(**BOTTLE)
    made, folder = run_file(tmp, lambda made: made.update(run_id=cfg.run_id, config=cfg.to_dict() | {"lr": 0.1}))
    where = made["provenance"]
    record.finished(tmp, cfg, teacher_sha256=where["teacher_sha256"], data_manifest=where["data_manifest"])


@case("kept maps with pickled objects", "hostile", "maps.npz: damaged, or holds something else than arrays")
def _(tmp):
    made, folder = run_file(tmp, lambda made: None)
    np.savez(folder / "maps.npz", scale_maps=np.array([Evil(tmp / "mark")], dtype=object))
    try:
        record.load_maps(folder)
    finally:
        assert not (tmp / "mark").exists()


@case("runs without maps for the explorer", "missing", "no run there kept maps of images with masks; give results/reference/demo or make")
def _(tmp):
    run_file(tmp, lambda made: None)
    explorer.explore(str(tmp))


@case("a script in a table that the report embeds", "hostile", "table5.html: not a table that the notebooks write", "remove it")
def _(tmp):
    run_file(tmp, lambda made: None)
    (tmp / "tables").mkdir()
    (tmp / "tables" / "table5.html").write_text("<table><thead><tr><th><script>alert(1)</script></th></tr></thead></table>")
    report.page(tmp)


@case("tables written outside the project", "hostile", "out_dir='../tables': must lie below results/")
def _(tmp):
    output_folder("out_dir", "../tables")


# --- Acquisition --------------------------------------------------------------------------------------------------


def tar_with(path, *members):
    """An archive of one small category and these members."""
    mvtec_folder(path.parent / "packed" / "nut")
    with tarfile.open(path, "w:gz") as tar:
        tar.add(path.parent / "packed" / "nut", "nut")
        for member in members:
            tar.addfile(member, io.BytesIO())
    return path


def member(name, kind=tarfile.REGTYPE, link=""):
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, link
    return found


def hostile_tar(what, found, *words):
    @case(what, "hostile", "a.tar.gz: member ", *words)
    def _(tmp):
        acquire.acquire(str(tar_with(tmp / "a.tar.gz", found)), tmp / "target")


hostile_tar("archive with ../", member("nut/../../evil"), "'nut/../../evil' would be written outside the target")
hostile_tar("archive with an absolute name", member("/etc/evil"), "'/etc/evil' would be written outside the target")
hostile_tar("archive with a link out of it", member("nut/link", tarfile.SYMTYPE, "/etc/passwd"), "'nut/link' is a link")
hostile_tar("archive with a hard link out of it", member("nut/link", tarfile.LNKTYPE, "../../x"), "'nut/link' is a link")
hostile_tar("archive with a device", member("nut/device", tarfile.CHRTYPE), "'nut/device' is a device")


@case("zip archive with ../", "hostile", "a.zip: member '../evil' would be written outside the target")
def _(tmp):
    with zipfile.ZipFile(tmp / "a.zip", "w") as packed:
        packed.writestr("../evil", "x")
    acquire.acquire(str(tmp / "a.zip"), tmp / "target")


@case("zip archive with a link", "hostile", "a.zip: member 'nut/link' is a link")
def _(tmp):
    link = zipfile.ZipInfo("nut/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp / "a.zip", "w") as packed:
        packed.writestr(link, "/etc/passwd")
    acquire.acquire(str(tmp / "a.zip"), tmp / "target")


@case("folder with a link in it", "hostile", "link.png: is a link or a device")
def _(tmp):
    mvtec_folder(tmp / "source/nut")
    (tmp / "source/nut/train/good/link.png").symlink_to("/etc/passwd")
    acquire.acquire(str(tmp / "source"), tmp / "target")


@case("source that is not there", "missing", "nowhere: no such file or folder")
def _(tmp):
    acquire.acquire(str(tmp / "nowhere"), tmp / "target")


@case("address without a hash", "missing", "an address needs --sha256, else")
def _(tmp):
    acquire.acquire("http://localhost/mvtec.tar.xz", tmp / "target")


@case("address that does not answer", "missing", "http://127.0.0.1:1/mvtec.tar.xz: cannot be downloaded")
def _(tmp):
    acquire.acquire("http://127.0.0.1:1/mvtec.tar.xz", tmp / "target", "0" * 64)


@case("archive with another hash", "corrupt", "a.tar.gz: sha256 is ", f"expected {'0' * 64}; fetch the archive again")
def _(tmp):
    (tmp / "a.tar.gz").write_bytes(b"something else")
    acquire.acquire(str(tmp / "a.tar.gz"), tmp / "target", "0" * 64)


@case("hash that is none", "wrong type", "sha256='abc': must be 64 hexadecimal digits")
def _(tmp):
    acquire.acquire(str(tmp), tmp / "target", "abc")


@case("truncated archive", "corrupt", "a.tar.gz: not a complete tar or zip archive", "fetch it again")
def _(tmp):
    truncate(tar_with(tmp / "a.tar.gz"), 3000)
    acquire.acquire(str(tmp / "a.tar.gz"), tmp / "target")


@case("web page named .tar.xz", "wrong type", "a.tar.xz: not a complete tar or zip archive")
def _(tmp):
    (tmp / "a.tar.xz").write_text("<html>please log in</html>")
    acquire.acquire(str(tmp / "a.tar.xz"), tmp / "target")


@case("archive of something else", "wrong type", "a.tar.gz: no MVTec layout in it")
def _(tmp):
    with tarfile.open(tmp / "a.tar.gz", "w:gz") as tar:
        tar.add(__file__, "cats/readme")
    acquire.acquire(str(tmp / "a.tar.gz"), tmp / "target")


@case("archive of half a category", "missing", "source: not complete", "bottle: 4 of 209 training and 4 of 83 test images; half-extracted?")
def _(tmp):
    mvtec_folder(tmp / "source/bottle")
    acquire.acquire(str(tmp / "source"), tmp / "target")


@case("archive of some categories", "missing", "source: 2 of 15 categories; missing: carpet, grid", "give --partial")
def _(tmp):
    with pytest.MonkeyPatch.context() as patch:  # small folders, the same words
        patch.setattr(acquire, "MVTEC_COUNTS", {name: [4, 4] for name in MVTEC_COUNTS})
        for name in ("bottle", "cable"):
            mvtec_folder(tmp / "source" / name)
        acquire.acquire(str(tmp / "source"), tmp / "target")


@case("two data sets in one source", "extra", "source: holds categories in a and in b; give one of them")
def _(tmp):
    for name in ("a/bottle", "b/cable"):
        mvtec_folder(tmp / "source" / name)
    acquire.acquire(str(tmp / "source"), tmp / "target")


@case("half-extracted target", "missing", "target: there already, but not complete (move it away", "bottle: no folder test")
def _(tmp):
    save(picture(), tmp / "target/bottle/train/good/000.png")
    acquire.acquire(str(tmp), tmp / "target")


@case("target with some of the categories", "missing", "without manifest.sha256 and without carpet, grid", "may be half-extracted")
def _(tmp):
    mvtec_folder(tmp / "target/nut")
    acquire.acquire(str(tmp), tmp / "target")


@case("file changed since it was acquired", "corrupt", "nut/train/good/000.png: sha256 is not the manifest's")
def _(tmp):
    mvtec_folder(tmp / "source/nut")
    acquire.acquire(str(tmp / "source"), tmp / "target")
    save(picture(seed=9), tmp / "target/nut/train/good/000.png")
    acquire.acquire(str(tmp / "source"), tmp / "target")


@case("target inside the source", "wrong value", "lies inside the source")
def _(tmp):
    acquire.acquire(str(tmp), tmp / "target")


@case("manifest with a path out of the folder", "hostile", "../../etc/passwd: missing", "nut/train/good/000.png: not in the manifest")
def _(tmp):
    (mvtec_folder(tmp / "source/nut").parent / "manifest.sha256").write_text(f"{'0' * 64}  ../../etc/passwd\n")
    acquire.acquire(str(tmp / "source"), tmp / "target")


@case("manifest of something else", "wrong type", "manifest.sha256, line 1: '<html>' is not `sha256  relative/path`")
def _(tmp):
    (mvtec_folder(tmp / "source/nut").parent / "manifest.sha256").write_text("<html>")
    acquire.acquire(str(tmp / "source"), tmp / "target")


@case(
    "no source", "missing", "no source for mvtec: give a local archive or folder of MVTec AD, or an http(s) address (make data SOURCE=...)"
)
def _(tmp):
    acquire.acquire("", tmp / "mvtec")


# --- Metrics ------------------------------------------------------------------------------------------------------

MAPS = {"masks": np.eye(4)[None], "maps": np.arange(16.0).reshape(1, 4, 4)}


@case("PRO to 30, not 0.3", "wrong value", "max_fpr=30: must be above 0 and at most 1")
def _(tmp):
    metrics.au_pro(**MAPS, max_fpr=30)


@case("grey masks for metrics", "wrong type", "labels and masks hold 0 and 1 only")
def _(tmp):
    metrics.pixel_metrics(masks=255 * MAPS["masks"], maps=MAPS["maps"])


@case("masks and maps of two sizes", "wrong size", "masks (1, 2, 4) and maps (1, 4, 4) must have one shape (N, H, W)")
def _(tmp):
    metrics.pixel_metrics(masks=MAPS["masks"][:, :2], maps=MAPS["maps"])


# --- Your own images (notebook 11) --------------------------------------------------------------------------------


def own_parameters(what, kind, given, *words):
    CASES.append(Case(f"own images: {what}", kind, words, lambda tmp: images.from_notebook(given)))


own_parameters("misspelt parameter", "extra", {"good_dri": "x"}, "did you mean 'good_dir'")
own_parameters("folder that arrives as a number", "wrong type", {"good_dir": 202401}, "good_dir=202401: ", "-r good_dir")
own_parameters("half an epoch", "wrong type", {"epochs": 1.5}, "epochs=1.5: expected int")
own_parameters("no epoch", "wrong value", {"epochs": 0}, "epochs=0: method 'reverse' needs 1 or more")
own_parameters("negative number of threads", "wrong value", {"threads": -1}, "threads=-1: must be 0 or greater")
own_parameters(
    "image size that no model file may hold", "wrong size", {"image_size": 2048}, "image_size=2048: must not be greater than 1024"
)
own_parameters("sigma that no model file may hold", "wrong value", {"sigma": 80.0}, "sigma=80.0: must not be greater than 64")
own_parameters("learning rate that is not a number", "wrong value", {"lr": float("nan")}, "lr=nan: must be greater than 0")
own_parameters("no false alarm allowed", "wrong value", {"false_alarm_rate": 0}, "false_alarm_rate=0.0: must lie above 0")
own_parameters("most images held out", "wrong value", {"held_out_share": 0.6}, "held_out_share=0.6: must lie above 0 and not above 0.5")
own_parameters("new images without good ones", "missing", {"new_dir": "new"}, "new_dir is given but good_dir is empty")
own_parameters("masks without bad images", "missing", {"good_dir": "good", "masks_dir": "m"}, "masks_dir is given but bad_dir is empty")
own_parameters("results outside the project", "hostile", {"out_dir": "../../x"}, "out_dir='../../x': must lie below results/")
own_parameters(
    "home of nobody", "missing", {"good_dir": "~no such user/x"}, "~no such user/x: no home folder of ~no such user is known here"
)


def own(what, kind, spoil, *words, **changes):
    """Notebook 11 on sound folders after `spoil(folder)`; changes: parameter -> value, of a folder relative to `folder`."""

    def use(tmp):
        spoil(folders(tmp))
        places = {name: str(tmp / value) for name, value in changes.items()}
        chosen = own_settings(tmp, **places)
        images.claim(Path(chosen.out_dir))
        images.collect(chosen)

    CASES.append(Case(f"own images: {what}", kind, words, use))


def nothing(folder):
    pass


def broken(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


own("good folder that holds the bad one", "wrong value", nothing, "bad_dir=bad: lies in good_dir=", good_dir="")
own("check folder that is the good one", "wrong value", nothing, "is the same folder as good_dir=good", check_dir="good")
own(
    "new folder that is a link into the good one",
    "wrong value",
    lambda f: (f / "new").symlink_to(f / "good"),
    "good_dir=good: is the same folder as new_dir=new",
    new_dir="new",
)
own("masks among the bad images", "wrong value", nothing, "masks_dir=bad/hole: lies in bad_dir=bad", masks_dir="bad/hole")
own("results among the good images", "wrong value", nothing, "out_dir=good/out: lies in good_dir=good", out_dir="good/out")
own("results behind a link", "wrong value", lambda f: (f / "x").symlink_to(f / "good"), "lies in good_dir=good", out_dir="x/out")
own("results in a file", "wrong type", lambda f: (f / "x").touch(), "out_dir='x': is a file; give a folder", out_dir="x")
own(
    "results that cannot be made",
    "wrong type",
    lambda f: (f / "x").touch(),
    "x/out: cannot be written (Not a directory); give another out_dir or allow writing there",
    out_dir="x/out",
)


@case("own images: a second run on the same results", "extra", "out: another run of this notebook writes there; wait until it is done")
def _(tmp):
    (tmp / "out").mkdir()
    with FileLock(tmp / "out" / ".lock"):
        images.claim(tmp / "out")


own("no folder", "missing", lambda f: (f / "good").rename(f / "elsewhere"), "good: no such folder; give an existing one")
own("one image too few", "missing", lambda f: (f / "good/00.png").unlink(), "good: 7 good images; at least 8 are needed")
own(
    "no bad images",
    "missing",
    lambda f: [p.unlink() for p in (f / "bad/hole").iterdir()],
    "bad: no images; add some, or leave bad_dir empty",
    "mask without an image",
)
own("truncated image", "corrupt", lambda f: truncate(f / "good/00.png", 200), "good/00.png: cannot be decoded", "replace the file")
own("text called jpg", "corrupt", lambda f: broken(f / "bad/x.jpg", b"hello"), "x.jpg: cannot be decoded")
own("file that is no image", "extra", lambda f: broken(f / "good/x.exe", b"MZ"), "x.exe: unexpected file", "move it away")
own("name that is not UTF-8", "corrupt", lambda f: broken(f / os.fsdecode(b"good/\xe9.png"), b"x"), "\\udce9.png: cannot be decoded")
own("two suffixes", "extra", lambda f: save(picture(seed=9), f / "good/00.bmp"), "00.bmp: another image has the same name")
own(
    "one picture good and bad",
    "extra",
    lambda f: save(picture((28, 44), seed=100), f / "good/x.png"),
    "bad/hole/00.png: the same picture as good/x.png; remove one of them",
)
own("no mask for an image", "missing", lambda f: (f / "masks/hole/01_mask.png").unlink(), "01.png: no mask", "or leave masks_dir empty")
own("mask of no image", "extra", lambda f: save(mask(), f / "masks/hole/09_mask.png"), "09_mask.png: mask without an image")
own("mask of another size", "wrong size", lambda f: save(mask(), f / "masks/hole/00_mask.png"), "mask is 40x32, its image is 28x44")
own(
    "empty mask",
    "wrong value",
    lambda f: save(mask((28, 44), (0, 0, 0, 0)), f / "masks/hole/00_mask.png"),
    "00_mask.png: mask is empty, but its image is in bad_dir",
)
own("broken mask", "corrupt", lambda f: broken(f / "masks/hole/00_mask.png", b"junk"), "00_mask.png: cannot be decoded")
own("image like a line", "wrong size", lambda f: save(picture((300, 9)), f / "good/x.png"), "x.png: 300x9 is too long and narrow")


def scored(what, kind, photo, *words):
    CASES.append(Case(f"photograph to score: {what}", kind, words, lambda tmp: judge().score(photo(tmp))))


scored("that is not there", "missing", lambda tmp: tmp / "none.jpg", "none.jpg: no such file")
scored("of 400 x 10 px", "wrong size", lambda tmp: picture((400, 10)), "image: 400x10 is too long and narrow")
scored("numbers from 0 to 1", "wrong type", lambda tmp: np.zeros((40, 40, 3)), "array (40, 40, 3) of float64: cannot be scored", "of uint8")
scored("channels first", "wrong size", lambda tmp: np.zeros((3, 40, 40), np.uint8), "array (3, 40, 40) of uint8: cannot be scored")
scored("a tensor", "wrong type", lambda tmp: torch.zeros(3, 40, 40), "Tensor: cannot be scored; give a file's name")


@case("ONNX without its package", "missing", "ONNX needs the package onnxruntime: pip install 'rdlib[onnx]'")
def _(tmp):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        onnx.difference(judge(), tmp / "model.onnx", [])


# --- A detector's model file --------------------------------------------------------------------------------------


def model_file(what, kind, spoil, *words):
    """Load the model file of a detector after `spoil(path)`."""

    def use(tmp):
        judge().save(tmp / "model.safetensors")
        spoil(tmp / "model.safetensors")
        try:
            detector.load(tmp / "model.safetensors", device="cpu")
        finally:
            assert not (tmp / "it_ran").exists()

    CASES.append(Case(f"model file: {what}", kind, ("model.safetensors: ", *words), use))


def rewrite(path, card=None, change=lambda tensors: tensors, config=None, sign=True):
    """Write the model file again with other parts; sign: with the right sha256 of the tensors."""
    tensors = change(load_file(path))
    with safe_open(path, framework="pt") as file:
        old = json.loads(file.metadata()["rdlib"])
    new = old | ({"tensors_sha256": detector.digest(tensors)} if sign else {}) | {"config": old["config"] | (config or {})} | (card or {})
    save_file(tensors, path, metadata={"rdlib": json.dumps(new)})


STEM = "ocbe.mff.paths.0.0.0.weight"
UNREADABLE, NO_CARD = "not a readable safetensors file", "its card cannot be read by this version of rdlib"

model_file("missing", "missing", lambda p: p.unlink(), "no such file; a detector is written by")
model_file("of no bytes", "corrupt", lambda p: p.write_bytes(b""), UNREADABLE, "copy it again")
model_file("truncated", "corrupt", lambda p: truncate(p, 90_000), UNREADABLE)
model_file("header of 2^63 bytes", "hostile", lambda p: p.write_bytes(b"\xff" * 7 + b"\x7f" + p.read_bytes()[8:]), UNREADABLE)
model_file("pickle that runs code", "hostile", lambda p: p.write_bytes(pickle.dumps(Evil(p.parent / "it_ran"))), UNREADABLE)
model_file("of another program", "wrong type", lambda p: save_file({"a": torch.zeros(2)}, p), "not one of rdlib's detectors")
model_file("list as card", "wrong type", lambda p: save_file({"a": torch.zeros(2)}, p, metadata={"rdlib": "[]"}), NO_CARD)
model_file("card of 100,000 levels", "hostile", lambda p: save_file({"a": torch.zeros(2)}, p, metadata={"rdlib": "[" * 100_000}), NO_CARD)
model_file(
    "a bit flipped", "corrupt", lambda p: p.write_bytes(p.read_bytes()[:-9] + b"\x55" + p.read_bytes()[-8:]), "damaged", "copy it again"
)
model_file("other tensors", "wrong value", lambda p: rewrite(p, change=lambda t: t | {STEM: t[STEM] + 1}, sign=False), "damaged")
model_file("tensor missing", "missing", lambda p: rewrite(p, change=lambda t: {k: t[k] for k in t if k != STEM}), "do not fit", STEM)
model_file("tensor too many", "extra", lambda p: rewrite(p, change=lambda t: t | {"code": torch.zeros(1)}), "do not fit", "code")
model_file(
    "tensor of another shape", "wrong size", lambda p: rewrite(p, change=lambda t: t | {STEM: t[STEM][:1].clone()}), "do not fit", STEM
)
model_file("of a later version", "wrong value", lambda p: rewrite(p, {"version": 2}), NO_CARD, "version")
model_file("of another rule of shape", "wrong value", lambda p: rewrite(p, {"geometry": "stretched"}), NO_CARD, "geometry")
model_file("unknown entry", "extra", lambda p: rewrite(p, {"code": "import os"}), NO_CARD)
model_file(
    "other teacher's weights",
    "wrong value",
    lambda p: rewrite(p, {"teacher_sha256": "0" * 64}),
    "was trained with other weights of efficientnet",
)
model_file("teacher of the user's own", "missing", lambda p: rewrite(p, config={"teacher": "custom"}), "has no weights to load")
model_file("teacher that is a path", "hostile", lambda p: rewrite(p, config={"teacher": "../x"}), "teacher='../x': must be one of")
model_file("image of 32,000 px", "hostile", lambda p: rewrite(p, config={"image_size": 32_000}), NO_CARD, "image_size")
model_file("image of 33 px", "wrong size", lambda p: rewrite(p, config={"image_size": 33}), "must be a multiple of 32")
model_file("sigma of 1e300", "hostile", lambda p: rewrite(p, config={"sigma": 1e300}), NO_CARD, "sigma")
model_file(
    "threshold that is not a number",
    "wrong value",
    lambda p: rewrite(p, {"threshold": {"value": float("nan"), "rate": 0.1, "count": 1, "expected": 0.5}}),
    NO_CARD,
    "NaN is not a number",
)


def test_a_model_file_is_read_if_its_parts_are_written_again_as_they_were(tmp_path):
    judge().save(tmp_path / "model.safetensors")
    rewrite(tmp_path / "model.safetensors")
    assert detector.load(tmp_path / "model.safetensors", device="cpu").threshold == judge().threshold


# --- Every case is checked, and the page is what was seen ---------------------------------------------------------


def message(use, tmp):
    """The message without what changes from place to place."""
    with pytest.raises(InputError) as caught:
        use(tmp)
    text = str(caught.value).replace(f"{tmp}/", "").replace(str(tmp), "FOLDER").replace(str(tmp.parent), "FOLDER")
    return text


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    """What -> message, each in a folder of its own."""
    return {c.what: message(c.use, tmp_path_factory.mktemp("case")) for c in CASES}


def test_there_are_forty_of_every_kind():
    assert len(CASES) >= 40 and len({c.what for c in CASES}) == len(CASES)
    assert {c.kind for c in CASES} == set(KINDS)


@pytest.mark.parametrize("what", [c.what for c in CASES])
def test_the_message_names_what_is_wrong(what, messages):
    (words,) = [c.words for c in CASES if c.what == what]
    for part in words:
        assert part in messages[what], messages[what]


@pytest.mark.parametrize("what", [c.what for c in CASES])
def test_the_message_is_short_and_plain(what, messages):
    """A sentence or two; a list of problems has a line each. No class names, no traceback, no empty words."""
    lines = messages[what].splitlines()
    assert all(20 <= len(line) <= 420 for line in lines), [len(line) for line in lines]
    assert not any(word in messages[what] for word in ("Traceback", "object at 0x", "Error(", "<class"))


def page(messages):
    rows = [f"| {i} | {c.kind} | {c.what} | {cell(messages[c.what])} |" for i, c in enumerate(CASES, start=1)]
    head = [
        "# Bad inputs and what is said",
        "",
        "Made by `tests/test_bad_inputs.py`, which produces each of these inputs and compares its message with this page "
        "(`RENEW=1` renews it). Temporary folders are left out.",
        "",
        "| | kind | input | message |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *rows]) + "\n"


def cell(text):
    for old, new in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("*", "\\*"), ("\n", "<br>")):
        text = text.replace(old, new)
    return text


def test_the_page_is_what_was_seen(messages):
    made = page(messages)
    if os.environ.get("RENEW"):
        PAGE.write_text(made, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == made

"""Bad inputs and the message each gets: this file makes every one, and tests/bad_inputs.md is what must be said.

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
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from filelock import FileLock
from helpers import REPO, Evil, TinyTeacher, config, mask, mvtec_folder, picture, save
from made_up_runs import run
from own_folders import folders, judge, own_settings
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torchvision.models import get_model

from rdlib import data, inference, metrics, model, official, teachers
from rdlib.batch import acquire, reference
from rdlib.config import MVTEC_COUNTS, Config
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
    """what: is wrong; kind: of KINDS; use: does it, in an empty folder. What is said then is its row in bad_inputs.md."""

    what: str
    kind: str
    use: Callable[[Path], object]


CASES: list[Case] = []


def refused(what, kind, use):
    CASES.append(Case(what, kind, use))


def case(what, kind):
    """Register the decorated function `use(tmp)` as a case."""
    return lambda use: refused(what, kind, use)


# --- A data folder in MVTec layout --------------------------------------------------------------------------------


def after_spoiling(spoil, **params):
    """Load a folder of four training and four test images after `spoil(folder)`."""

    def use(tmp):
        folder = mvtec_folder(tmp / "made_up")
        spoil(folder)
        return data.load(config(**params), tmp)

    return use


def folder_case(what, kind, spoil, **params):
    refused(what, kind, after_spoiling(spoil, **params))


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


@case("a fault in another category than the one tested, with `train_on=all`", "missing")
def _(tmp):
    mvtec_folder(tmp / "made_up")
    (mvtec_folder(tmp / "other") / "ground_truth/hole/000_mask.png").unlink()
    data.load(config(train_on="all"), tmp)


refused("no `data_root` for MVTec", "missing", lambda tmp: data.load(config(), ""))
refused("category that is not there", "missing", lambda tmp: data.load(config(), tmp))


@case("data audit of a category that is not there", "missing")
def _(tmp):
    mvtec_folder(tmp / "nut")
    audit.category_folders("mvtec", tmp, "screw")


folder_case("no test folder", "missing", lambda f: shutil.rmtree(f / "test"))
folder_case("no training images", "missing", lambda f: [p.unlink() for p in (f / "train/good").iterdir()])
folder_case("no mask for an image", "missing", lambda f: (f / "ground_truth/hole/001_mask.png").unlink())
folder_case("no masks at all", "missing", lambda f: shutil.rmtree(f / "ground_truth"))
folder_case("empty folder of a defect", "missing", lambda f: (f / "test/crack").mkdir())
folder_case("truncated image", "corrupt", lambda f: truncate(f / "train/good/001.png", 60))
folder_case("image of no bytes", "corrupt", lambda f: truncate(f / "test/good/000.png", 0))
folder_case("web page named .png", "corrupt", lambda f: (f / "test/good/000.png").write_text("<html>please log in</html>"))
folder_case("truncated mask", "corrupt", lambda f: truncate(f / "ground_truth/hole/000_mask.png", 40))
folder_case("image of 3.6 gigapixels in 100 bytes", "hostile", lambda f: oversize(f / "train/good/000.png"))
folder_case("mask of another size", "wrong size", lambda f: save(mask((32, 40)), f / "ground_truth/hole/000_mask.png"))
folder_case("empty mask of an anomalous image", "wrong value", lambda f: save(mask(box=(0, 0, 0, 0)), f / "ground_truth/hole/000_mask.png"))
folder_case("one training image at 32 px", "wrong size", keep_one, teacher="efficientnet_lite0")
folder_case("mask without an image", "extra", lambda f: save(mask(), f / "ground_truth/hole/007_mask.png"))
folder_case("masks of a defect without images", "extra", lambda f: save(mask(), f / "ground_truth/crack/000_mask.png"))
folder_case("masks of normal images", "extra", lambda f: save(mask(), f / "ground_truth/good/000_mask.png"))
folder_case("no test images", "missing", lambda f: [p.unlink() for p in f.glob("*/*/*") if "train" not in p.parts])
folder_case("GIF among the images", "extra", lambda f: (f / "train/good/000.gif").touch())
folder_case("folder of images among the images", "extra", lambda f: save(picture(), f / "train/good/more/000.png"))
folder_case("pixels of signed 16 bits", "wrong type", lambda f: signed_tiff(f / "train/good/004.tif"))
folder_case("pixels of floating-point numbers", "wrong type", lambda f: save(Image.new("F", (40, 32), 0.5), f / "train/good/004.tif"))
folder_case("image beside the defects' folders", "extra", lambda f: save(picture(), f / "test/000.png"))
folder_case("image at the top of a category", "extra", lambda f: save(picture(), f / "000.png"))
folder_case("anomalous images to train on", "extra", lambda f: save(picture(), f / "train/bad/0.png"))
folder_case("unexpected folder in a category", "extra", lambda f: save(picture(), f / "test (copy)/good/0.png"))
folder_case("one image in two formats", "extra", lambda f: save(picture(), f / "test/hole/001.bmp"))


# --- Data sets for novelty detection ------------------------------------------------------------------------------


def mnist_names(tmp, suffix=""):
    """All four files, empty."""
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp / f"{name}-ubyte{suffix}").touch()


def novelty(name, folder):
    return data.load(Config.create(dataset=name, normal_class=3), folder)


@case("folder of MNIST with some files", "missing")
def _(tmp):
    for name in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
        (tmp / name).touch()
    novelty("mnist", tmp)


@case("truncated gzip file of MNIST", "corrupt")
def _(tmp):
    mnist_names(tmp, ".gz")
    (tmp / "train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b\x08 cut short")
    novelty("mnist", tmp)


@case("web page saved as a file of MNIST", "corrupt")
def _(tmp):
    mnist_names(tmp)
    (tmp / "train-images-idx3-ubyte").write_text("<html>please log in</html>")
    novelty("mnist", tmp)


@case("test labels of MNIST in place of training labels", "wrong value")
def _(tmp):
    contents = [bytes([i]) * (18 if i % 2 else 16 + 784) for i in range(4)]
    sums = {name: hashlib.md5(content).hexdigest() for name, content in zip(IDX_FILES["mnist"], contents)}
    for name, content in zip(sums, [contents[i] for i in (0, 3, 2, 3)]):
        (tmp / name).write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:  # small files, the same words
        patch.setitem(IDX_FILES, "mnist", sums)
        novelty("mnist", tmp)


@case("archive of CIFAR-10 that would write elsewhere", "hostile")
def _(tmp):
    tar_with(tmp / "cifar-10-python.tar.gz", tarfile.TarInfo("../../evil"))
    novelty("cifar10", tmp)


refused("empty folder for CIFAR-10", "missing", lambda tmp: novelty("cifar10", tmp))


# --- Parameters ---------------------------------------------------------------------------------------------------

BOTTLE = {"dataset": "mvtec", "category": "bottle"}


def parameters(what, kind, given):
    refused(what, kind, lambda tmp: from_notebook(BOTTLE | given))


parameters("misspelt parameter", "extra", {"epoch": 1})
parameters("word for a number", "wrong type", {"epochs": "ten"})
parameters("a precision that is none", "wrong value", {"precision": "fp16"})
parameters("number for a word", "wrong type", {"teacher": 18})
parameters("`-p category 2024_01`, which papermill turns into 202401", "wrong type", {"category": 202401})
parameters("list for a word", "wrong type", {"category": ["bottle"]})
parameters("weights file for a teacher that has its own", "extra", {"teacher": "efficientnet_lite0", "weights": "own.pth"})
parameters("weights file that is not there", "missing", {"weights": "results/nowhere.pth"})
parameters("word for yes or no", "wrong type", {"conv1x1": "yes"})
parameters("unknown data set", "wrong value", {"dataset": "imagenet"})
parameters("no category", "missing", {"category": ""})
parameters("image size that is no multiple of 32", "wrong size", {"image_size": 100})
parameters("learning rate that is not a number", "wrong value", {"lr": float("nan")})
parameters(
    "one model for all classes of a novelty set",
    "wrong value",
    {"train_on": "all", "dataset": "digits", "category": None, "normal_class": 3},
)
parameters("one model for all of a method that trains none", "wrong value", {"train_on": "all", "method": "padim", "epochs": 0})
parameters("a look at one category's test set while training for all", "wrong value", {"train_on": "all", "evaluate_every": 2})
parameters("negative number of epochs", "wrong value", {"epochs": -1})
parameters("negative number of threads", "wrong value", {"threads": -2})
parameters("scales that are none", "wrong value", {"scales": "1;2"})
parameters("scales in the wrong order", "wrong value", {"scales": "3,1"})
parameters("class of a data set that has none", "extra", {"normal_class": 3})
parameters("no class 12 of ten", "wrong value", {"dataset": "mnist", "normal_class": 12, "category": ""})
parameters("batches of one at 32 px", "wrong size", {"image_size": 32, "batch_size": 1})
parameters("run id too long for a file name", "wrong size", {"label": "x" * 300})
parameters("category that is a path", "hostile", {"category": "../../etc"})
parameters("code in a parameter", "hostile", {"label": "__import__('os').system('id')"})
parameters("markup in a parameter", "hostile", {"experiment": "<script>"})
parameters("results outside the project", "hostile", {"out_dir": "../../x"})
parameters("results among the sources", "hostile", {"out_dir": "rdlib"})
parameters("results over the reference", "hostile", {"out_dir": "results/reference/demo"})
parameters("cache outside the project", "hostile", {"cache_dir": "../x"})
parameters("absolute path that hides its place", "hostile", {"out_dir": "/data/../etc"})
parameters("no folder for results", "missing", {"out_dir": ""})


@case("device that is no device", "wrong value")
def _(tmp):
    with pytest.MonkeyPatch.context() as patch:  # the same page on every machine
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(torch.backends.mps, "is_available", lambda: False)
        inference.choose_device("tpu")


refused("unknown profile", "wrong value", lambda tmp: plan.runs("papper"))
refused("profile that is a path", "hostile", lambda tmp: reference.renew("../../x"))
refused("`DATA` that is not there", "missing", lambda tmp: plan.find_data(str(tmp / "nowhere")))
refused("`DATA` of somebody unknown", "missing", lambda tmp: plan.find_data("~nobody_of_this_name/x"))


@case("`DATA` that holds no data set", "missing")
def _(tmp):
    mvtec_folder(tmp / "made_up")
    raise InputError(*plan.missing("cpu", str(tmp / "made_up")))  # the Snakefile ends with these lines


# --- Weights and checkpoints --------------------------------------------------------------------------------------


def small_model():
    return model.build(config(image_size=64), TinyTeacher())


def own_teacher(tmp, change=lambda state, _: state):
    """From a weights file with torchvision's tensors of ResNet-18 through layer3, after `change`."""
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in get_model("resnet18").state_dict().items() if not k.startswith(("layer4", "fc"))}
    torch.save(change({k: torch.tensor(0.0).expand(shape) for k, shape in shapes.items()}, tmp), tmp / "own.pth")
    return teachers.load_teacher("resnet18", weights=tmp / "own.pth")[0]


def own_weights(what, kind, change):
    refused(what, kind, lambda tmp: own_teacher(tmp, change))


refused("weights that are not there", "missing", lambda tmp: teachers.load_teacher("resnet18", weights=tmp / "nowhere.pth"))


@case("weights in torch's cache that are not the published ones", "corrupt")
def _(tmp):
    path = tmp / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(tmp))
        teachers.load_teacher("resnet18")


@case("truncated weights", "corrupt")
def _(tmp):
    torch.save({"conv1.weight": torch.zeros(1000)}, tmp / "cut.pth")
    truncate(tmp / "cut.pth", 2000)
    teachers.load_teacher("resnet18", weights=tmp / "cut.pth")


own_weights("weights with code in them", "hostile", lambda s, tmp: {"model": Evil(tmp / "mark")})
own_weights("weights of another network", "wrong size", lambda s, _: s | {"layer1.0.conv3.weight": torch.zeros(1)})
own_weights("weights that end before layer3", "missing", lambda s, _: {k: v for k, v in s.items() if "layer3" not in k})
own_weights("weights that are no tensors", "wrong type", lambda s, _: s | {"conv1.weight": "text"})
own_weights("weights that are not finite", "wrong value", lambda s, _: s | {"bn1.bias": torch.full((64,), torch.nan)})


refused(
    "weights through layer3 for a bottleneck that needs layer4",
    "missing",
    lambda tmp: model.build(config(bottleneck="oce"), own_teacher(tmp)),
)
refused("weights for a teacher that has its own", "extra", lambda tmp: teachers.load_teacher("efficientnet_lite0", weights="w.pth"))


@case("teacher of timm without timm", "missing")
def _(tmp):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "timm", None)
        teachers.load_teacher("timm/resnet34")


def of_timm(what, kind, name, **state):
    def use(tmp):
        torch.save(state, tmp / "w.pth")
        teachers.load_teacher(name, weights=tmp / "w.pth")

    refused(what, kind, use)


of_timm("name that timm does not know", "wrong value", "timm/resnet43")
of_timm("tag that timm does not know", "wrong value", "timm/resnet34.a9_in1k")
of_timm("ViT as a teacher", "wrong size", "timm/vit_tiny_patch16_224")


refused("CNN of timm without a map at 1/4", "wrong size", lambda tmp: teachers.timm_teacher("timm/convmixer_768_32"))
refused("CNN of timm that takes multiples of 128 px only", "wrong size", lambda tmp: teachers.timm_teacher("timm/halonet_h1"))


of_timm("weights of another network of timm", "wrong size", "timm/test_resnet", weight=torch.zeros(1))


@case("damaged safetensors of a teacher", "corrupt")
def _(tmp):
    (tmp / "model.safetensors").write_bytes(b"something else")
    teachers.load_teacher("timm/test_resnet", weights=tmp / "model.safetensors")


refused("weights of timm that are not there", "missing", lambda tmp: teachers.load_teacher("timm/test_resnet", weights=tmp / "nowhere.pth"))


@case("published weights of timm without a network", "missing")
def _(tmp):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.try_to_load_from_cache", lambda **_: None)
        patch.setattr("huggingface_hub.hf_hub_download", lambda **_: urlopen("nowhere"))
        teachers.load_teacher("timm/test_resnet")


refused("checkpoint that is not there", "missing", lambda tmp: official.load_checkpoint(small_model(), tmp / "nowhere.pth"))


@case("checkpoint with code in it", "hostile")
def _(tmp):
    torch.save({"bn": Evil(tmp / "mark"), "decoder": {}}, tmp / "evil.pth")
    try:
        official.load_checkpoint(small_model(), tmp / "evil.pth")
    finally:
        assert not (tmp / "mark").exists()


@case("truncated checkpoint", "corrupt")
def _(tmp):
    torch.save({"bn": {"a": torch.zeros(1000)}, "decoder": {}}, tmp / "cut.pth")
    truncate(tmp / "cut.pth", 2000)
    official.load_checkpoint(small_model(), tmp / "cut.pth")


@case("checkpoint of something else", "wrong type")
def _(tmp):
    torch.save({"state_dict": {}}, tmp / "other.pth")
    official.load_checkpoint(small_model(), tmp / "other.pth")


@case("checkpoint of another backbone", "wrong size")
def _(tmp):
    torch.save({"bn": {"bn_layer.0.conv1.weight": torch.zeros(1)}, "decoder": {}}, tmp / "other.pth")
    official.load_checkpoint(small_model(), tmp / "other.pth")


refused("teacher with too few maps for the scales", "wrong size", lambda tmp: model.build(config(image_size=64), TinyTeacher((4, 8))))
refused("teacher whose maps do not halve", "wrong size", lambda tmp: model.build(config(image_size=64), TinyTeacher(strides=(2, 1, 2))))
refused("custom teacher without a module", "missing", lambda tmp: teachers.load_teacher("custom"))


# --- Results ------------------------------------------------------------------------------------------------------


def run_file(tmp, change):
    made = run(0.5)
    change(made)
    folder = tmp / "runs" / made["run_id"]
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(made))
    return made, folder


refused("folder without runs", "missing", lambda tmp: load(tmp))


@case("half a run file", "corrupt")
def _(tmp):
    _, folder = run_file(tmp, lambda made: None)
    truncate(folder / "result.json", 500)
    load(tmp)


@case("run file without its metrics", "missing")
def _(tmp):
    run_file(tmp, lambda made: made.pop("metrics"))
    load(tmp)


@case("metric above 1 in a run file", "wrong value")
def _(tmp):
    run_file(tmp, lambda made: made["metrics"].update(image_auroc=1.5))
    load(tmp)


@case("markup in a run file's configuration", "hostile")
def _(tmp):
    run_file(tmp, lambda made: made["config"].update(category="<script>"))
    load(tmp)


@case("another configuration under the same run id", "wrong value")
def _(tmp):
    cfg = Config.create(**BOTTLE)
    made, folder = run_file(tmp, lambda made: made.update(run_id=cfg.run_id, config=cfg.to_dict() | {"lr": 0.1}))
    where = made["provenance"]
    record.finished(tmp, cfg, teacher_sha256=where["teacher_sha256"], data_manifest=where["data_manifest"])


@case("kept maps with pickled objects", "hostile")
def _(tmp):
    made, folder = run_file(tmp, lambda made: None)
    np.savez(folder / "maps.npz", scale_maps=np.array([Evil(tmp / "mark")], dtype=object))
    try:
        record.load_maps(folder)
    finally:
        assert not (tmp / "mark").exists()


@case("runs without maps for the explorer", "missing")
def _(tmp):
    run_file(tmp, lambda made: None)
    explorer.explore(str(tmp))


@case("a script in a table that the report embeds", "hostile")
def _(tmp):
    run_file(tmp, lambda made: None)
    (tmp / "tables").mkdir()
    (tmp / "tables" / "table5.html").write_text("<table><thead><tr><th><script>alert(1)</script></th></tr></thead></table>")
    report.page(tmp)


refused("tables written outside the project", "hostile", lambda tmp: output_folder("out_dir", "../tables"))


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


def hostile_tar(what, found):
    refused(what, "hostile", lambda tmp: acquire.acquire(str(tar_with(tmp / "a.tar.gz", found)), tmp / "target"))


hostile_tar("archive with ../", member("nut/../../evil"))
hostile_tar("archive with an absolute name", member("/etc/evil"))
hostile_tar("archive with a link out of it", member("nut/link", tarfile.SYMTYPE, "/etc/passwd"))
hostile_tar("archive with a hard link out of it", member("nut/link", tarfile.LNKTYPE, "../../x"))
hostile_tar("archive with a device", member("nut/device", tarfile.CHRTYPE))


@case("zip archive with ../", "hostile")
def _(tmp):
    with zipfile.ZipFile(tmp / "a.zip", "w") as packed:
        packed.writestr("../evil", "x")
    acquire.acquire(str(tmp / "a.zip"), tmp / "target")


@case("zip archive with a link", "hostile")
def _(tmp):
    link = zipfile.ZipInfo("nut/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp / "a.zip", "w") as packed:
        packed.writestr(link, "/etc/passwd")
    acquire.acquire(str(tmp / "a.zip"), tmp / "target")


@case("folder with a link in it", "hostile")
def _(tmp):
    mvtec_folder(tmp / "source/nut")
    (tmp / "source/nut/train/good/link.png").symlink_to("/etc/passwd")
    acquire.acquire(str(tmp / "source"), tmp / "target")


refused("source that is not there", "missing", lambda tmp: acquire.acquire(str(tmp / "nowhere"), tmp / "target"))
refused("address without a hash", "missing", lambda tmp: acquire.acquire("http://localhost/mvtec.tar.xz", tmp / "target"))
refused("address that does not answer", "missing", lambda tmp: acquire.acquire("http://127.0.0.1:1/mvtec.tar.xz", tmp / "target", "0" * 64))


@case("archive with another hash", "corrupt")
def _(tmp):
    (tmp / "a.tar.gz").write_bytes(b"something else")
    acquire.acquire(str(tmp / "a.tar.gz"), tmp / "target", "0" * 64)


refused("hash that is none", "wrong type", lambda tmp: acquire.acquire(str(tmp), tmp / "target", "abc"))


@case("truncated archive", "corrupt")
def _(tmp):
    truncate(tar_with(tmp / "a.tar.gz"), 3000)
    acquire.acquire(str(tmp / "a.tar.gz"), tmp / "target")


@case("web page named .tar.xz", "wrong type")
def _(tmp):
    (tmp / "a.tar.xz").write_text("<html>please log in</html>")
    acquire.acquire(str(tmp / "a.tar.xz"), tmp / "target")


@case("archive of something else", "wrong type")
def _(tmp):
    with tarfile.open(tmp / "a.tar.gz", "w:gz") as tar:
        tar.add(__file__, "cats/readme")
    acquire.acquire(str(tmp / "a.tar.gz"), tmp / "target")


@case("archive of half a category", "missing")
def _(tmp):
    mvtec_folder(tmp / "source/bottle")
    acquire.acquire(str(tmp / "source"), tmp / "target")


@case("archive of some categories", "missing")
def _(tmp):
    with pytest.MonkeyPatch.context() as patch:  # small folders, the same words
        patch.setattr(acquire, "MVTEC_COUNTS", {name: (4, 4) for name in MVTEC_COUNTS})
        for name in ("bottle", "cable"):
            mvtec_folder(tmp / "source" / name)
        acquire.acquire(str(tmp / "source"), tmp / "target")


@case("two data sets in one source", "extra")
def _(tmp):
    for name in ("a/bottle", "b/cable"):
        mvtec_folder(tmp / "source" / name)
    acquire.acquire(str(tmp / "source"), tmp / "target")


@case("half-extracted target", "missing")
def _(tmp):
    save(picture(), tmp / "target/bottle/train/good/000.png")
    acquire.acquire(str(tmp), tmp / "target")


@case("target with some of the categories", "missing")
def _(tmp):
    mvtec_folder(tmp / "target/nut")
    acquire.acquire(str(tmp), tmp / "target")


@case("file changed since it was acquired", "corrupt")
def _(tmp):
    mvtec_folder(tmp / "source/nut")
    acquire.acquire(str(tmp / "source"), tmp / "target")
    save(picture(seed=9), tmp / "target/nut/train/good/000.png")
    acquire.acquire(str(tmp / "source"), tmp / "target")


refused("target inside the source", "wrong value", lambda tmp: acquire.acquire(str(tmp), tmp / "target"))


@case("manifest with a path out of the folder", "hostile")
def _(tmp):
    (tmp / "manifest").write_text(f"{'0' * 64}  ../../etc/passwd\n")
    acquire.acquire(str(tmp), tmp.parent / "target", "", tmp / "manifest")


refused("no source", "missing", lambda tmp: acquire.acquire("", tmp / "mvtec"))
refused("manifest that is not there", "missing", lambda tmp: acquire.acquire(str(tmp), tmp.parent / "target", "", tmp / "nowhere"))


# --- Metrics ------------------------------------------------------------------------------------------------------

MAPS = {"masks": np.eye(4)[None], "maps": np.arange(16.0).reshape(1, 4, 4)}


refused("PRO to 30, not 0.3", "wrong value", lambda tmp: metrics.au_pro(**MAPS, max_fpr=30))
refused("labels of other images for AUPIMO", "wrong value", lambda tmp: metrics.pixel_metrics(**MAPS, labels=[0, 1]))
refused("grey masks for metrics", "wrong type", lambda tmp: metrics.pixel_metrics(masks=255 * MAPS["masks"], maps=MAPS["maps"]))
refused("masks and maps of two sizes", "wrong size", lambda tmp: metrics.pixel_metrics(masks=MAPS["masks"][:, :2], maps=MAPS["maps"]))


# --- Your own images (notebook 11) --------------------------------------------------------------------------------


def own_parameters(what, kind, given):
    refused(f"own images: {what}", kind, lambda tmp: images.from_notebook(given))


own_parameters("misspelt parameter", "extra", {"good_dri": "x"})
own_parameters("folder that arrives as a number", "wrong type", {"good_dir": 202401})
own_parameters("half an epoch", "wrong type", {"epochs": 1.5})
own_parameters("no epoch", "wrong value", {"epochs": 0})
own_parameters("negative number of threads", "wrong value", {"threads": -1})
own_parameters("image size that no model file may hold", "wrong size", {"image_size": 2048})
own_parameters("sigma that no model file may hold", "wrong value", {"sigma": 80.0})
own_parameters("learning rate that is not a number", "wrong value", {"lr": float("nan")})
own_parameters("no false alarm allowed", "wrong value", {"false_alarm_rate": 0})
own_parameters("most images held out", "wrong value", {"held_out_share": 0.6})
own_parameters("new images without good ones", "missing", {"new_dir": "new"})
own_parameters("masks without bad images", "missing", {"good_dir": "good", "masks_dir": "m"})
own_parameters("results outside the project", "hostile", {"out_dir": "../../x"})
own_parameters("home of nobody", "missing", {"good_dir": "~no such user/x"})


def own(what, kind, spoil, **changes):
    """Notebook 11 on sound folders after `spoil(folder)`; changes: parameter -> value, of a folder relative to `folder`."""

    def use(tmp):
        spoil(folders(tmp))
        places = {name: str(tmp / value) for name, value in changes.items()}
        chosen = own_settings(tmp, **places)
        images.claim(Path(chosen.out_dir))
        images.collect(chosen)

    refused(f"own images: {what}", kind, use)


def nothing(folder):
    pass


def broken(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


own("good folder that holds the bad one", "wrong value", nothing, good_dir="")
own("check folder that is the good one", "wrong value", nothing, check_dir="good")
own("new folder that is a link into the good one", "wrong value", lambda f: (f / "new").symlink_to(f / "good"), new_dir="new")
own("masks among the bad images", "wrong value", nothing, masks_dir="bad/hole")
own("results among the good images", "wrong value", nothing, out_dir="good/out")
own("results behind a link", "wrong value", lambda f: (f / "x").symlink_to(f / "good"), out_dir="x/out")
own("results in a file", "wrong type", lambda f: (f / "x").touch(), out_dir="x")
own("results that cannot be made", "wrong type", lambda f: (f / "x").touch(), out_dir="x/out")


@case("own images: a second run on the same results", "extra")
def _(tmp):
    (tmp / "out").mkdir()
    with FileLock(tmp / "out" / ".lock"):
        images.claim(tmp / "out")


own("no folder", "missing", lambda f: (f / "good").rename(f / "elsewhere"))
own("one image too few", "missing", lambda f: (f / "good/00.png").unlink())
own("no bad images", "missing", lambda f: [p.unlink() for p in (f / "bad/hole").iterdir()])
own("truncated image", "corrupt", lambda f: truncate(f / "good/00.png", 200))
own("text called jpg", "corrupt", lambda f: broken(f / "bad/x.jpg", b"hello"))
own("file that is no image", "extra", lambda f: broken(f / "good/x.exe", b"MZ"))
own("name that is not UTF-8", "corrupt", lambda f: broken(f / os.fsdecode(b"good/\xe9.png"), b"x"))
own("two suffixes", "extra", lambda f: save(picture(seed=9), f / "good/00.bmp"))
own("one picture good and bad", "extra", lambda f: save(picture((28, 44), seed=100), f / "good/x.png"))
own("no mask for an image", "missing", lambda f: (f / "masks/hole/01_mask.png").unlink())
own("mask of no image", "extra", lambda f: save(mask(), f / "masks/hole/09_mask.png"))
own("mask of another size", "wrong size", lambda f: save(mask(), f / "masks/hole/00_mask.png"))
own("empty mask", "wrong value", lambda f: save(mask((28, 44), (0, 0, 0, 0)), f / "masks/hole/00_mask.png"))
own("broken mask", "corrupt", lambda f: broken(f / "masks/hole/00_mask.png", b"junk"))
own("image like a line", "wrong size", lambda f: save(picture((300, 9)), f / "good/x.png"))


def scored(what, kind, photo):
    refused(f"photograph to score: {what}", kind, lambda tmp: judge().score(photo(tmp)))


scored("that is not there", "missing", lambda tmp: tmp / "none.jpg")
scored("of 400 x 10 px", "wrong size", lambda tmp: picture((400, 10)))
scored("numbers from 0 to 1", "wrong type", lambda tmp: np.zeros((40, 40, 3)))
scored("channels first", "wrong size", lambda tmp: np.zeros((3, 40, 40), np.uint8))
scored("a tensor", "wrong type", lambda tmp: torch.zeros(3, 40, 40))


@case("ONNX without its package", "missing")
def _(tmp):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        onnx.difference(judge(), tmp / "model.onnx", [])


# --- A detector's model file --------------------------------------------------------------------------------------


def model_file(what, kind, spoil):
    """Load the model file of a detector after `spoil(path)`."""

    def use(tmp):
        judge().save(tmp / "model.safetensors")
        spoil(tmp / "model.safetensors")
        try:
            detector.load(tmp / "model.safetensors", device="cpu")
        finally:
            assert not (tmp / "it_ran").exists()

    refused(f"model file: {what}", kind, use)


def rewrite(path, card=None, change=lambda tensors: tensors, config=None, sign=True):
    """Write the model file again with other parts; sign: with the right sha256 of the tensors."""
    tensors = change(load_file(path))
    with safe_open(path, framework="pt") as file:
        old = json.loads(file.metadata()["rdlib"])
    new = old | ({"tensors_sha256": detector.digest(tensors)} if sign else {}) | {"config": old["config"] | (config or {})} | (card or {})
    save_file(tensors, path, metadata={"rdlib": json.dumps(new)})


STEM = "ocbe.mff.paths.0.0.0.weight"

model_file("missing", "missing", lambda p: p.unlink())
model_file("of no bytes", "corrupt", lambda p: p.write_bytes(b""))
model_file("truncated", "corrupt", lambda p: truncate(p, 90_000))
model_file("header of 2^63 bytes", "hostile", lambda p: p.write_bytes(b"\xff" * 7 + b"\x7f" + p.read_bytes()[8:]))
model_file("pickle that runs code", "hostile", lambda p: p.write_bytes(pickle.dumps(Evil(p.parent / "it_ran"))))
model_file("of another program", "wrong type", lambda p: save_file({"a": torch.zeros(2)}, p))
model_file("list as card", "wrong type", lambda p: save_file({"a": torch.zeros(2)}, p, metadata={"rdlib": "[]"}))
model_file("card of 100,000 levels", "hostile", lambda p: save_file({"a": torch.zeros(2)}, p, metadata={"rdlib": "[" * 100_000}))
model_file("a bit flipped", "corrupt", lambda p: p.write_bytes(p.read_bytes()[:-9] + b"\x55" + p.read_bytes()[-8:]))
model_file("other tensors", "wrong value", lambda p: rewrite(p, change=lambda t: t | {STEM: t[STEM] + 1}, sign=False))
model_file("tensor missing", "missing", lambda p: rewrite(p, change=lambda t: {k: t[k] for k in t if k != STEM}))
model_file("tensor too many", "extra", lambda p: rewrite(p, change=lambda t: t | {"code": torch.zeros(1)}))
model_file("tensor of another shape", "wrong size", lambda p: rewrite(p, change=lambda t: t | {STEM: t[STEM][:1].clone()}))
model_file("of a later version", "wrong value", lambda p: rewrite(p, {"version": 2}))
model_file("of another rule of shape", "wrong value", lambda p: rewrite(p, {"geometry": "stretched"}))
model_file("unknown entry", "extra", lambda p: rewrite(p, {"code": "import os"}))
model_file("other teacher's weights", "wrong value", lambda p: rewrite(p, {"teacher_sha256": "0" * 64}))
model_file("teacher of the user's own", "missing", lambda p: rewrite(p, config={"teacher": "custom"}))
model_file("teacher that is a path", "hostile", lambda p: rewrite(p, config={"teacher": "../x"}))
model_file("image of 32,000 px", "hostile", lambda p: rewrite(p, config={"image_size": 32_000}))
model_file("image of 33 px", "wrong size", lambda p: rewrite(p, config={"image_size": 33}))
model_file("sigma of 1e300", "hostile", lambda p: rewrite(p, config={"sigma": 1e300}))
model_file(
    "threshold that is not a number",
    "wrong value",
    lambda p: rewrite(p, {"threshold": {"value": float("nan"), "rate": 0.1, "count": 1, "expected": 0.5}}),
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
    found = {c.what: message(c.use, tmp_path_factory.mktemp("case")) for c in CASES}
    if os.environ.get("RENEW"):
        PAGE.write_text(page(found), encoding="utf-8")
    return found


def test_there_are_forty_of_every_kind():
    assert len(CASES) >= 40 and len({c.what for c in CASES}) == len(CASES)
    assert {c.kind for c in CASES} == set(KINDS)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.what)
def test_the_message_names_what_is_wrong(case, messages):
    """A sentence or two, as the page has it; a list of problems has a line each. No class names, no traceback."""
    text, rows = messages[case.what], PAGE.read_text(encoding="utf-8").splitlines()
    assert any(line.endswith(row(case, messages)) for line in rows), text
    assert all(20 <= len(line) <= 420 for line in text.splitlines()), text
    assert not any(word in text for word in ("Traceback", "object at 0x", "Error(", "<class"))


def test_the_page_has_these_rows_and_no_others(messages):
    assert PAGE.read_text(encoding="utf-8") == page(messages)


def row(case, messages):
    return f" | {case.kind} | {case.what} | {cell(messages[case.what])} |"


def page(messages):
    head = [
        "# Bad inputs and what is said",
        "",
        "Made by `tests/test_bad_inputs.py`, which produces each of these inputs and compares its message with this page "
        "(`RENEW=1` renews it). Temporary folders are left out.",
        "",
        "| | kind | input | message |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *(f"| {i}{row(case, messages)}" for i, case in enumerate(CASES, 1))]) + "\n"


def cell(text):
    for old, new in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("*", "\\*"), ("\n", "<br>")):
        text = text.replace(old, new)
    return text

"""MNIST, Fashion-MNIST, CIFAR-10 and the digits in every form they come in, and what is not the original."""

import gzip
import hashlib
import io
import lzma
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.transforms import Resize
from torchvision.transforms import functional as TF

from rdlib import data, novelty
from rdlib.config import Config
from rdlib.errors import DataError

# --- MNIST and Fashion-MNIST -----------------------------------------------------------------------------

MNIST_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
MNIST_SETS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}


def idx(values):
    """The idx format: two zero bytes, type (8 = unsigned byte), dimensions, sizes as big-endian ints, data."""
    return bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape) + values.astype(np.uint8).tobytes()


def mnist_content():
    rng = np.random.default_rng(0)
    train_y, test_y = np.arange(30) % 10, np.arange(20) % 10
    return rng.integers(0, 256, (30, 28, 28)), train_y, rng.integers(0, 256, (20, 28, 28)), test_y


def md5(content):
    return hashlib.md5(content).hexdigest()


def write_mnist(folder, packed=False, content=None):
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in zip(MNIST_FILES, content or mnist_content()):
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(values), compresslevel=packed, mtime=int(packed)))
        else:
            (folder / name).write_bytes(idx(values))


def make_original(monkeypatch, content):
    sums = dict(zip(MNIST_FILES, (md5(idx(values)) for values in content), strict=True))
    monkeypatch.setattr(novelty, "IDX_FILES", dict.fromkeys(MNIST_SETS, sums))


@pytest.fixture
def originals(monkeypatch):
    """The made-up files are the originals."""
    make_original(monkeypatch, mnist_content())


def chosen(dataset, **params):
    return Config.create(dataset=dataset, normal_class=3, **params)


@pytest.mark.parametrize("dataset", MNIST_SETS)
@pytest.mark.parametrize("layout, packed", [("plain", 0), ("gz", 1), ("gz", 9), ("torchvision", 0)])
def test_mnist_in_every_layout_whoever_packed_it(originals, tmp_path, dataset, layout, packed):
    write_mnist(tmp_path / f"{MNIST_SETS[dataset]}/raw" if layout == "torchvision" else tmp_path, packed)
    found = data.load(chosen(dataset), tmp_path)
    train_x, train_y, test_x, test_y = mnist_content()
    assert found.train.images.shape == (3, 1, 32, 32) and not found.train.labels.any()
    assert found.train.paths == ("train/00003", "train/00013", "train/00023")
    assert found.test.images.shape == (20, 1, 32, 32) and found.test.labels.tolist() == (test_y != 3).astype(int).tolist()
    assert found.test.paths[12] == "test/00012-class2" and found.test.masks is None
    original = Image.fromarray(train_x[13].astype(np.uint8))
    assert np.array_equal(found.train.images[1, 0], np.asarray(Resize((32, 32))(original)))
    expected = b"".join(a.tobytes() for a in (train_x.astype(np.uint8), train_y, test_x.astype(np.uint8), test_y))
    assert found.manifest == hashlib.sha256(expected).hexdigest()


def test_mnist_duplicates_are_counted(tmp_path, monkeypatch):
    """Images 3 and 13 of the training set are of class 3, image 4 is not."""
    train_x, train_y, test_x, test_y = mnist_content()
    test_x[7], test_x[8], test_x[9] = train_x[3], train_x[13], train_x[4]
    write_mnist(tmp_path, content=(train_x, train_y, test_x, test_y))
    make_original(monkeypatch, (train_x, train_y, test_x, test_y))
    found = data.load(chosen("mnist"), tmp_path)
    assert found.notes == {"train_test_duplicates": 2}
    assert found.duplicates == (("train/00003", "test/00007-class7"), ("train/00013", "test/00008-class8"))


def test_mnist_without_antialiasing(originals, tmp_path):
    write_mnist(tmp_path)
    found = data.load(chosen("mnist", resize="no_antialias"), tmp_path)
    original = torch.from_numpy(mnist_content()[0][3].astype(np.uint8))[None]
    assert np.array_equal(found.train.images[0], TF.resize(original, [32, 32], antialias=False).numpy())


def cut(content):
    return content[: len(content) // 2]


def corrupt(content):
    """The middle is broken, beginning and end are whole."""
    return content[:100] + bytes(b ^ 255 for b in content[100:140]) + content[140:]


@pytest.mark.parametrize("packed", [0, 9])
@pytest.mark.parametrize("change", [cut, corrupt, lambda content: b"<html>please log in</html>", lambda content: gzip.compress(b"other")])
def test_a_file_that_is_not_the_original_is_named(originals, tmp_path, packed, change):
    write_mnist(tmp_path, packed)
    path = tmp_path / (MNIST_FILES[0] + ".gz" * bool(packed))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=f"^{path}: .*put the original there"):
        data.load(chosen("mnist"), tmp_path)


@pytest.mark.parametrize("dataset", MNIST_SETS)
@pytest.mark.parametrize("mixed, named", [((0, 3, 2, 3), 1), ((0, 1, 2, 1), 3), ((2, 3, 0, 1), 0), ((0, 1, 0, 1), 2)])
def test_train_and_test_files_that_are_mixed_up_are_named(originals, tmp_path, dataset, mixed, named):
    """Test labels for training images, the reverse, both splits exchanged, the training set twice: each would train silently."""
    contents = mnist_content()
    write_mnist(tmp_path, content=[contents[i] for i in mixed])
    with pytest.raises(DataError, match=f"^{tmp_path / MNIST_FILES[named]}: .*it is {MNIST_FILES[mixed[named]]}"):
        data.load(chosen(dataset), tmp_path)


DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_debians_fashion_mnist_is_the_original():
    """Packed again by Debian; 6,000 and 1,000 images of each class, and no class's images are another's."""
    found = data.load(Config.create(dataset="fashion_mnist", normal_class=9), DEBIAN)
    assert found.train.images.shape == (6000, 1, 32, 32) and found.test.images.shape == (10_000, 1, 32, 32)
    assert (found.test.labels == 0).sum() == 1000 and found.train.images.max() == 255


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist", "cifar10"])
def test_novelty_needs_a_folder_and_says_how_to_get_one(dataset):
    with pytest.raises(DataError, match="data_root is empty.*download=True"):
        data.load(chosen(dataset), "")


# --- CIFAR-10 --------------------------------------------------------------------------------------------


def cifar_batches():
    """Name -> (images (N, 32, 32, 3), classes); ten images each."""
    rng = np.random.default_rng(0)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    return {name: (rng.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8), rng.permutation(10)) for name in names}


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A folder cifar-10-batches-py of ten images per file, whose md5 sums torchvision is told to expect."""
    folder = tmp_path / "cifar" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    contents = {
        n: pickle.dumps({"data": x.transpose(0, 3, 1, 2).reshape(10, -1), "labels": y.tolist()}) for n, (x, y) in cifar_batches().items()
    }
    contents["batches.meta"] = pickle.dumps({"label_names": [f"class{i}" for i in range(10)]})
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    cls = datasets.CIFAR10
    monkeypatch.setattr(cls, "train_list", [[n, md5(contents[n])] for n, _ in cls.train_list])
    monkeypatch.setattr(cls, "test_list", [[n, md5(contents[n])] for n, _ in cls.test_list])
    monkeypatch.setattr(cls, "meta", cls.meta | {"md5": md5(contents["batches.meta"])})
    return folder


def pack(folder, target, mode="w:gz"):
    with tarfile.open(target, mode) as tar:
        tar.add(folder, "cifar-10-batches-py")


@pytest.mark.parametrize("layout", ["root", "folder", "archive"])
def test_cifar_in_every_layout(cifar, tmp_path, layout):
    places = {"root": cifar.parent, "folder": cifar, "archive": tmp_path / "packed"}
    (tmp_path / "packed").mkdir()
    pack(cifar, tmp_path / "packed" / "cifar-10-python.tar.gz")
    found = data.load(chosen("cifar10"), places[layout])
    batches = cifar_batches()
    train_x = np.concatenate([x[y == 3] for n, (x, y) in batches.items() if n != "test_batch"])
    assert np.array_equal(found.train.images, train_x.transpose(0, 3, 1, 2)) and len(train_x) == 5
    assert np.array_equal(found.test.images, batches["test_batch"][0].transpose(0, 3, 1, 2))
    assert found.test.labels.tolist() == (batches["test_batch"][1] != 3).astype(int).tolist()


@pytest.mark.parametrize("name", ["data_batch_4", "test_batch"])
@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(path.read_bytes() + b"\0")])
def test_missing_and_changed_cifar_files_are_named(cifar, name, change):
    change(cifar / name)
    with pytest.raises(DataError, match=f"{cifar}: not a complete copy of cifar10.*{name}"):
        data.load(chosen("cifar10"), cifar.parent)


def test_a_truncated_cifar_archive_is_named(cifar, tmp_path):
    (tmp_path / "packed").mkdir()
    path = tmp_path / "packed" / "cifar-10-python.tar.gz"
    pack(cifar, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=f"{tmp_path / 'packed'}.*cifar"):
        data.load(chosen("cifar10"), tmp_path / "packed")


def test_only_the_files_of_cifar_are_taken_from_its_archive(cifar, tmp_path):
    """Whatever else is in it, and wherever that would be written."""
    (tmp_path / "packed").mkdir()
    pack(cifar, plain := tmp_path / "packed" / "cifar.tar", "w")
    with tarfile.open(plain, "a") as tar:
        for name in ("../../escaped", f"{tmp_path}/escaped", "cifar-10-batches-py/../../escaped"):
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
    (tmp_path / "packed" / "cifar-10-python.tar.gz").write_bytes(lzma.compress(plain.read_bytes()))  # packed in another way
    assert len(data.load(chosen("cifar10"), tmp_path / "packed").train) == 5
    assert not list(tmp_path.rglob("escaped"))


# --- digits ----------------------------------------------------------------------------------------------


def test_digits_train_on_one_class_and_test_on_all():
    from sklearn.datasets import load_digits

    digits = load_digits()
    found = data.load(chosen("digits"))
    assert found.train.images.shape == (int((digits.target[:1000] == 3).sum()), 1, 32, 32)
    assert found.test.images.shape == (797, 1, 32, 32) and found.test.masks is None
    assert found.test.labels.tolist() == (digits.target[1000:] != 3).astype(int).tolist()
    indices = [int(p.removeprefix("train/")) for p in found.train.paths]
    assert (digits.target[indices] == 3).all() and max(indices) < 1000
    assert found.train.images.min() == 0 and found.train.images.max() == 255


def test_digits_classes_share_the_test_set():
    three, four = (data.load(Config.create(dataset="digits", normal_class=n)) for n in (3, 4))
    assert np.array_equal(three.test.images, four.test.images) and three.manifest == four.manifest
    assert not set(three.train.paths) & set(four.train.paths)

"""The data sets that are known here, as data: what each is called, holds and looks like, and what the paper does differently on it.

Reading is left to rdlib.data (folders of images, by `layout`) and rdlib.novelty. docs/datasets.md shows this table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

TEXTURES = ("carpet", "grid", "leather", "tile", "wood")  # of MVTec AD

# md5 of the originals' bytes: of what a .gz holds and not of the .gz, since anybody may have packed it.
IDX_FILES = {
    "mnist": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One data set.

    title: as published
    layout: how its files lie: a key of `data.LAYOUTS`, or how rdlib.novelty reads it
    counts: category -> (train, test) images as published, how many in all where the split is ours, None where nothing is published
    images: how many there are, where `counts` does not say it
    signs: a folder holds a category if one of these is in it; {} stands for the category
    places: the names that this folder may have below DATA, the likeliest first; "." is DATA itself
    defaults: what is not as on MVTec AD, the default of every field of `Config`
    """

    title: str
    layout: str
    licence: str
    source: str
    counts: dict[str, tuple[int, int] | int | None] = field(default_factory=dict)
    images: str = ""
    signs: tuple[str, ...] = ()
    places: tuple[str, ...] = (".",)
    defaults: dict[str, Any] = field(default_factory=dict)


_NOVELTY = {
    "teacher": "resnet18",  # [code]
    "image_size": 32,  # [code]
    "image_score": "sum",  # [paper] Sec. 4.2
    "sigma": 0.0,  # [open] one official helper smooths, one does not
    "normalise": "none",  # [code] MNIST and Fashion-MNIST are not normalised
}
_IDX = tuple(f"{next(iter(IDX_FILES['mnist']))}{packed}" for packed in ("", ".gz"))
_MVTEC = "{}/train/good"

DATASETS = {
    "demo": Dataset(
        title="demo", layout="mvtec", licence="CC0, public domain", source="comes with the package (rdlib/demo.py), synthetic defects",
        counts=dict.fromkeys(("brick", "grass", "gravel", "tissue", "coin")), images="40 train, 40 test each",
        defaults={"image_size": 128, "teacher": "efficientnet_lite0"},
    ),
    "mvtec": Dataset(  # Bergmann et al. 2019, Table 1, in the order of the paper's tables
        title="MVTec AD", layout="mvtec", licence="CC BY-NC-SA 4.0", source="https://www.mvtec.com/company/research/datasets/mvtec-ad",
        counts={
            "carpet": (280, 117), "grid": (264, 78), "leather": (245, 124), "tile": (230, 117), "wood": (247, 79),
            "bottle": (209, 83), "cable": (224, 150), "capsule": (219, 132), "hazelnut": (391, 110), "metal_nut": (220, 115),
            "pill": (267, 167), "screw": (320, 160), "toothbrush": (60, 42), "transistor": (213, 100), "zipper": (240, 151),
        },
        signs=(_MVTEC,), places=(".", "mvtec", "mvtec_anomaly_detection"),
    ),
    "visa": Dataset(  # Zou et al. 2022; counts of split_csv/1cls.csv
        title="VisA", layout="visa", licence="CC BY 4.0", source="https://github.com/amazon-science/spot-diff",
        counts={
            "candle": (900, 200), "capsules": (542, 160), "cashew": (450, 150), "chewinggum": (453, 150), "fryum": (450, 150),
            "macaroni1": (900, 200), "macaroni2": (900, 200), "pcb1": (904, 200), "pcb2": (901, 200), "pcb3": (905, 201),
            "pcb4": (904, 201), "pipe_fryum": (450, 150),
        },
        signs=("{}/Data/Images",), places=(".", "visa", "VisA", "VisA_20220922"),
    ),
    "btad": Dataset(  # Mishra et al. 2021; counts of the archive's folders
        title="BTAD", layout="btad", licence="CC BY-SA 4.0", source="https://github.com/pankajmishra000/VT-ADL",
        counts={"01": (400, 70), "02": (399, 230), "03": (1000, 441)},
        signs=("{}/train/ok",), places=(".", "btad", "BTAD", "BTech_Dataset_transformed"),
    ),
    "mpdd": Dataset(  # Jezek et al. 2021
        title="MPDD", layout="mvtec", licence="not stated there", source="https://github.com/stepanje/MPDD",
        counts={
            "bracket_black": (289, 79), "bracket_brown": (185, 77), "bracket_white": (110, 60), "connector": (128, 44),
            "metal_plate": (54, 97), "tubes": (122, 101),
        },
        signs=(_MVTEC,), places=(".", "mpdd", "MPDD"),
    ),
    "kolektorsdd": Dataset(  # Tabernik et al. 2019: 347 without and 52 with a defect
        title="KolektorSDD", layout="kolektorsdd", licence="CC BY-NC-SA 4.0", source="https://www.vicos.si/resources/kolektorsdd/",
        counts={"commutator": 399}, signs=("kos01",), places=(".", "kolektorsdd", "KolektorSDD"),
    ),
    "magnetic_tile": Dataset(  # Huang et al. 2018: 952 without and 392 with a defect
        title="Magnetic-Tile", layout="magnetic_tile", licence="not stated there",
        source="https://github.com/abin24/Magnetic-tile-defect-datasets.",
        counts={"magnetic_tile": 1344}, signs=("MT_Free/Imgs",),
        places=(".", "magnetic_tile", "Magnetic-Tile-Defect", "Magnetic-tile-defect-datasets.", "Magnetic-tile-defect-datasets.-master"),
    ),
    "folder": Dataset(
        title="any other folder in MVTec AD's layout", layout="mvtec", licence="yours", source="yours", images="any", signs=(_MVTEC,),
    ),
    "fashion_mnist": Dataset(
        title="Fashion-MNIST", layout="idx", licence="MIT", source="https://github.com/zalandoresearch/fashion-mnist", defaults=_NOVELTY,
        images="60,000 train, 10,000 test", signs=_IDX, places=("fashion_mnist", "fashion-mnist", "FashionMNIST/raw"),
    ),
    "mnist": Dataset(
        title="MNIST", layout="idx", licence="CC BY-SA 3.0", source="torchvision.datasets.MNIST", defaults=_NOVELTY,
        images="60,000 train, 10,000 test", signs=_IDX, places=("mnist", "MNIST/raw"),
    ),
    "cifar10": Dataset(
        title="CIFAR-10", layout="cifar10", licence="not stated there", source="https://www.cs.toronto.edu/~kriz/cifar.html",
        images="50,000 train, 10,000 test", signs=("cifar-10-batches-py", "cifar-10-python.tar.gz", "data_batch_1"),
        places=("cifar10", "."), defaults=_NOVELTY | {"normalise": "imagenet"},  # [code]
    ),
    "digits": Dataset(
        title="digits", layout="package", licence="CC BY 4.0", source="comes with scikit-learn", images="1,000 train, 797 test",
        defaults=_NOVELTY | {"teacher": "efficientnet_lite0"},
    ),
}  # fmt: skip

NOVELTY_DATASETS = ("fashion_mnist", "mnist", "cifar10", "digits")
IMAGE_FOLDER_DATASETS = tuple(name for name in DATASETS if name not in NOVELTY_DATASETS)
FURTHER_DATASETS = tuple(name for name in IMAGE_FOLDER_DATASETS if name not in ("demo", "mvtec"))  # of which the paper has no number
MVTEC_COUNTS = DATASETS["mvtec"].counts


def rows() -> list[dict[str, str]]:
    """The table as docs/datasets.md and 01_data show it, a row per data set."""
    return [
        {
            "dataset": name,
            "title": known.title,
            "category": ", ".join(known.counts) or ("normal_class 0 to 9" if name in NOVELTY_DATASETS else "any"),
            "images": known.images or _in_all(list(known.counts.values())),
            "layout": known.layout,
            "licence": known.licence,
            "where to get it": known.source,
        }
        for name, known in DATASETS.items()
    ]


def _in_all(counts: list[Any]) -> str:
    if isinstance(counts[0], int):
        return f"{sum(counts):,}, split by us"
    return f"{sum(train for train, _ in counts):,} train, {sum(test for _, test in counts):,} test"

"""What one run is: a frozen `Config`, the paper's values and where each comes from.

A `Config` holds everything that may change a number. Where things lie (data folder, weights file,
output folder) and which device computes is not part of it, so the same run has the same id anywhere.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rdlib.datasets import DATASET_DEFAULTS, DATASETS, IMAGE_FOLDER_DATASETS, NOVELTY_DATASETS
from rdlib.errors import InputError

TORCHVISION_TEACHERS = ("resnet18", "resnet50", "wide_resnet50_2")
LITE_TEACHERS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
# First hex digits of the sha256 of torchvision's IMAGENET1K_V1 files, which have them in their names.
PUBLISHED_WEIGHTS = {"resnet18": "f37072fd", "resnet50": "0676ba61", "wide_resnet50_2": "95faca4d"}
# Files of the same function: ResNet-18's with each BatchNorm folded into its convolution (of a public ONNX export).
SAME_FUNCTION = ("0bf7e80ff1aa",)

CHOICES: dict[str, tuple[str, ...]] = {
    "method": ("reverse", "conventional", "padim", "spade"),
    "dataset": tuple(DATASETS),
    "teacher": TORCHVISION_TEACHERS + LITE_TEACHERS + ("custom",),
    "bottleneck": ("mff+oce", "oce", "pre"),
    "loss": ("flat", "pixel"),
    "image_score": ("max", "sum", "mean"),
    "normalise": ("imagenet", "none"),
    "resize": ("antialias", "no_antialias"),
    "mask_rule": ("over_half", "any"),
    "precision": ("fp32", "tf32", "bf16"),
    "train_on": ("category", "all"),
}
POSITIVE = ("image_size", "batch_size", "lr")
AT_LEAST_ZERO = ("sigma", "seed", "epochs")
LONGEST_ID = 240  # characters of a run id; file systems take names of 255 bytes
# Fields that run files leave out where they say nothing, as files from before there was the field.
LATER: dict[str, Any] = {"weights_id": "", "train_on": "category"}


@dataclass(frozen=True, kw_only=True)
class Config:
    """One training with one seed. Build it with `Config.create`, which fills the data set's defaults.

    Defaults are the paper's for MVTec AD (Sec. 4.1) unless the comment says otherwise.
    raises: InputError that names the field, the value it got and what it takes
    """

    dataset: str
    category: str = ""  # MVTec's "bottle"; for novelty data sets str(normal_class)
    normal_class: int | None = None  # novelty: the one class that counts as normal
    method: str = "reverse"  # the paper's; the others are baselines on the same teacher (rdlib.baselines)
    teacher: str = "wide_resnet50_2"  # Tables 1-6; Table 7 varies it
    bottleneck: str = "mff+oce"  # Table 5: "pre", "oce" (Pre+OCE), "mff+oce" (full model)
    conv1x1: bool = False  # drawn in Fig. 4, never called by the official code
    scales: tuple[int, ...] = (1, 2, 3)  # maps summed for the score; Table 6
    loss: str = "flat"  # official code; "pixel" is the paper's eq. 2
    image_size: int = 256  # Table 1 also has a 128 px block
    resize: str = "antialias"  # PIL bilinear, as torchvision's Resize on PIL images
    mask_rule: str = "over_half"  # mask after resizing: > 0.5 as in the official code, or > 0
    normalise: str = "imagenet"
    epochs: int = 200
    batch_size: int = 16
    lr: float = 0.005
    beta1: float = 0.5
    beta2: float = 0.999
    sigma: float = 4.0  # Gaussian on the map, in pixels of the resized image; 0 = none
    image_score: str = "max"  # S_AD: maximum of the map on MVTec, sum for novelty
    seed: int = 111  # official code
    precision: str = "fp32"  # "tf32" is PyTorch's default on NVIDIA's GPUs, float32 where there is none; see fit.seed_everything
    experiment: str = "main"
    label: str = ""  # free word appended to the variant
    weights_id: str = ""  # begin of the sha256 of a teacher file of one's own, "" = the published weights; see run.parameters
    train_on: str = "category"  # "all": one student for all categories of the data set, tested on this one

    @classmethod
    def create(cls, **params: Any) -> Config:
        """A Config from loose parameters; None means the data set's own default.

        raises: InputError for an unknown or impossible value, naming the field
        """
        known = {f.name for f in dataclasses.fields(cls)}
        refuse_unknown(params, known)
        given = {k: v for k, v in params.items() if v is not None}
        dataset = given.get("dataset")
        _choose("dataset", dataset)
        values = defaults_of(dataset, given.get("method", "reverse")) | given
        if "scales" in values:
            values["scales"] = parse_scales(values["scales"])
        if dataset in NOVELTY_DATASETS and "normal_class" in values:
            values["category"] = str(values["normal_class"])
        return cls(**values)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_type(field.name, field.type, getattr(self, field.name))
            if field.type == "float":  # papermill gives an int for "1": one run id for 1 and 1.0
                object.__setattr__(self, field.name, float(getattr(self, field.name)))
        for name in CHOICES:
            _choose(name, getattr(self, name))
        for name in POSITIVE:
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name}={getattr(self, name)!r}: must be greater than 0")
        for name in AT_LEAST_ZERO:
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name}={getattr(self, name)!r}: must be 0 or greater")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)!r}: must lie in [0, 1)")
        if self.image_size % 32:
            raise InputError(f"image_size={self.image_size}: must be a multiple of 32, since the embedding is 1/32 of the image")
        if (self.epochs == 0) != (self.method in METHOD_DEFAULTS):
            raise InputError(
                f"epochs={self.epochs}: method {self.method!r} {'trains nothing, epochs must be 0' if self.epochs else 'needs 1 or more'}"
            )
        self._check_what_is_normal()
        if self.batch_size < self.smallest_batch:
            raise InputError(
                f"batch_size={self.batch_size}: at image_size={self.image_size} the embedding is one position and BatchNorm needs two "
                "images at least; take batch_size=2 or image_size=64"
            )
        if not self.experiment:
            raise InputError("experiment='': must not be empty, it begins the run id")
        for name in ("category", "experiment", "label", "weights_id"):
            value = getattr(self, name)
            if not re.fullmatch(r"[A-Za-z0-9_.]*", value) or value.startswith("."):
                raise InputError(f"{name}={value!r}: only letters, digits, '_' and '.' (it becomes a file name)")
        if len(self.run_id) > LONGEST_ID:
            raise InputError(
                f"label={self.label[:20]!r}...: the run id has {len(self.run_id)} characters, at most {LONGEST_ID} fit a file name; "
                "take a shorter one"
            )

    def _check_what_is_normal(self) -> None:
        if self.dataset in NOVELTY_DATASETS:
            if self.normal_class is None or not 0 <= self.normal_class <= 9:
                raise InputError(f"normal_class={self.normal_class!r}: dataset {self.dataset!r} needs one of 0..9")
        elif self.normal_class is not None:
            raise InputError(f"normal_class={self.normal_class!r}: dataset {self.dataset!r} takes a category instead")
        elif not self.category:
            raise InputError(f"category={self.category!r}: dataset {self.dataset!r} needs one, for example 'bottle'")
        if self.train_on == "all" and (self.dataset in NOVELTY_DATASETS or self.method in METHOD_DEFAULTS):
            raise InputError(
                f"train_on='all': one model for all categories needs a data set that has categories and a method that trains, "
                f"not dataset={self.dataset!r} with method={self.method!r}; take train_on='category'"
            )

    @property
    def smallest_batch(self) -> int:
        """Images that a training batch needs at least: two where the embedding (1/32 of the image) is a single vector."""
        trains_embedding = self.method == "reverse" and self.teacher != "custom"  # of a teacher of the user's we cannot know
        return 2 if trains_embedding and self.image_size == 32 else 1

    @property
    def has_masks(self) -> bool:
        """Whether the data set has pixel ground truth."""
        return self.dataset in IMAGE_FOLDER_DATASETS

    @property
    def variant(self) -> str:
        """Teacher, resolution and epochs, then every value that departs from the data set's default."""
        parts = [_short(self.teacher), f"{self.image_size}px", f"{self.epochs}ep"]
        named = {"dataset", "category", "normal_class", "teacher", "image_size", "epochs", "seed", "experiment", "label"}
        defaults = defaults_of(self.dataset, self.method)
        for field in dataclasses.fields(self):
            default = defaults.get(field.name, field.default)
            value = getattr(self, field.name)
            if field.name not in named and value != default:
                parts.append(f"{field.name.removesuffix('_id')}_{_word(value)}")
        return ".".join(parts + [self.label] * bool(self.label))

    @property
    def run_id(self) -> str:
        """`experiment-dataset-category-variant-sSEED`: stable, the same configuration is the same file."""
        return f"{self.experiment}-{self.dataset}-{self.category}-{self.variant}-s{self.seed}"

    @property
    def model_id(self) -> str:
        """What the runs of `train_on=all` share: the run id without the category."""
        return f"{self.experiment}-{self.dataset}-{self.variant}-s{self.seed}"

    @property
    def torch_seed(self) -> int:
        """Seed of the run, from (seed, data set, category), so that no result depends on what ran before it.

        The variant is left out on purpose: runs that differ in one factor share their random numbers, so that the
        difference between them is the factor's and not another draw's. So is the category where one model is trained for all.
        """
        category = "" if self.train_on == "all" else self.category
        return int.from_bytes(hashlib.sha256(f"{self.seed}:{self.dataset}:{category}".encode()).digest()[:6], "big")

    def to_dict(self) -> dict[str, Any]:
        """As it stands in run files; the fields of LATER only where they say something."""
        values = dataclasses.asdict(self) | {"scales": list(self.scales)}
        return {k: v for k, v in values.items() if k not in LATER or v != LATER[k]}


# PaDiM and SPADE train nothing and give one map.
_NO_TRAINING = {"epochs": 0, "scales": (1,)}
METHOD_DEFAULTS: dict[str, dict[str, Any]] = {"padim": _NO_TRAINING, "spade": _NO_TRAINING}


def defaults_of(dataset: str, method: str) -> dict[str, Any]:
    """What `Config.create` fills in where nothing is given, beside the field defaults."""
    return DATASET_DEFAULTS.get(dataset, {}) | METHOD_DEFAULTS.get(method, {})


def refuse_unknown(given: Iterable[str], known: Iterable[str]) -> None:
    """raises: InputError that names each unknown parameter and the nearest known one, or where there is none near all of them"""
    near = {name: difflib.get_close_matches(name, known, 1) for name in sorted(set(given) - set(known))}
    if near:
        hints = [f"{name!r}" + "".join(f" (did you mean {m!r}?)" for m in found) for name, found in near.items()]
        rest = "" if all(near.values()) else f"; known: {', '.join(sorted(known))}"
        raise InputError(f"unknown parameter {', '.join(hints)}{rest}")


def parse_scales(value: Any) -> tuple[int, ...]:
    """(1, 2, 3) from a sequence, an int or text such as "1,2,3" or "M2+M3" (papermill passes text)."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if isinstance(value, str):
        if not re.fullmatch(r"[\[(]?\s*M?\d(\s*[,+ ]\s*M?\d)*\s*[\])]?", value):
            raise InputError(f"scales={value!r}: give scale numbers, for example '1,2,3' or 'M2+M3'")
        value = [int(n) for n in re.findall(r"\d", value)]
    scales = tuple(value) if isinstance(value, list | tuple) else ()
    if not scales or any(not isinstance(k, int) or k < 1 for k in scales) or list(scales) != sorted(set(scales)):
        raise InputError(f"scales={value!r}: distinct scale numbers from 1, shallow to deep, for example (1, 2, 3)")
    return scales


def check_type(name: str, annotation: str, value: Any) -> None:
    """raises: InputError if a parameter is not of the type that its dataclass states"""
    allowed = {"str": str, "bool": bool, "int": int, "float": (int, float), "int | None": (int, type(None))}
    expected = allowed.get(annotation, tuple)
    if not isinstance(value, expected) or (isinstance(value, bool) and annotation != "bool"):
        raise InputError(f"{name}={value!r}: expected {annotation}, got {type(value).__name__}")


def _choose(name: str, value: Any) -> None:
    of_timm = name == "teacher" and re.fullmatch(r"timm/[a-z0-9_]+(\.[a-z0-9_]+)?", value)
    if value not in CHOICES[name] and not of_timm:
        raise InputError(f"{name}={value!r}: must be one of {', '.join(CHOICES[name])}{', timm/NAME' * (name == 'teacher')}")


def _short(teacher: str) -> str:
    return teacher.replace("efficientnet_", "").replace("wide_resnet50_2", "wrn50").replace("/", "_")


def _word(value: Any) -> str:
    """A value as part of a file name: no '-', which separates the parts of a run id."""
    text = "".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text.replace("+", "").replace("-", "m")

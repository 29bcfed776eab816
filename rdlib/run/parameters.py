"""The parameters cell of a notebook: what one run is (`Config`), and where it lies and what computes it (`Where`)."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from functools import cache
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

from rdlib.config import PUBLISHED_WEIGHTS, Config, check_type, refuse_unknown
from rdlib.errors import InputError
from rdlib.paths import output_folder, resolve


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where a run's inputs and outputs lie and what computes it: no part of the run's identity.

    data_root: folder of the categories or of the original files; "" for the sets that come with packages
    weights: local file of the teacher's weights under torchvision's (or timm's) names; "" = the library's cache, then a download
    same_function: that file, where it is not the published one, computes the same teacher, so that verdicts are given
    out_dir: the run goes to `out_dir/runs/<run id>/`
    device: "auto", "cuda", "cuda:1", "mps" or "cpu"
    cuda_graph: on CUDA, launch a training step as one, see `fit.Steps`
    threads: CPU threads; 0 = torch's own choice. Sums are split by thread, so last digits depend on it
    cache_dir: decoded images and teacher features that runs share, see rdlib.run.cache; "" keeps none
    cache_gb: its limit in 10^9 bytes; the least recently used go first
    checkpoint_s: least seconds between checkpoints of an unfinished training; 0 = after every epoch
    overwrite: train again although the run is already there
    save_maps: keep the test images and their maps beside the result, for figures
    evaluate_every: epochs between looks at the test set, for the labelled "best on test" column only; 0 = never.
        Looking changes nothing: training goes on as if it had not been done
    measure: measure inference cost (Table 3) at the end; wants the machine for itself
    """

    data_root: str = ""
    weights: str = ""
    same_function: bool = False
    out_dir: str = "results/scratch"
    device: str = "auto"
    cuda_graph: bool = True
    threads: int = 0
    cache_dir: str = "results/cache"
    cache_gb: int = 20
    checkpoint_s: int = 120
    overwrite: bool = False
    save_maps: bool = True
    evaluate_every: int = 0
    measure: bool = False

    def __post_init__(self) -> None:
        for name in ("threads", "cache_gb", "checkpoint_s", "evaluate_every"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}={getattr(self, name)}: must be 0 or greater")
        output_folder("out_dir", self.out_dir)
        if self.cache_dir:
            output_folder("cache_dir", self.cache_dir)


def notebook_parameters(namespace: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a notebook: what its first cells (and papermill's) have assigned, and nothing else.

    namespace: the notebook's `globals()`, read before anything but modules and functions is imported
    returns: name -> value
    """
    ipython = {"In", "Out", "get_ipython", "exit", "quit", "open"}
    return {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_") and name not in ipython and not isinstance(value, ModuleType) and not callable(value)
    }


def text_parameter(name: str, value: Any) -> str:
    """The text of a parameter that papermill may have taken for something else: -p x 2024_01 gives 202401, -p x 007 gives 7.

    True and False are read back, since each has one spelling; a number has several, so nobody can tell what was typed.
    raises: InputError naming the parameter and the flag that passes text on as it is
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise InputError(
            f"{name}={value!r}: is a number, and as text it may have been typed otherwise (2024_01 becomes 202401); "
            f"write it in quotes, with papermill -r {name} TEXT instead of -p"
        )
    if not isinstance(value, str | bool | PathLike):
        raise InputError(f"{name}={value!r}: expected str, got {type(value).__name__}")
    return str(value)


def from_notebook(namespace: dict[str, Any]) -> tuple[Config, Where]:
    """Config and Where from the parameters cells of a notebook, every name checked (papermill accepts any); None is the default.

    namespace: the notebook's `globals()`
    raises: InputError naming an unknown parameter and the nearest known one, or an impossible value
    """
    given = notebook_parameters(namespace)
    fields = {f.name: f.type for f in dataclasses.fields(Config) if f.name != "weights_id"}  # that one follows from the weights file
    refuse_unknown(given, fields.keys() | Where.__dataclass_fields__)
    given = {name: value for name, value in given.items() if value is not None}
    where = Where(**typed(Where, given))
    cfg = Config.create(**{k: text_parameter(k, v) if fields[k] == "str" else v for k, v in given.items() if k in fields})
    if cfg.train_on == "all" and where.evaluate_every:
        raise InputError(f"evaluate_every={where.evaluate_every}: with train_on='all' one training serves every category; leave it 0")
    return dataclasses.replace(cfg, weights_id=weights_id(cfg.teacher, where.weights)), where


def typed(kind: type, given: dict[str, Any]) -> dict[str, Any]:
    """What a dataclass takes of these parameters, as its annotations say: text as it was typed, a float where papermill made an int of 1.

    raises: InputError naming a parameter of another type
    """
    values = {}
    for field in dataclasses.fields(kind):
        if field.name in given:
            value = text_parameter(field.name, given[field.name]) if field.type == "str" else given[field.name]
            check_type(field.name, field.type, value)
            values[field.name] = float(value) if field.type == "float" else value
    return values


def weights_id(teacher: str, weights: str) -> str:
    """What a teacher file of one's own adds to the run's identity: the first 12 hex digits of its sha256; "" for the published file.

    raises: InputError if the file is not there, or the teacher takes none
    """
    if not weights:
        return ""
    if teacher not in PUBLISHED_WEIGHTS and not teacher.startswith("timm/"):
        raise InputError(f"weights={weights!r}: teacher {teacher!r} takes no file; its weights come with a package")
    path = resolve(weights)
    if not path.is_file():
        raise InputError(f"weights={weights!r}: no such file; give torchvision's or timm's, or one of your own with its names")
    sha256 = _sha256(path, path.stat().st_mtime_ns)
    published = PUBLISHED_WEIGHTS.get(teacher)  # of timm's no table is kept
    return "" if published and sha256.startswith(published) else sha256[:12]


@cache
def _sha256(path: Path, written: int) -> str:
    """Of a file as it was `written`: a plan asks for it once per run."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

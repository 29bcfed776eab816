"""The parameters cell of a notebook: what one run is (`Config`), and where it lies and what computes it (`Where`)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from os import PathLike
from types import ModuleType
from typing import Any

from rdlib.config import Config, refuse_unknown
from rdlib.errors import InputError
from rdlib.paths import output_folder


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where a run's inputs and outputs lie and what computes it: no part of the run's identity.

    data_root: folder of the categories or of the original files; "" for the sets that come with packages
    weights: local file of torchvision weights; "" = torch's cache, then a download
    out_dir: the run goes to `out_dir/runs/<run id>/`
    device: "auto", "cuda", "cuda:1", "mps" or "cpu"
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
    out_dir: str = "results/scratch"
    device: str = "auto"
    threads: int = 0
    cache_dir: str = "results/cache"
    cache_gb: int = 20
    checkpoint_s: int = 120
    overwrite: bool = False
    save_maps: bool = True
    evaluate_every: int = 0
    measure: bool = False


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
    """Config and Where from the parameters cells of a notebook, every name checked (papermill accepts any).

    namespace: the notebook's `globals()`
    raises: InputError naming an unknown parameter and the nearest known one, or an impossible value
    """
    given = notebook_parameters(namespace)
    places = {f.name for f in dataclasses.fields(Where)}
    refuse_unknown(given, places | {f.name for f in dataclasses.fields(Config)})
    for name in places & set(given):
        expected = type(getattr(Where, name))
        if type(given[name]) is not expected:
            raise InputError(f"{name}={given[name]!r}: expected {expected.__name__}, got {type(given[name]).__name__}")
        if expected is int and given[name] < 0:
            raise InputError(f"{name}={given[name]!r}: must be 0 or greater")
    output_folder("out_dir", given.get("out_dir", Where.out_dir))
    if given.get("cache_dir"):
        output_folder("cache_dir", given["cache_dir"])
    cfg = Config.create(**{k: v for k, v in given.items() if k not in places})
    return cfg, Where(**{k: v for k, v in given.items() if k in places})

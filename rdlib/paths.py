"""Where things lie: the project's folder, and what relative paths in notebook parameters mean."""

from __future__ import annotations

import os
from pathlib import Path

from rdlib.errors import InputError

PACKAGE = Path(__file__).resolve().parent


def project_root() -> Path:
    """The folder with pyproject.toml and notebooks/, from the working directory upwards; else the working directory.

    JupyterLab and nbval start kernels in notebooks/, papermill where it was called: both mean the same project.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir():
            return folder
    return here


def resolve(path: str | Path) -> Path:
    """A parameter's path: absolute as it is, relative ones from the project's folder.

    raises: InputError for `~name` where no such user is known
    """
    try:
        return project_root() / Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{path}: no home folder of {Path(path).parts[0]} is known here; write the whole path") from None


def printable(path: str | Path) -> str:
    """A file's name as text for messages, tables and figures: bytes that are not UTF-8 are shown as `\\udcXX`."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def output_folder(name: str, path: str | Path) -> Path:
    """The folder that a parameter `name` wants written to: a relative path stays below results/, an absolute one is the user's choice.

    Symbolic links are not followed: a `results` that points to a larger disk is the user's choice too.
    raises: InputError if a relative path leaves results/ or enters the reference in it, which only rdlib.batch.reference renews, an
        absolute one hides its place behind "..", or it is no folder's name
    """
    text = str(path)
    if not text or any(ord(c) < 32 for c in text):
        raise InputError(f"{name}={text!r}: must be the name of a folder, for example 'results/scratch'")
    folder, results = resolve(text), project_root() / "results"
    given = Path(text).expanduser()
    if given.is_absolute() and ".." in given.parts:
        raise InputError(f"{name}={text!r}: an absolute path must not hold '..'; write the folder that is meant")
    if not given.is_absolute():
        place = Path(os.path.normpath(folder))
        if results not in place.parents:
            raise InputError(f"{name}={text!r}: must lie below results/, for example 'results/scratch'; or give an absolute path")
        if place.is_relative_to(results / "reference"):
            raise InputError(f"{name}={text!r}: is the reference that comes with the project; give another folder below results/")
    if folder.is_file():
        raise InputError(f"{name}={text!r}: is a file; give a folder")
    return folder

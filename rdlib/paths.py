"""Where things lie: the project's folder, and what relative paths in notebook parameters mean."""

from __future__ import annotations

from pathlib import Path

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
    """A parameter's path: absolute as it is, relative ones from the project's folder."""
    return project_root() / Path(path).expanduser()

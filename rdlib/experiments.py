"""Which runs each table needs: plain data. The Snakefile turns it into papermill calls; nothing here schedules.

A run is a dictionary of parameters of notebooks/02_run.ipynb. A run that several tables need has one id and is done once.
"""

from __future__ import annotations

from typing import Any

from rdlib.config import Config

Parameters = dict[str, Any]
PROFILES = ("demo", "paper")
DEMO_CATEGORIES = ("brick", "grass", "gravel", "tissue", "coin")

# threads=1 per run: the runs fill the cores side by side, and a result does not depend on how many cores there are.
DEMO: Parameters = {"dataset": "demo", "teacher": "efficientnet_lite0", "image_size": 128, "epochs": 20}
DEMO_SEEDS = (0, 1)


def tables(profile: str) -> dict[str, list[Parameters]]:
    """Table -> runs it needs.

    raises: InputError for an unknown profile
    """
    return {"demo": demo}[profile]()


def demo() -> dict[str, list[Parameters]]:
    main = [DEMO | {"category": c, "seed": s} for c in DEMO_CATEGORIES for s in DEMO_SEEDS]
    return {"mvtec": main}


def runs(profile: str) -> dict[str, Parameters]:
    """Run id -> parameters of every run of a profile, each once."""
    return {Config.create(**p).run_id: p for needed in tables(profile).values() for p in needed}

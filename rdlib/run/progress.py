"""How far a batch is: `python -m rdlib.run.progress PROFILE [DATA]` (`make progress`) prints one line.

It looks at files that runs, perhaps on other machines, write and remove meanwhile: what cannot be read is not there.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from rdlib.errors import exit_in_words
from rdlib.paths import resolve
from rdlib.run import plan
from rdlib.run.record import read_if_whole


@dataclass(frozen=True)
class Progress:
    """Numbers of runs; left: neither done nor failed, those that run now among them; seconds_left: None if nothing can be said"""

    planned: int
    done: int
    failed: int
    running: int
    left: int
    seconds_left: float | None

    def __str__(self) -> str:
        about = "" if self.seconds_left is None else f" (about {_span(self.seconds_left)})"
        return f"{self.done} of {self.planned} runs done, {self.running} running, {self.left} left{about}, {self.failed} failed"


def progress(folder: Path, planned: set[str]) -> Progress:
    """State of the planned runs below `folder`. What is left is expected to take as long as what is done, as many at once as now."""
    results = {run_id: read_if_whole(folder / "runs" / run_id / "result.json") for run_id in planned}
    left = [run_id for run_id, result in results.items() if result is None]
    times = [sum(result["timing"].values()) for result in results.values() if result and result["status"] == "finished"]
    running = sum(_held(folder / "locks" / run_id) for run_id in left)
    seconds_left = len(left) * sum(times) / len(times) / running if times and running else None
    return Progress(len(planned), len(times), len(planned) - len(times) - len(left), running, len(left), seconds_left)


def _held(lock: Path) -> bool:
    """Whether a process has claimed the run (session.Run)."""
    if not lock.is_file():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # vanished, or locks are unsupported there
        return False


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    profile, data = (*sys.argv[1:], "")[:2]
    with exit_in_words():
        print(progress(resolve("results") / profile, set(plan.runs(profile, data))))

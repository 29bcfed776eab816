"""How far a batch is: `python -m rdlib.run.progress PROFILE [DATA]` prints one line; the Snakefile whenever a run has ended.

It looks at files that runs, perhaps on other machines, write and remove meanwhile: what cannot be read is not there.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from rdlib.errors import exit_in_words
from rdlib.paths import resolve
from rdlib.run import plan

STARTED = ".batch.started"  # touched when a batch begins


@dataclass(frozen=True)
class Progress:
    """Numbers of runs; left: neither done nor failed, those that run now among them; seconds_left: None if nothing can be said

    No time is told while nothing runs: the batch is stopped, or between two runs.
    """

    planned: int
    done: int
    failed: int
    running: int
    left: int
    seconds_left: float | None

    def __str__(self) -> str:
        about = "" if self.seconds_left is None or not self.running else f" (about {_in_words(self.seconds_left)})"
        return f"{self.done} of {self.planned} runs done, {self.running} running, {self.left} left{about}, {self.failed} failed"


def progress(folder: Path, planned: set[str]) -> Progress:
    """State of the planned runs below `folder`. What is left is expected to take as long as what this batch has done so far."""
    status = {run_id: _status(folder / "runs" / run_id / "result.json") for run_id in planned}
    done = [run_id for run_id, s in status.items() if s == "finished"]
    left = [run_id for run_id, s in status.items() if s is None]
    running = sum(_held(folder / "locks" / run_id) for run_id in left)
    failed = len(planned) - len(done) - len(left)
    return Progress(len(planned), len(done), failed, running, len(left), _seconds_left(folder, done, len(left)))


def tell(folder: Path, planned: set[str], every_s: float = 5) -> threading.Thread:
    """Print the state now and whenever a run has ended, for as long as this process lives; looks every `every_s` seconds."""

    def watch() -> None:
        told = None
        while True:
            now = progress(folder, planned)
            if (now.done, now.failed) != told:
                print(now, file=sys.stderr, flush=True)
                told = (now.done, now.failed)
            time.sleep(every_s)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def _status(path: Path) -> str | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["status"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _held(lock: Path) -> bool:
    """Whether a process has claimed the run (results.claim)."""
    if not lock.is_file():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # vanished, or locks are unsupported there
        return False


def _seconds_left(folder: Path, done: list[str], left: int) -> float | None:
    """What this batch took for each run until its newest result, times what is left."""
    begun = _written(folder / STARTED)
    if begun is None:
        return None
    ended = [t for run_id in done if (t := _written(folder / "runs" / run_id / "result.json")) is not None and t > begun]
    return left * (max(ended) - begun) / len(ended) if ended else None


def _written(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _in_words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    profile, data = (*sys.argv[1:], "")[:2]
    with exit_in_words():
        print(progress(resolve("results") / profile, set(plan.runs(profile, data))))

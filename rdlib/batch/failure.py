"""What becomes of a run that failed in the batch: `python -m rdlib.batch.failure RESULT EXECUTED PARAMETERS ATTEMPT MOST`.

The executed notebook holds the error. An error of the run itself (bad data, diverged training, no memory) would come again, so
it becomes a row for the tables at once; if the kernel died without one, the run is tried again, up to MOST times, and goes on
from its checkpoint. A run that was stopped by hand has not failed: it is left to the next batch.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rdlib.errors import exit_in_words
from rdlib.run.parameters import from_notebook
from rdlib.run.record import read_if_whole, write_failure

DIED = "the kernel died without an error, most often because memory ran out; see the log beside the executed notebook"


def error_in(executed: Path) -> tuple[str, str] | None:
    """Name and message of the error that stopped an executed notebook; None if it holds none or is not there."""
    try:
        cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError):
        return None
    errors = [o for cell in cells for o in cell.get("outputs", []) if o["output_type"] == "error"]
    return (errors[-1]["ename"], errors[-1]["evalue"]) if errors else None


def record(result: Path, executed: Path, parameters: dict[str, Any], attempt: int, most: int) -> bool:
    """Write the failure to `result`; False if the run shall be tried again instead, or was stopped by hand (Ctrl-C).

    What fails after the result was written (a figure, say) is told and takes nothing from it.
    """
    error = error_in(executed)
    if (there := read_if_whole(result)) and there["status"] == "finished":
        print(f"{result.parent.name}: finished, but then: {': '.join(error or (DIED,))}", file=sys.stderr)
        return True
    if error and error[0] == "KeyboardInterrupt":
        print(f"{result.parent.name}: stopped; the same command goes on with it", file=sys.stderr)
        return False
    if error is None and attempt < most:
        return False
    cfg, _ = from_notebook(parameters)
    name, message = error or ("", DIED)
    status = "diverged" if name == "FloatingPointError" else "failed"
    reason = message if name in ("", "InputError") else f"{name}: {message}"  # an InputError is a sentence by itself
    write_failure(result, cfg, status=status, reason=reason, attempts=attempt)
    print(f"{cfg.run_id}: {status}: {message}", file=sys.stderr)
    return True


def forget(folder: Path) -> None:
    """Remove the failures of an earlier batch below `folder`, so that their runs are tried again."""
    for path in (folder / "runs").glob("*/result.json"):
        there = read_if_whole(path)  # None: damaged, the tables will name it
        if there and there["status"] != "finished":
            path.unlink()


if __name__ == "__main__":
    result, executed, parameters, attempt, most = sys.argv[1:]
    with exit_in_words():
        recorded = record(Path(result), Path(executed), json.loads(parameters), int(attempt), int(most))
    sys.exit(0 if recorded else 1)

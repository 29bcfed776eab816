"""Progress of a batch from what lies on disk: done, running, left, failed, and about how long."""

import contextlib
import json

import made_up_runs
import pytest
from filelock import FileLock

import rdlib.run.progress as progress_module
from rdlib.run.progress import progress

PLANNED = {f"run{i}" for i in range(10)}


def put(folder, run_id, result=None, **timing):
    path = folder / "runs" / run_id / "result.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    result = result or made_up_runs.run()
    path.write_text(json.dumps(result if "metrics" not in result else result | {"timing": result["timing"] | timing}))


def running(folder, *run_ids):
    """As long as it is held, these runs have a process."""
    (folder / "locks").mkdir(exist_ok=True)
    stack = contextlib.ExitStack()
    for run_id in run_ids:
        stack.enter_context(FileLock(folder / "locks" / run_id))
    return stack


def test_nothing_yet(tmp_path):
    assert str(progress(tmp_path, PLANNED)) == "0 of 10 runs done, 0 running, 10 left, 0 failed"


def test_counts_and_the_time_left(tmp_path):
    """A run took 100 s in the mean; six are left, two at once."""
    for run_id, seconds in (("run0", 50), ("run1", 150), ("run2", 100)):
        put(tmp_path, run_id, load_s=10, fit_s=seconds - 10)
    put(tmp_path, "run4", made_up_runs.failed("diverged"))
    put(tmp_path, "not planned")
    with running(tmp_path, "run5", "run7"):
        (tmp_path / "locks" / "run6").touch()  # of a run that was killed
        found = progress(tmp_path, PLANNED)
    assert (found.done, found.failed, found.running, found.left, found.seconds_left) == (3, 1, 2, 6, 300)
    assert str(found) == "3 of 10 runs done, 2 running, 6 left (about 5 min), 1 failed"
    assert progress(tmp_path, PLANNED).seconds_left is None, "nothing runs: no end in sight"


def test_what_cannot_be_locked_does_not_run(tmp_path, monkeypatch):
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "run5").touch()

    def unsupported(*_, **__):
        raise NotImplementedError

    monkeypatch.setattr(progress_module, "FileLock", unsupported)
    assert progress(tmp_path, PLANNED).running == 0


@pytest.mark.parametrize("text", ["{", "{}", "null"])
def test_a_damaged_result_is_left_to_do(tmp_path, text):
    put(tmp_path, "run0")
    (tmp_path / "runs/run0/result.json").write_text(text)
    assert progress(tmp_path, PLANNED).left == 10

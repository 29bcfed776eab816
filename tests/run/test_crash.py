"""Killed at any moment, a training goes on by itself and ends with the bits of an uninterrupted one."""

import io
import json
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import time

import crash_worker
import pytest
import torch
from helpers import PATIENCE, Evil

from rdlib.errors import InputError
from rdlib.run import checkpoint as ck
from rdlib.run.checkpoint import NEWEST, PREVIOUS, Checkpoint

KILLS_PER_RUN, RUNS = 6, 2
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["rdlib.fit", "rdlib.score", "torch._dynamo"])  # the slow imports, once for all


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """What it must end with, and how many seconds it takes."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    finish(folder)
    start = time.perf_counter()
    finish(tmp_path_factory.mktemp("again"))
    return json.loads((folder / "end.json").read_text()), time.perf_counter() - start


def start(folder, slow_disk=False):
    process = CONTEXT.Process(target=crash_worker.train, args=(folder, slow_disk))
    process.start()
    return process


def half_written_files(folder):
    return {file.name for file in folder.glob(".*.tmp")}


def wait_for_a_write(process, folder, number):
    """Until the process has begun to write for the `number`th time, or has ended."""
    old = half_written_files(folder)  # of a process that was killed
    seen = set(old)
    while process.is_alive() and len(seen - old) < number:
        seen |= half_written_files(folder)
        time.sleep(0.005)


def finish(folder):
    process = start(folder)
    process.join(PATIENCE)
    assert process.exitcode == 0


@pytest.mark.parametrize("slow_disk", [False, True], ids=["any moment", "while writing"])
@pytest.mark.parametrize("run", range(RUNS))
def test_killed_again_and_again_it_ends_with_the_same_bits(tmp_path, uninterrupted, run, slow_disk):
    """24 kills in all, on the slow disk in the middle of writing a checkpoint, as the half-written files show."""
    expected, seconds = uninterrupted
    rng = random.Random(f"{run}{slow_disk}")
    kills = half_written = 0
    while kills < KILLS_PER_RUN:
        before = half_written_files(tmp_path)
        process = start(tmp_path, slow_disk)
        if slow_disk:
            wait_for_a_write(process, tmp_path, rng.randint(1, 3))
            process.join(crash_worker.SLOW_S * rng.uniform(0, 0.9))
        else:
            process.join(seconds * rng.uniform(0.2, 1.2))
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:  # ended before the kill: start again from nothing
            assert process.exitcode == 0 and json.loads((tmp_path / "end.json").read_text()) == expected
            for file in tmp_path.iterdir():
                file.unlink()
            seconds *= 0.7  # the machine is less busy than when it was measured
            continue
        kills += 1
        half_written += bool(half_written_files(tmp_path) - before)
    finish(tmp_path)
    assert json.loads((tmp_path / "end.json").read_text()) == expected
    assert half_written > 0 or not slow_disk


def test_it_really_went_on_and_did_not_start_again(tmp_path, uninterrupted):
    finish(tmp_path)
    (tmp_path / "end.json").unlink()
    found = Checkpoint(tmp_path, {"config": crash_worker.CFG.to_dict()})
    assert len(found.load()["losses"]) == 12 and found.resumed_from == 12 and len(found.notes) == 12
    finish(tmp_path)  # nothing left to train
    assert json.loads((tmp_path / "end.json").read_text()) == uninterrupted[0]


# --- Checkpoints ----------------------------------------------------------------------------------------------------


def two_checkpoints(folder):
    checkpoint = Checkpoint(folder, {"lr": 0.1})
    for epoch in (1, 2):
        checkpoint.notes[:] = [epoch]
        checkpoint.save({"losses": [0.5] * epoch, "x": torch.full((2,), epoch)})
    return Checkpoint(folder, {"lr": 0.1})


def test_the_newest_is_used_and_the_previous_kept(tmp_path):
    checkpoint = two_checkpoints(tmp_path)
    assert checkpoint.load()["x"].tolist() == [2, 2] and checkpoint.notes == [2]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([NEWEST, PREVIOUS])
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == [] and checkpoint.load() is None


@pytest.mark.parametrize("damage", ["cut", "empty", "one bit", "gone"])
def test_a_damaged_newest_is_noticed_and_the_previous_used(tmp_path, damage):
    checkpoint, newest = two_checkpoints(tmp_path), tmp_path / NEWEST
    raw = bytearray(newest.read_bytes())
    raw[len(raw) // 2] ^= 1
    newest.write_bytes({"cut": raw[:-100], "empty": b"", "one bit": raw, "gone": b""}[damage])
    if damage == "gone":
        newest.unlink()
    assert checkpoint.load()["x"].tolist() == [1, 1] and checkpoint.notes == [1]
    checkpoint.save({"losses": [0.5] * 3, "x": torch.full((2,), 3)})
    newest.unlink()
    assert checkpoint.load()["x"].tolist() == [1, 1], "what was good was not replaced by what was damaged"
    (tmp_path / PREVIOUS).write_bytes(b"also damaged")
    assert checkpoint.load() is None


@pytest.mark.parametrize("name, value", [("lr", 0.2), ("data_manifest", "other"), ("format", 999), ("numerics", 999)])
def test_a_checkpoint_of_another_run_format_or_numerics_is_refused(tmp_path, monkeypatch, name, value):
    two_checkpoints(tmp_path)
    if name in ("format", "numerics"):  # the library's own
        monkeypatch.setattr(ck, name.upper(), value)
    with pytest.raises(InputError, match=f"made with another {name}; remove the folder"):
        Checkpoint(tmp_path, {"lr": 0.1, name: value}).load()


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def whole(**changed):
    identity = json.dumps({"lr": 0.1, "format": ck.FORMAT, "numerics": ck.NUMERICS})
    return {"identity": identity, "notes": "[]", "state": {"losses": []}} | changed


ODD = {
    "empty": b"",
    "cut": saved([1, 2])[:40],
    "a list": saved([1, 2]),
    "identity no JSON": saved(whole(identity="{")),
    "without losses": saved(whole(state={})),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_whole_but_no_checkpoint_is_a_sentence(tmp_path, name):
    (tmp_path / NEWEST).write_bytes(ck.hashlib.sha256(ODD[name]).digest() + ODD[name])
    with pytest.raises(InputError, match=f"its checkpoint is not rdlib's .*; remove {NEWEST}"):
        Checkpoint(tmp_path, {"lr": 0.1}).load()


@pytest.mark.parametrize(
    "part, value", [("model", {"student.x": torch.ones(1)}), ("model", 3), ("optimiser", {}), ("order", torch.ones(2))]
)
def test_a_state_that_does_not_fit_the_model_is_a_sentence(tmp_path, part, value):
    net = crash_worker.model.build(crash_worker.CFG, crash_worker.TinyTeacher())
    optimiser, order = crash_worker.fit.optimiser_of(net, crash_worker.CFG), torch.Generator()
    Checkpoint(tmp_path, {}).save(crash_worker.fit.state_of(net, optimiser, order, []) | {part: value})
    with pytest.raises(InputError, match="its checkpoint does not fit this model"):
        crash_worker.fit.restore(Checkpoint(tmp_path, {}), net, optimiser, order)


def test_a_hostile_checkpoint_is_refused_and_runs_nothing(tmp_path):
    content = pickle.dumps(Evil(tmp_path / "hacked"), protocol=2)
    (tmp_path / NEWEST).write_bytes(ck.hashlib.sha256(content).digest() + content)
    with pytest.raises(InputError, match="its checkpoint is not rdlib's"):
        Checkpoint(tmp_path, {}).load()
    assert not (tmp_path / "hacked").exists()


def test_a_checkpoint_of_version_0_2_0_goes_on(tmp_path):
    """It holds random states besides, which nothing draws from."""
    content = saved(whole(random={"python": [3, [1], None], "torch": torch.get_rng_state()}, state={"losses": [0.5]}))
    (tmp_path / NEWEST).write_bytes(ck.hashlib.sha256(content).digest() + content)
    assert Checkpoint(tmp_path, {"lr": 0.1}).load() == {"losses": [0.5]}


def test_time_between_checkpoints(tmp_path):
    assert Checkpoint(tmp_path, {}, every_s=0).due and not Checkpoint(tmp_path, {}, every_s=60).due


# --- Full and read-only disks -----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs with room for one checkpoint and a half."""
    folder = tmp_path / "disk"
    folder.mkdir()
    probe = tmp_path / "probe"
    finish(probe)
    size = int(1.5 * (probe / NEWEST).stat().st_size) // 4096 * 4096
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True, text=True)
    if done.returncode:
        missing = f"a small tmpfs is needed, which takes root (as in a container): {done.stderr}"
        pytest.fail(missing) if os.environ.get("CI") or os.geteuid() == 0 else pytest.skip(missing)
    yield folder
    subprocess.run(["umount", folder], check=True)


def worker(folder):
    return subprocess.run([sys.executable, crash_worker.__file__, folder], capture_output=True, text=True)


def test_a_full_disk_ends_with_a_sentence_and_the_previous_state_is_usable(tmp_path, small_disk, uninterrupted):
    found = worker(small_disk)
    assert found.returncode == 3 and found.stdout.startswith(
        f"InputError: {small_disk / NEWEST}: cannot be written (No space left on device)"
    )
    assert len(Checkpoint(small_disk, {"config": crash_worker.CFG.to_dict()}).load()["losses"]) == 1
    assert not list(small_disk.glob(".*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert worker(small_disk).returncode == 0
    assert json.loads((small_disk / "end.json").read_text()) == uninterrupted[0]


def test_a_folder_that_becomes_read_only_ends_with_a_sentence(small_disk, uninterrupted):
    """In the middle of a training; writable again, it goes on to the same bits."""
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    process = start(small_disk, slow_disk=True)
    while not (small_disk / PREVIOUS).exists():
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    found = worker(small_disk)
    assert found.returncode == 3 and "cannot be written (Read-only file system); make room or allow writing" in found.stdout
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert 2 <= len(Checkpoint(small_disk, {"config": crash_worker.CFG.to_dict()}).load()["losses"]) < 12
    assert worker(small_disk).returncode == 0
    assert json.loads((small_disk / "end.json").read_text()) == uninterrupted[0]

"""Several GPUs of one machine: each command gets one that no other has. There is none here; the devices are names."""

import os
import signal
import subprocess
import sys

import psutil
import pytest
from helpers import PATIENCE

from rdlib.batch import gpus

SHOW = "import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); sys.stdin.read()"


@pytest.fixture
def project(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    return tmp_path


@pytest.fixture
def command(project):
    """Starts a command on one of the devices; it prints which, and goes on until its input ends."""
    started = []

    def start(devices):
        words = [sys.executable, "-m", "rdlib.batch.gpus", devices, sys.executable, "-c", SHOW]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(words, cwd=project, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": "9"}, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()


def test_each_command_has_a_device_for_itself_and_the_next_one_waits(command):
    running = [command("0,1,GPU-5f") for _ in range(3)]
    assert {process.stdout.readline() for process in running} == {"0\n", "1\n", "GPU-5f\n"}
    late = command("0,1,GPU-5f")
    with pytest.raises(subprocess.TimeoutExpired):
        late.wait(2.5)
    running[1].communicate()  # ends its input
    assert running[1].returncode == 0
    assert late.stdout.readline().strip() in ("0", "1", "GPU-5f")


def test_a_device_named_twice_takes_two_commands(command):
    assert gpus.parse("0,0,1") == ["0", "0", "1"]
    running = [command("0,0,1") for _ in range(3)]
    assert sorted(process.stdout.readline() for process in running) == ["0\n", "0\n", "1\n"]
    late = command("0,0")
    with pytest.raises(subprocess.TimeoutExpired):
        late.wait(2.5)
    for process in running:  # end their input
        process.communicate()
    assert late.stdout.readline() == "0\n"


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_command_gives_its_device_back(command, end):
    first = command("7")
    assert first.stdout.readline() == "7\n"
    first.send_signal(end)
    first.wait(PATIENCE)
    assert command("7").stdout.readline() == "7\n"


def test_what_a_command_leaves_behind_does_not_keep_the_device(project):
    """A shell's background process inherits its open files."""
    on_it = [sys.executable, "-m", "rdlib.batch.gpus", "0"]
    leave = subprocess.run([*on_it, "sh", "-c", "sleep 300 > /dev/null 2>&1 & echo $!"], cwd=project, capture_output=True, text=True)
    orphan = psutil.Process(int(leave.stdout))
    try:
        assert any(f.path.startswith(str(project / gpus.LOCKS)) for f in orphan.open_files())
        assert subprocess.run([*on_it, "true"], cwd=project, timeout=PATIENCE).returncode == 0
    finally:
        orphan.kill()


def test_the_exit_code_is_the_commands(project):
    words = [sys.executable, "-m", "rdlib.batch.gpus", "0", sys.executable, "-c", "raise SystemExit(7)"]
    assert subprocess.run(words, cwd=project).returncode == 7
    assert [p.name.startswith("gpu-") for p in (project / gpus.LOCKS).iterdir()] == [True]

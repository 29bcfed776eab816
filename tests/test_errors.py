"""Memory that runs out and bad input of programs end with a sentence; other errors stay what they are."""

import runpy
import subprocess
import sys

import pytest
import torch
from helpers import REPO

from rdlib.errors import InputError, exit_in_words, memory_in_words
from rdlib.paths import PACKAGE


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"
        ),
    ],
    ids=["python", "cuda", "cpu"],
)
def test_memory_that_runs_out_is_said_in_words(error):
    with (
        pytest.raises(InputError, match="out of memory while training; take a smaller batch_size or image_size"),
        memory_in_words("training"),
    ):
        raise error


def test_an_allocation_that_is_really_too_large():
    with pytest.raises(InputError, match="out of memory while scoring"), memory_in_words("scoring"):
        torch.empty(2**50)


def test_another_runtime_error_stays_what_it_is():
    with pytest.raises(RuntimeError, match="shapes"), memory_in_words("training"):
        raise RuntimeError("shapes do not fit")


# --- Programs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, said",
    [
        (["run/progress", "typo"], "profile='typo': must be one of demo, cpu, paper"),
        (["batch/reference", "typo"], "profile='typo': must be one of demo, cpu, paper"),
        (["report/page", "results/typo"], "results/typo: no run files"),
        (["batch/gpus", "0 1", "true"], "devices separated by commas"),
        (["batch/compare", "broken", "broken"], "broken/runs/x/result.json: "),
        (
            ["batch/failure", "file/result.json", "x", '{"dataset": "demo", "category": "brick"}', "3", "3"],
            "file/result.json: cannot be written",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_program_ends_with_the_sentence_and_exit_code_1(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken/runs/x").mkdir(parents=True)
    (tmp_path / "broken/runs/x/result.json").write_text("{")
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(PACKAGE / f"{words[0]}.py"), run_name="__main__")
    assert said in end.value.code and isinstance(end.value.code, str), "what sys.exit prints, and returns as 1"


def test_other_errors_of_a_program_keep_their_traceback():
    with pytest.raises(KeyError), exit_in_words():
        raise KeyError("x")


@pytest.mark.parametrize(
    "words, said",
    [
        ("reproduce ON=lsf", "ON=lsf: no profiles/lsf/config.yaml; there is: slurm"),
        ("reproduce ON=slurm GPUS=0", "GPUS are those of this machine; on a cluster (slurm) the scheduler assigns them"),
    ],
)
def test_make_says_what_cannot_be(words, said):
    made = subprocess.run(["make", "--dry-run", *words.split()], cwd=REPO, capture_output=True, text=True)
    assert made.returncode == 2 and said in made.stderr and "snakemake" not in made.stdout

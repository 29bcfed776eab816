"""Provenance: complete, and of this project only."""

import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from helpers import REPO, config

from rdlib.run import provenance
from rdlib.run.provenance import revision

CFG, HARDWARE = config(), {"device": "cpu", "gpu": "", "threads": 1}
MORE = {"teacher_sha256": "abc", "data_manifest": "def", "shared": {"images": "read"}, "resumed_from": 3}


def git(folder, *words):
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_provenance_traces_a_number():
    found = provenance.provenance(CFG, hardware=HARDWARE, **MORE)
    assert found["git_revision"] == git(REPO, "rev-parse", "HEAD") and isinstance(found["git_dirty"], bool)
    assert found["lock_sha256"] == hashlib.sha256((REPO / "requirements.txt").read_bytes()).hexdigest()
    assert found["packages"]["numpy"] == np.__version__ and found["packages"]["pandas"] == pd.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert (found["seed"], found["torch_seed"]) == (CFG.seed, CFG.torch_seed)
    assert found | HARDWARE | MORE == found and found["cpu"] and found["os"] and found["finished_at"].endswith("+00:00")


@pytest.mark.parametrize(
    "weights_id, same_function, said",
    [("", False, "published"), ("", True, "published"), ("0123abcd", False, "own"), ("0123abcd", True, "same function")],
)
def test_it_says_whose_the_weights_are(weights_id, same_function, said):
    cfg = dataclasses.replace(CFG, weights_id=weights_id)
    assert provenance.provenance(cfg, hardware=HARDWARE, same_function=same_function, **MORE)["weights"] == said


@pytest.fixture
def repository(tmp_path):
    """A repository with one commit, and a folder in it that is none."""
    (tmp_path / "inner").mkdir()
    git(tmp_path, "init", "-q")
    (tmp_path / "file").touch()
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "x")
    return tmp_path


def test_the_revision_of_a_repository_around_the_project_is_not_its_own(repository):
    head = git(repository, "rev-parse", "HEAD")
    assert revision(repository) == {"git_revision": head, "git_dirty": False}
    (repository / "inner" / "new").touch()
    assert revision(repository) == {"git_revision": head, "git_dirty": True}
    assert revision(repository / "inner") == {"git_revision": "", "git_dirty": False}
    (repository / "link").symlink_to(repository)
    assert revision(repository / "link") == revision(repository)


def test_without_git_there_is_no_revision(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert revision(REPO) == {"git_revision": "", "git_dirty": False}

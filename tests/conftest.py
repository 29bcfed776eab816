"""One thread and a fresh, known random state for every test: no test depends on another, or on the number of cores."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # also in what a test starts: threads of two processes on the same cores wait for each other

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("any_machine", deadline=None)  # a busy machine is no failure
settings.load_profile("any_machine")
torch.set_num_threads(1)

# Minutes each: first, so that no core ends up waiting for another; the two that take every core are not next to each other.
LONG = ("test_killed_batch", "test_run", "test_crash", "test_own", "test_report", "test_slurm")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    np.random.seed(0)
    yield
    torch.use_deterministic_algorithms(False)

"""One thread and a fresh, known random state for every test: no test depends on another, or on the number of cores."""

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("any_machine", deadline=None)  # a busy machine is no failure
settings.load_profile("any_machine")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    np.random.seed(0)
    yield
    torch.use_deterministic_algorithms(False)

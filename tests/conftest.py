"""One thread and a fresh, known random state for every test: no test depends on another, or on the number of cores."""

import os
import shutil

os.environ["OMP_NUM_THREADS"] = "1"  # also in what a test starts: threads of two processes on the same cores wait for each other

import numpy as np
import pytest
import torch
from helpers import PATIENCE, REPO
from hypothesis import settings
from playwright.sync_api import expect, sync_playwright

settings.register_profile("any_machine", deadline=None)  # a busy machine is no failure
settings.load_profile("any_machine")
torch.set_num_threads(1)
expect.set_options(timeout=1000 * PATIENCE)
ARTIFACTS = REPO / "results" / "test-artifacts"  # screenshots of the browser tests, to be looked at

# Minutes each: first, so that no core ends up waiting for another; the two that take every core are not next to each other.
LONG = ("test_killed_batch", "test_run", "test_crash", "test_images", "test_report", "test_slurm")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    np.random.seed(0)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def browser():
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("chromium is not installed: run `make browser`, or `apt-get install chromium` as root", pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def keep():
    """keep(page, name): a screenshot of what is in view, kept as an artefact."""

    def screenshot(page, name):
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=ARTIFACTS / f"{name}.png")

    return screenshot

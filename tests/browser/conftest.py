"""Debian's Chromium, driven by Playwright. Screenshots are kept in results/test-artifacts/ to be looked at."""

import shutil

import pytest
from helpers import PATIENCE, REPO
from playwright.sync_api import expect, sync_playwright

ARTIFACTS = REPO / "results" / "test-artifacts"
expect.set_options(timeout=1000 * PATIENCE)


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

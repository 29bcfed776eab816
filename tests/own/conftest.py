"""What the tests of the reader's own images share."""

import own_folders
import pytest


@pytest.fixture
def judge():
    return own_folders.judge()

"""What all tests share: commands that note something about this user do it in a folder of the test run."""

import os
import tempfile

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_state():
    with tempfile.TemporaryDirectory() as folder:
        before = os.environ.get("XDG_STATE_HOME")
        os.environ["XDG_STATE_HOME"] = folder
        yield
        if before is None:
            del os.environ["XDG_STATE_HOME"]
        else:
            os.environ["XDG_STATE_HOME"] = before

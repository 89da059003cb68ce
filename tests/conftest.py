"""What all tests share: what commands note about this user goes to a folder of the run; no example of a property is timed."""

import os
import tempfile

import pytest
from hypothesis import settings

settings.register_profile("inferstack", settings.default, deadline=None)  # how long an example takes says something about the machine only
settings.load_profile("inferstack")


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

"""What all tests share: what commands note about this user goes to a folder of the run; no example of a property is timed."""

import os
import shutil
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


@pytest.fixture(scope="module")
def browser():
    """A real browser without a window; skips where there is no Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()

"""The command `inferstack` with the fake runtime in the place of the real one: `python command.py ARGUMENTS`."""

import sys
from pathlib import Path

from inferstack.cli import main
from inferstack.local import programs

programs.runtime = lambda: [sys.executable, str(Path(__file__).with_name("fake_runtime.py"))]
main()

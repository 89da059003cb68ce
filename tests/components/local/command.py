"""The command `inferstack` with the fake runtime in the place of the real one: `python command.py ARGUMENTS`.

Prometheus and Alertmanager count as installed only when MONITORS is set, so that a test does not depend on the machine.
"""

import os
import sys
from pathlib import Path

from inferstack.cli import main
from inferstack.local import monitoring, programs

programs.runtime = lambda: [sys.executable, str(Path(__file__).with_name("fake_runtime.py"))]
if "MONITORS" not in os.environ:
    monitoring.find = lambda: {name: monitoring.Monitor(name, None) for name in (monitoring.ALERTMANAGER, monitoring.PROMETHEUS)}
main()

"""`inferstack` as a process that stops itself (SIGSTOP) before one platform call of one phase, to be killed there.

python -m tests.components.promotion.proof.halted RUNTIME PHASE CALL WORDS...

RUNTIME is the file to start slots from, PHASE the journal's, CALL the number of the call in it, from 0, WORDS the command's own.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from inferstack.local import programs
from inferstack.local.layout import read_json
from inferstack.platforms.local import LocalPlatform

CALLS = (
    "observe",
    "render",
    "set_weights",
    "scale",
    "set_floor",
    "verify",
    "probe",
    "warm",
    "exercise",
    "compare",
    "agreement",
    "metrics",
    "write_journal",
    "renew_lease",
    "release_lease",
)
"""What counts as a call: everything between the lease taken and given back."""


def halt(phase: str, call: int) -> None:
    """From now on the process stops itself right before that call of that phase, once."""
    left = [call]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def work(self: LocalPlatform, *arguments: Any, **options: Any) -> Any:
            journal = read_json(self._machine.layout.journal)
            if left and journal and journal["phase"] == phase and self._held is not None:
                if left[0] == 0:
                    left.clear()
                    os.kill(os.getpid(), signal.SIGSTOP)
                else:
                    left[0] -= 1
            return function(self, *arguments, **options)

        return work

    for name in CALLS:
        setattr(LocalPlatform, name, counted(getattr(LocalPlatform, name)))


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
    _, runtime, phase, call, *words = sys.argv
    programs.runtime = lambda: [sys.executable, runtime]
    halt(phase, int(call))
    from inferstack.cli import main as inferstack

    sys.argv = ["inferstack", *words]
    inferstack()


if __name__ == "__main__":
    main()

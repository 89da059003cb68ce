"""What the promotion commands share: the session on an environment's platform, errors, and how an ended operation is told."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inferstack.cli._progress import Progress
from inferstack.cli._records import comparison_table
from inferstack.cli._stop import HeedingClock, stoppable
from inferstack.cli.output import ExitCode, Failure, console, read_environment, unheard
from inferstack.environment import Environment, Platform
from inferstack.platforms.holder import holder_name, person
from inferstack.promotion.commands import Ended, Session
from inferstack.promotion.journal import JournalUnreadable, Outcome
from inferstack.promotion.lease import LeaseHeld, LeaseLost
from inferstack.promotion.platform import PlatformError
from inferstack.promotion.spec import SlotSpec
from inferstack.promotion.transition import NotNow


@dataclass(frozen=True)
class Opened:
    """An environment with its platform at hand."""

    root: Path
    name: str
    environment: Environment
    platform: Any
    """Implements promotion's Platform and Clock."""

    def session(self, progress: Progress) -> Session:
        base = SlotSpec.from_environment(self.environment)
        return Session(self.name, self.platform, HeedingClock(self.platform), progress, holder_name(), person(), base)


def open_environment(name: str, project: Path | None, *, running: bool = True) -> Opened:
    """The environment and its platform; raises Failure or InvalidEnvironment. `running`: one of this machine must be up, not only have
    been so."""
    root, environment = read_environment(name, project)
    with orderly(name):
        if environment.platform is Platform.LOCAL:
            from inferstack.local.machine import LocalMachine
            from inferstack.platforms.local import LocalPlatform

            machine = LocalMachine.open(root, name) if running else LocalMachine.at(root, name)
            return Opened(root, name, environment, LocalPlatform(machine))
        from inferstack.platforms.kube_open import open_cluster

        return Opened(root, name, environment, open_cluster(root, name, environment))


@contextmanager
def orderly(name: str, progress: Progress | None = None) -> Iterator[None]:
    """Faults as failures with exit code and next step; SIGINT, SIGTERM and SIGHUP leave a state that can be resumed, and say how."""
    from inferstack.local.errors import LocalError

    try:
        with stoppable(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            yield
    except KeyboardInterrupt:
        where = f" in phase {progress.phase}, weights {progress.weights}" if progress and progress.phase else ""
        raise Failure(
            f"interrupted{where}; nothing is lost: the journal says how far it came",
            code=ExitCode.INTERRUPTED,
            next_step=f"`inferstack recover {name}` goes on, `inferstack abort {name}` turns back",
        ) from None
    except LeaseHeld as error:
        raise Failure(
            f"{name}: {error}. Nothing was changed.",
            code=ExitCode.PLATFORM,
            next_step=f"wait for it; if that promoter died, `inferstack recover {name}` takes over",
            details={"holder": error.lease.holder, "since": error.lease.acquired},
        ) from None
    except NotNow as error:
        raise Failure(f"{name}: {error}", code=ExitCode.INPUT, next_step=f"inferstack status {name}") from None
    except LocalError as error:
        raise Failure(error.message, code=ExitCode(error.exit_code), path=error.path, next_step=error.next_step) from None
    except LeaseLost as error:
        raise Failure(
            f"{name}: {error}",
            code=ExitCode.PLATFORM,
            next_step=f"`inferstack status {name}` shows how far the other came",
        ) from None
    except (PlatformError, JournalUnreadable) as error:
        raise Failure(
            f"{name}: {error}",
            code=ExitCode.PLATFORM,
            next_step=f"`inferstack recover {name}` goes on from the journal once that is mended",
        ) from None


def tell(name: str, ended: Ended, progress: Progress, *, as_json: bool) -> int:
    """Say how it ended and return the exit code."""
    outcome, entry, journal = ended.outcome, ended.entry, ended.journal
    progress.finish(name, ended)
    code = {
        None: ExitCode.DONE,
        Outcome.COMMITTED: ExitCode.DONE,
        Outcome.REVERTED: ExitCode.REVERTED,
        Outcome.REFUSED: ExitCode.INPUT,
        Outcome.FROZEN: ExitCode.PLATFORM,
    }[outcome]
    if as_json:
        return int(code)
    if entry is not None and (table := comparison_table(entry.verdicts)) is not None:
        with unheard():
            console().print(table)
    reason = entry.reason if entry is not None else ended.rest.reason
    if code is not ExitCode.DONE:
        advice = (
            f"`inferstack history {name}` shows it again"
            if outcome is not Outcome.FROZEN
            else f"`inferstack recover {name}` once it is mended"
        )
        raise Failure(f"{outcome}: {reason}", code=code, next_step=advice)
    with unheard():
        if entry is None:
            console().print(f"{name}: nothing was unfinished", markup=False)
        else:
            console().print(f"{entry.slot} serves {entry.summary} (generation {entry.generation})", style="bold green", markup=False)
        if journal.kept_until is not None and journal.previous is not None:
            left = max(0.0, journal.kept_until - progress.now())
            console().print(
                f"{journal.previous} stays warm for {left:.0f} s: `inferstack rollback {name}` needs no start until then; "
                f"`inferstack recover {name}` shrinks it afterwards",
                markup=False,
            )
    return int(code)

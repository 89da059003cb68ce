"""What can go wrong on one machine, said so that a person knows what to do next."""


class LocalError(Exception):
    """A local environment cannot do what was asked. `exit_code` is 2 (the input is wrong) or 5 (this machine failed)."""

    def __init__(self, code: str, message: str, *, path: str | None = None, next_step: str | None = None, exit_code: int = 5) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.path = path
        self.next_step = next_step
        self.exit_code = exit_code


class NotRunning(LocalError):
    """The environment, or one of its parts, is not running."""

    def __init__(self, environment: str, what: str = "is not running") -> None:
        super().__init__("not_running", f"environment {environment} {what}", next_step=f"inferstack up {environment}")

"""What a request was admitted for, and what it used in the end."""

from inferstack_runtime.access.limits import Admission, Limiter


class Account:
    """What one request of `parts` generations really used, settled when the last of them has ended; given back when all have failed."""

    def __init__(self, limiter: Limiter, admission: Admission, parts: int) -> None:
        self._limiter = limiter
        self._admission = admission
        self._left = parts
        self._tokens = 0
        self._failed = parts > 0
        if not parts:
            limiter.settle(admission, 0)

    def add(self, tokens: int, *, failed: bool) -> None:
        """One of its generations has ended."""
        self._tokens += tokens
        self._left -= 1
        self._failed = self._failed and failed
        if self._left:
            return
        if self._failed:
            self._limiter.refund(self._admission)
        else:
            self._limiter.settle(self._admission, self._tokens)

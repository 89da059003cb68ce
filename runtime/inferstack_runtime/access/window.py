"""Requests and tokens of one tenant in any 60 s, counted per second.

A second's count is kept until it lies wholly outside the window, so the limit holds for every 60 s, not only for those that begin
on the minute. `limits.lua` is the same arithmetic on the shared server; this is the estimate of one process when that is away.
"""

from dataclasses import dataclass, field

WINDOW = 60


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the limits say to one request. `second` is where it was counted; `wait` the seconds until it would pass (0: it passed)."""

    allowed: bool
    remaining_requests: int
    remaining_tokens: int
    wait: int
    second: int
    reason: str = ""


@dataclass(slots=True)
class Window:
    """Counts by second: second to [requests, tokens]."""

    seconds: dict[int, list[int]] = field(default_factory=dict)

    def admit(self, now: int, requests: int, tokens: int, request_limit: int, token_limit: int) -> Verdict:
        """Count a request that fits both limits; say how long one that does not fit has to wait."""
        for second in [second for second in self.seconds if second < now - WINDOW]:
            del self.seconds[second]
        used_requests = sum(count[0] for count in self.seconds.values())
        used_tokens = sum(count[1] for count in self.seconds.values())
        over_requests = used_requests + requests - request_limit
        over_tokens = used_tokens + tokens - token_limit
        if over_requests > 0 or over_tokens > 0:
            wait = 1
            for second in sorted(self.seconds):
                over_requests -= self.seconds[second][0]
                over_tokens -= self.seconds[second][1]
                wait = second + WINDOW + 1 - now
                if over_requests <= 0 and over_tokens <= 0:
                    break
            reason = "rate" if used_requests + requests > request_limit else "tokens"
            return Verdict(False, max(0, request_limit - used_requests), max(0, token_limit - used_tokens), max(1, wait), now, reason)
        count = self.seconds.setdefault(now, [0, 0])
        count[0] += requests
        count[1] += tokens
        return Verdict(True, request_limit - used_requests - requests, token_limit - used_tokens - tokens, 0, now)

    def settle(self, second: int, requests: int, tokens: int) -> None:
        """Change what was counted at `second` (negative: give back); nothing happens once that second has left the window."""
        count = self.seconds.get(second)
        if count is not None:
            count[0] = max(0, count[0] + requests)
            count[1] = max(0, count[1] + tokens)

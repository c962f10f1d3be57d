"""A real Postgres for the tests: Debian's packages, a temporary folder, a Unix socket, gone at the end."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

MISSING = "Postgres is not installed: `apt-get install -y postgresql`, or put initdb and pg_ctl into PATH"


class PostgresServer:
    """A cluster of its own. ``fsync`` is off: what is tested survives killed processes, not a lost power supply."""

    def __init__(self, folder: Path, programs: Path, run_as: list[str]) -> None:
        self._folder = folder
        self._programs = programs
        self._run_as = run_as
        self._data = folder / "data"

    def create(self) -> None:
        self._call("initdb", "-D", self._data, "-U", "segue", "-A", "trust", "-E", "UTF8", "-N", "--locale=C")
        self.start()

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories='{self._folder}' -c fsync=off"
        self._call("pg_ctl", "-D", self._data, "-l", self._folder / "log", "-w", "-o", options, "start")

    def stop(self) -> None:
        self._call("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "stop")

    def url(self, database: str) -> str:
        return f"postgresql://segue@/{database}?host={self._folder}"

    def new_database(self) -> str:
        """The URL of a fresh, empty database."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def _call(self, program: str, *arguments: object) -> None:
        done = subprocess.run(
            [*self._run_as, str(self._programs / program), *map(str, arguments)],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE
            if program == "initdb"
            else subprocess.DEVNULL,  # a server keeps a pipe open
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            log = self._folder / "log"
            raise RuntimeError(
                f"{program} failed: {done.stdout or (log.read_text() if log.is_file() else '')}"
            )


def installed() -> Path | None:
    """The folder of initdb and pg_ctl: the newest that Debian installed, else PATH's."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: float(path.parent.parent.name)
    )
    if found:
        return found[-1].parent
    program = shutil.which("pg_ctl")
    return None if program is None else Path(program).resolve().parent


@contextmanager
def running() -> Iterator[PostgresServer]:
    """A server until the end of the block; the test is skipped, saying why, where there is none to run."""
    programs = installed()
    if programs is None:
        pytest.skip(MISSING)
    # A short path (a socket's may have 107 bytes) that another user may enter: pytest's own folders forbid it.
    folder = Path(tempfile.mkdtemp(prefix="segue-pg-"))
    run_as: list[str] = []
    if os.geteuid() == 0:  # Postgres refuses to run as root
        run_as = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "env", "HOME=/"]
        shutil.chown(folder, "nobody", "nogroup")
    folder.chmod(0o755)
    server = PostgresServer(folder, programs, run_as)
    try:
        server.create()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)

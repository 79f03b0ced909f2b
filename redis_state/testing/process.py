"""One server process in a private directory; neither outlives the process that started it."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ServerProcess"]

# A shell that waits for the end of its input, which comes when this process closes the pipe or dies of
# anything, SIGKILL included. Each line it reads is the server's current pid, or empty for none. Not
# PR_SET_PDEATHSIG: that fires when the thread that started the server ends, as an executor's threads do.
WATCHDOG = 'while read -r line; do pid=$line; done; [ -n "$pid" ] && kill -9 "$pid"; rm -rf -- "$1"'

# A unix socket's path may have 107 bytes on Linux and 103 elsewhere.
LONGEST_DIRECTORY = 80


class ServerProcess:
    """A process with a directory of its own, started and stopped with blocking calls of a few milliseconds.

    The directory has mode 0700 and is there from `prepare` to `remove`; processes may come and go in it.
    """

    def __init__(self) -> None:
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()

    @property
    def directory(self) -> Path:
        """Where the process runs and writes.

        Raises:
            RuntimeError: `prepare` was not called.
        """
        if self._directory is None:
            raise RuntimeError("The server was not started.")
        return self._directory

    @property
    def prepared(self) -> bool:
        """Whether there is a directory."""
        return self._directory is not None

    @property
    def running(self) -> bool:
        """Whether there is a process and it has not ended; a frozen one counts."""
        process = self._process
        if process is None or process.poll() is None:
            return process is not None
        self._process = None  # it ended by itself, and its pid is free for others
        self._watch(None)
        return False

    @property
    def pid(self) -> int:
        """The id of the running process.

        Raises:
            RuntimeError: None is running.
        """
        process = self._process
        if process is None or not self.running:
            raise RuntimeError("The server is not running.")
        return process.pid

    def prepare(self) -> None:
        """Make the directory and start to watch over it."""
        directory = tempfile.mkdtemp(prefix="redis-state-")
        if len(os.fsencode(directory)) > LONGEST_DIRECTORY:
            Path(directory).rmdir()
            directory = tempfile.mkdtemp(prefix="redis-state-", dir="/tmp")
        self._directory = Path(directory)
        self._owner = os.getpid()
        atexit.register(self._remove_at_exit)
        self._watchdog = subprocess.Popen(  # noqa: S603 - the script is the constant above
            ["/bin/sh", "-c", WATCHDOG, "sh", directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            start_new_session=True,  # a Ctrl-C at the terminal must not end it before its work is done
        )

    def launch(self, command: Sequence[str | Path]) -> None:
        """Run `command` in the directory; what it prints goes to the log."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - the command is the caller's server
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                start_new_session=True,  # a Ctrl-C is for the tests, which then stop the server
            )
        self._watch(self._process.pid)

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of what the process printed."""
        try:
            text = (self.directory / "log").read_text(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def forget_log(self) -> None:
        """Empty the log."""
        (self.directory / "log").write_bytes(b"")

    def kill(self) -> None:
        """End the process with SIGKILL, frozen or not, and wait until it is gone; the directory stays."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        self._watch(None)  # before wait() frees the pid for others
        process.wait()

    def freeze(self) -> None:
        """Stop the process with SIGSTOP and return when it has stopped."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def remove(self) -> None:
        """End the process and remove the directory; nothing happens when nothing is there."""
        self.kill()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
        if self._watchdog is not None:
            self._watchdog.communicate()
            self._watchdog = None
        atexit.unregister(self._remove_at_exit)

    def _remove_at_exit(self) -> None:
        if os.getpid() == self._owner:  # a forked child inherits the call, not the server
            self.remove()

    def _watch(self, pid: int | None) -> None:
        assert self._watchdog is not None
        assert self._watchdog.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # somebody killed it
            self._watchdog.stdin.write(b"%d\n" % pid if pid is not None else b"\n")

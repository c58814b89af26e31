"""Processes of a measured system: started, spoken to in lines, metered, ended.

Owns reading /proc: processor time and peak memory of a process and of its children. Knows no
system. Linux only, as the benchmark is.
"""

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.movers.base import NotMeasured, Usage

LINE_TIMEOUT_S = 30.0
END_TIMEOUT_S = 15.0
TRANSFER_MAX_S = 900.0
"""No transfer takes longer; then it has failed."""
LOOK_S = 0.05
"""How often memory is read."""
SYSTEM_PATH = "/usr/sbin:/usr/local/sbin"
"""Where servers lie that are not on everybody's PATH."""
TICKS_HZ = os.sysconf("SC_CLK_TCK")


def program(name: str) -> str:
    """The path of an installed program; NotMeasured where it is missing."""
    found = shutil.which(name) or shutil.which(name, path=SYSTEM_PATH)
    if found is None:
        raise NotMeasured(f"{name} is not installed")
    return found


class Process:
    """A process that lives as long as its `with` block, in a process group of its own."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._log = folder / "log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._rest = b""

    def say(self, line: str) -> None:
        """Write a line to its input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def hear(self, timeout_s: float = LINE_TIMEOUT_S) -> str:
        """Read a line of its output."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                part = b""
                if selector.select(max(0.0, deadline - time.monotonic())):
                    part = os.read(descriptor, 4096)
                if not part:
                    raise RuntimeError(f"nothing heard of process {self.pid}: {self.words()}")
                self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def words(self) -> str:
        """What it last said on stderr."""
        return self._log.read_text(errors="replace")[-1000:].strip()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_TIMEOUT_S)
                break
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


class Meter:
    """What processes take between two moments; those that they have started count too.

    Memory is looked at all the while: a process that ended meanwhile has none.
    """

    def __init__(self, *pids: int) -> None:
        self._pids = [child for pid in pids for child in tree(pid)]
        for pid in self._pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5", "ascii")  # the peak starts anew
        self._before_s = self._cpu_s()
        self._watch = MemoryWatch(*self._pids)

    def usage(self) -> Usage:
        """What they took since; once."""
        return Usage(self._cpu_s() - self._before_s, self._watch.end())

    def _cpu_s(self) -> float:
        return sum(cpu_s(pid) for pid in self._pids)


class MemoryWatch:
    """Follows the peak memory of processes until `end`."""

    def __init__(self, *pids: int) -> None:
        self._pids = pids
        self.peak_bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def end(self) -> int:
        """The most that one of them had at a time."""
        self._over.set()
        self._thread.join()
        self._look()
        return self.peak_bytes

    def _follow(self) -> None:
        self._look()
        while not self._over.wait(LOOK_S):
            self._look()

    def _look(self) -> None:
        for pid in self._pids:
            with contextlib.suppress(OSError):
                self.peak_bytes = max(self.peak_bytes, peak_rss_bytes(pid))


def run_metered(command: Sequence[str], folder: Path) -> tuple[float, Usage]:
    """Run a command to its end; returns its seconds and what it took. RuntimeError if it fails."""
    log = folder / "command.log"
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    watch = MemoryWatch(process.pid)
    timer = threading.Timer(TRANSFER_MAX_S, process.kill)
    timer.start()
    _, status, taken = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    timer.cancel()
    peak_bytes = watch.end()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        words = log.read_text(errors="replace")[-1000:].strip()
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {words}")
    return seconds, Usage(taken.ru_utime + taken.ru_stime, peak_bytes)


def cpu_s(pid: int) -> float:
    """Processor seconds of a process, all threads, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_HZ


def peak_rss_bytes(pid: int) -> int:
    """The most memory that a process had, since its peak was last reset."""
    for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def tree(pid: int) -> Iterator[int]:
    """A process and those that it started."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text("ascii").split():
            yield from tree(int(child))

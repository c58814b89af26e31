"""What the peer's own side costs, before any network does: `make bench-local`.

Whole-process times of commands, wall clock and processor; the time from a request on the control
socket to the finished file, of 1 KB from a holder that is known; hashing on one thread and on all.
Variants take turns, so that a busy machine is busy for all of them.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.machine import machine
from console.stage import Actor, Stage, free_port
from peer.ahead import in_order
from peer.control_client import call
from peer.home import Home
from transfer import hashing

ROOT = Path(__file__).resolve().parents[1]
CLI = [sys.executable, str(ROOT / "cli.py")]
SMALL_BYTES = 1024
SMALL_FILES = 2_000
BLOCK_BYTES = 1 << 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.local", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--megabytes", type=int, default=256, help="of the file that is hashed")
    options = parser.parse_args()
    for name, value in machine().items():
        print(f"{name}: {value}")
    print(f"medians of {options.repetitions} repetitions in turn; in brackets the least\n")
    with Stage(CLI, keep=False) as stage:
        ada, bob = two_peers(stage)
        commands(bob, options.repetitions)
        requests(bob, options.repetitions)
        del ada
    hashes(options.megabytes, options.repetitions)


def two_peers(stage: Stage) -> tuple[Actor, Actor]:
    """Ada, who shares a small file, and Bob, who has heard of it."""
    ada, bob = stage.actor("ada"), stage.actor("bob")
    address = f"127.0.0.1:{free_port()}"
    network = stage.folder / "network.json"
    ada.run("network", "new", "bench", "--seed", address, "-o", str(network))
    for actor, listen in ((ada, address), (bob, "127.0.0.1:0")):
        actor.start("--network", str(network), "--listen", listen)
        actor.wait_ready()
    (ada.folder / "small.bin").write_bytes(os.urandom(SMALL_BYTES))
    ada.run("put", "small.bin")
    return ada, bob


def commands(bob: Actor, repetitions: int) -> None:
    """Whole processes, from start to end."""
    home = ["--home", str(bob.folder / "home")]
    target = bob.folder / "got.bin"
    variants = {
        "python alone": [sys.executable, "-c", "pass"],
        "shoal --version": [*CLI, "--version"],
        "shoal --help": [*CLI, "--help"],
        "shoal status": [*CLI, *home, "status"],
        "shoal peers": [*CLI, *home, "peers"],
        "shoal get, 1 KB": [
            *CLI, *home, "get", "small.bin", "-o", str(target), "--overwrite", "--no-share",
        ],
    }  # fmt: skip
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for _ in range(repetitions):
        for name, words in variants.items():
            times[name].append(whole_process(words))
    print(f"{'whole process, ms':28}{'wall':>16}{'processor':>16}")
    for name, taken in times.items():
        print(f"{name:28}{_middle([w for w, _ in taken])}{_middle([c for _, c in taken])}")


def whole_process(words: Sequence[str]) -> tuple[float, float]:
    """Run a command; its seconds of wall clock and of processor."""
    began = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{words}: exit {process.returncode}")
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime


def requests(bob: Actor, repetitions: int) -> None:
    """From the request on the control socket to the finished file: the first byte came before."""
    home = Home(bob.folder / "home")
    times = []
    for number in range(repetitions):
        arguments: dict[str, Any] = {
            "what": "small.bin",
            "folder": str(bob.folder),
            "target": str(bob.folder / f"request-{number}"),
            "share": False,
        }
        began = time.perf_counter()
        call(home, "get", arguments, lambda _: None)
        times.append(time.perf_counter() - began)
    print(f"{'request to file, 1 KB, ms':28}{_middle(times)}\n")


def hashes(megabytes: int, repetitions: int) -> None:
    """One large file, and many small ones, on one thread and on all."""
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        large = Path(folder) / "large"
        with large.open("wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(BLOCK_BYTES))
        small = [Path(folder) / str(number) for number in range(SMALL_FILES)]
        for path in small:
            path.write_bytes(os.urandom(4 * SMALL_BYTES))
        everything = hashing.hashing_threads()
        best: dict[tuple[str, int], float] = {}
        for _ in range(repetitions):
            for threads in (1, everything):
                for name, files in (("large", [large]), ("small", small)):
                    taken_s = asyncio.run(_hash_all(files, threads))
                    best[name, threads] = min(best.get((name, threads), taken_s), taken_s)
    print(
        f"{'hashing, the best of all':28}{'1 thread':>16}{f'{everything} threads':>16}{'ratio':>8}"
    )
    sizes = {f"one file, {megabytes} MB, MB/s": ("large", megabytes * BLOCK_BYTES / 1e6)}
    sizes[f"{SMALL_FILES} files of 4 KB, files/s"] = ("small", float(SMALL_FILES))
    for label, (name, amount) in sizes.items():
        one, several = best[name, 1], best[name, everything]
        print(f"{label:28}{amount / one:16.0f}{amount / several:16.0f}{one / several:7.2f}x")


async def _hash_all(files: Sequence[Path], threads: int) -> float:
    """Hash files as a `put` does; the seconds."""
    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        async for _ in in_order(_works(files, pool)):
            pass
        return time.perf_counter() - began


def _works(files: Sequence[Path], pool: ThreadPoolExecutor) -> Iterator[Callable[[], Any]]:
    return (lambda path=path: hashing.hash_file(path, pool=pool) for path in files)  # type: ignore[misc]


def _middle(seconds: Sequence[float]) -> str:
    shown = f"{statistics.median(seconds) * 1000:.0f} ({min(seconds) * 1000:.0f})"
    return f"{shown:>16}"


if __name__ == "__main__":
    main()

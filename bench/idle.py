"""What a peer costs that does nothing: `python -m bench.idle` (Linux: it reads /proc).

Owns one real `shoal join` process, with a home of its own, in an open network of nodes in other
processes, and the reading of its memory, processor time and datagrams over a minute.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.host import run_loop
from bench.machine import machine
from bench.network import ROOT, Layout, network_of

READY_TIMEOUT_S = 30.0
COMMAND_TIMEOUT_S = 30.0
END_TIMEOUT_S = 15.0
CLI = str(ROOT / "cli.py")


@dataclass(frozen=True, slots=True)
class Sample:
    """What the process has used so far."""

    cpu_s: float
    rss_mb: float
    rss_peak_mb: float
    datagrams: int
    contacts: int


def _usage(pid: int) -> tuple[float, float, float]:
    """Processor seconds, resident megabytes, and the most there ever were."""
    times = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    cpu_s = (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    sizes_kb = {
        name: rest.split()[0]
        for name, _, rest in (line.partition(":") for line in lines)
        if name in {"VmRSS", "VmHWM"}
    }
    return cpu_s, int(sizes_kb["VmRSS"]) / 1024, int(sizes_kb["VmHWM"]) / 1024


@contextlib.asynccontextmanager
async def joined_peer(home: Path, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `shoal join` until it is ready, and end it afterwards."""
    network = home / "network.json"
    seeds = [{"host": "127.0.0.1", "port": port}]
    network.write_text(json.dumps({"version": 1, "network": "bench", "bootstrap": seeds}))
    options = ["--network", str(network), "--listen", "127.0.0.1:0", "--no-table", "--name", "idle"]
    peer = await asyncio.create_subprocess_exec(
        *(sys.executable, CLI, "--home", str(home / "home"), "join", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert peer.stdout is not None
        async with asyncio.timeout(READY_TIMEOUT_S):
            line = await peer.stdout.readline()
        if not line.startswith(b"ready "):
            raise RuntimeError("the peer did not get ready")
        yield peer
    finally:
        with contextlib.suppress(ProcessLookupError):
            peer.terminate()
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                await peer.wait()
        except TimeoutError:
            peer.kill()
            await peer.wait()


async def _sample(home: Path, pid: int) -> Sample:
    """Ask the peer itself how many it knows; the question is not part of what is measured."""
    asked = await asyncio.create_subprocess_exec(
        *(sys.executable, CLI, "--home", str(home / "home"), "--json", "status"),
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(COMMAND_TIMEOUT_S):
        out, _ = await asked.communicate()
    status = json.loads(out)
    sent = int(status["traffic"].get("datagrams-sent", 0))
    return Sample(*_usage(pid), datagrams=sent, contacts=int(status["contacts"]))


async def measure(nodes: int, settle_s: float, seconds: float) -> tuple[Sample, Sample]:
    """Return what an idle peer had used at the beginning and at the end of the time."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        async with (
            network_of("shoal", Layout(nodes=nodes)) as network,
            joined_peer(home, network.askers[0].port) as peer,
        ):
            await asyncio.sleep(settle_s)
            before = await _sample(home, peer.pid)
            await asyncio.sleep(seconds)
            return before, await _sample(home, peer.pid)


def show(before: Sample, after: Sample, seconds: float) -> str:
    """Lay out the figures."""
    cpu_percent = 100 * (after.cpu_s - before.cpu_s) / seconds
    datagrams_hz = (after.datagrams - before.datagrams) / seconds
    return "\n".join(
        [
            *(f"{name}: {value}" for name, value in machine().items()),
            f"contacts: {after.contacts}",
            f"memory: {after.rss_mb:.1f} MB resident, {after.rss_peak_mb:.1f} MB at most",
            f"processor: {cpu_percent:.2f}% of a core over {seconds:g} s",
            f"datagrams sent: {datagrams_hz:.2f}/s",
        ]
    )


def main(given: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="bench.idle", description=__doc__)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--settle", type=float, default=30.0, help="seconds before the minute")
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args(given)
    with run_loop("shoal") as runner:
        before, after = runner.run(measure(arguments.nodes, arguments.settle, arguments.seconds))
    print(show(before, after, arguments.seconds))


if __name__ == "__main__":
    main()

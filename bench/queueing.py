"""Deliveries to a peer that is away, beside what carries them: `make bench-queueing`.

Real `shoal` processes on loopback: a sender, three hosts and a recipient that leaves and joins
again. Deposits are timed as the person sees them, from the start of `put --to` to its end: hashing,
sealing, journal and all. A collection lasts from the start of the recipient's process to the file
in its inbox, less what the same process takes until it is ready when nothing waits. Beside them, in
turn: bare pika with the same window and sizes, plain gRPC uploads to three processes at once with
fsync, and `get` of the same file. Every received file is compared with the one that was sent.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from bench.machine import machine
from bench.movers.certificate import write_certificate
from bench.report import medians
from console.stage import Actor, Stage, free_port
from queueing.envelope import chunk_bytes_for, padded_size
from queueing.rabbitmq_config import RabbitConfig

ROOT = Path(__file__).resolve().parent.parent
MIB = 1024 * 1024
HOSTS = 3
ARRIVAL_TIMEOUT_S = 300.0
PLAIN_TIMEOUT_S = 300.0
LOOK_S = 0.005
JOINS = 3
NAME = "delivery.bin"
RSS_MAX_MIB = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """How large a run is."""

    size_bytes: int = 512 * MIB
    large_bytes: int = 1024 * MIB
    """Of the delivery whose memory is looked at."""
    repetitions: int = 3


@dataclass(slots=True)
class Figures:
    """Megabytes a second of each repetition, and resident memory in MiB."""

    speeds: list[dict[str, float]] = field(default_factory=list)
    rss_mib: dict[str, int] = field(default_factory=dict)


RATIOS = (
    # what, ours, against, bound
    ("RabbitMQ deposit", "queue deposit", "pika publish", 0.6),
    ("RabbitMQ collect", "queue collect", "pika consume", 0.5),
    ("mailbox deposit", "mailbox deposit", "3 gRPC uploads", 0.5),
    ("mailbox deposit", "mailbox deposit", "3 gRPC uploads, no TLS", None),
    ("mailbox collect", "mailbox collect", "get", 0.5),
)


class Deliveries:
    """The peers of one run, and the file that goes between them."""

    def __init__(self, stage: Stage, url: str, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.url = url
        self.source = stage.folder / NAME
        self.digest = write_source(self.source, size_bytes)
        self.hosts = [stage.actor(f"host-{number}") for number in range(HOSTS)]
        self.ada, self.bob = stage.actor("ada"), stage.actor("bob")
        self.network = stage.folder / "network.json"
        seed = f"127.0.0.1:{free_port()}"
        self.ada.run("network", "new", "bench", "--seed", seed, "-o", str(self.network))
        self.hosts[0].start("--network", str(self.network), "--listen", seed)
        self.hosts[0].wait_ready()
        for host in self.hosts[1:]:
            self.join(host)
        for peer in (self.ada, self.bob):
            self.join(peer)
        self.bob_id = str(self.bob.run("status").results[0]["id"])
        self.ready_s = 0.0

    def join(self, peer: Actor) -> float:
        """Let a peer join; the seconds from the start of its process until it is ready."""
        began = time.perf_counter()
        self.start(peer)
        peer.wait_ready()
        return time.perf_counter() - began

    def start(self, peer: Actor) -> None:
        """Start a peer; sender and recipient know the broker, and keep no mail themselves."""
        options = ["--network", str(self.network), "--listen", "127.0.0.1:0"]
        if peer in (self.ada, self.bob):
            secret = peer.folder / "queue-url"
            secret.write_text(self.url)
            secret.chmod(0o600)
            options += ["--no-mailbox", "--queue", f"@{secret}"]
            home = peer.folder / "home"
            home.mkdir(mode=0o700, exist_ok=True)
            # Else large deliveries would go to mailboxes, and a claim alone to the broker.
            (home / "config.toml").write_text("[queue]\ndelivery_bytes_max = 0\n")
            (home / "config.toml").chmod(0o600)
        peer.start(*options)

    def leave(self, peer: Actor) -> None:
        """Let a peer leave cleanly."""
        peer.ask_to_end()
        peer.join()

    def measure_joins(self) -> None:
        """Note how long the recipient takes to be ready when nothing waits for it."""
        times = []
        for _ in range(JOINS):
            self.leave(self.bob)
            times.append(self.join(self.bob))
        self.ready_s = statistics.median(times)

    def deposit(self, via: str) -> float:
        """Send the file to the recipient, who is away; the seconds that `put` took."""
        done = self.ada.run(
            "put", str(self.source), "--to", self.bob_id, "--via", via, timeout_s=ARRIVAL_TIMEOUT_S
        )
        (sent,) = done.results
        assert sent["state"] == "stored", sent
        return done.seconds

    def collect(self) -> float:
        """Let the recipient join; the seconds until the file is there, less those of joining."""
        arrived = self.bob.folder / "home/inbox" / NAME
        began = time.perf_counter()
        self.start(self.bob)
        while not arrived.exists():
            if time.perf_counter() - began > ARRIVAL_TIMEOUT_S:
                raise SystemExit(f"no delivery after {ARRIVAL_TIMEOUT_S:.0f} s{self.bob.words()}")
            time.sleep(LOOK_S)
        seconds = time.perf_counter() - began - self.ready_s
        self.bob.wait_ready()
        assert digest_of(arrived) == self.digest, "another file than was sent"
        self.ada.poll("outbox", until=lambda row: row["state"] == "delivered", timeout_s=60)
        arrived.unlink()
        return seconds

    def get(self) -> float:
        """Fetch the same file from one holder; the seconds of the command."""
        target = self.bob.folder / "fetched"
        self.ada.run("put", str(self.source), timeout_s=ARRIVAL_TIMEOUT_S)
        done = self.bob.run(
            "get", NAME, "-o", str(target), "--no-share", timeout_s=ARRIVAL_TIMEOUT_S
        )
        assert digest_of(target) == self.digest, "another file than was shared"
        target.unlink()
        self.ada.run("unshare", NAME)
        return done.seconds

    def rss_mib(self) -> dict[str, int]:
        """The peak resident memory of every peer that runs."""
        peers = [self.ada, self.bob, *self.hosts]
        return {peer.name: peak_rss_mib(peer.pid) for peer in peers}


def run(plan: Plan, url: str) -> Figures:
    """Measure everything in turn, then one large delivery by each way."""
    figures = Figures()
    with Stage([sys.executable, str(ROOT / "cli.py")], keep=False) as stage:
        made = Deliveries(stage, url, plan.size_bytes)
        made.measure_joins()
        with uploads(stage.folder, with_tls=True) as tls, uploads(stage.folder) as bare:
            for _ in range(plan.repetitions):
                figures.speeds.append(one_repetition(made, tls, bare))
    for via in ("queue", "mailbox"):
        with Stage([sys.executable, str(ROOT / "cli.py")], keep=False) as stage:
            made = Deliveries(stage, url, plan.large_bytes)
            made.leave(made.bob)
            made.deposit(via)
            made.collect()
            for name, rss_mib in made.rss_mib().items():
                figures.rss_mib[f"{via}: {name}"] = rss_mib
    return figures


def one_repetition(made: Deliveries, tls: Sequence[str], bare: Sequence[str]) -> dict[str, float]:
    """Each way once; megabytes (10^6) a second by name."""
    seconds: dict[str, float] = {}
    seconds["get"] = made.get()
    seconds["pika publish"] = plain_amqp("publish", made)
    seconds["pika consume"] = plain_amqp("consume", made)
    for via in ("queue", "mailbox"):
        made.leave(made.bob)
        seconds[f"{via} deposit"] = made.deposit(via)
        seconds[f"{via} collect"] = made.collect()
    seconds["3 gRPC uploads"] = plain("bench.plain_grpc", "send", str(made.source), *tls)
    seconds["3 gRPC uploads, no TLS"] = plain("bench.plain_grpc", "send", str(made.source), *bare)
    return {name: made.size_bytes / 1e6 / taken_s for name, taken_s in seconds.items()}


def plain_amqp(what: str, made: Deliveries) -> float:
    """Bare pika with the window and the sizes of ours."""
    config = RabbitConfig()
    chunk_bytes = chunk_bytes_for(padded_size(made.size_bytes))
    window = min(config.window_max, config.window_bytes_max // chunk_bytes)
    count = window if what == "publish" else config.prefetch_max
    options = ["--queue", "bench", "--file", str(made.source), "--chunk-bytes", str(chunk_bytes)]
    return plain("bench.plain_amqp", what, made.url, *options, "--window", str(count))


def plain(module: str, *arguments: str) -> float:
    """Run a measure in a process of its own; its seconds."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PLAIN_TIMEOUT_S,
    )
    if done.returncode:
        raise SystemExit(f"{module}: exit {done.returncode}: {done.stderr.strip()}")
    return float(json.loads(done.stdout)["seconds"])


@contextlib.contextmanager
def uploads(folder: Path, *, with_tls: bool = False) -> Iterator[list[str]]:
    """Three processes that take plain uploads; the arguments by which they are reached."""
    options = ["--tls", str(write_certificate(folder))] if with_tls else []
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(HOSTS):
            process = stack.enter_context(_served(folder, options))
            assert process.stdout is not None
            ports.append(str(json.loads(process.stdout.readline())["port"]))
        yield [*ports, *options]


@contextlib.contextmanager
def _served(folder: Path, options: Sequence[str]) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.plain_grpc", "serve", str(folder), *options],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.communicate()  # the end of its input is the end of the process


@contextlib.contextmanager
def broker(given: str | None) -> Iterator[str]:
    """The URL of a RabbitMQ: the one given, or a private one that is ended again."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        control = [sys.executable, "-m", "tests.support.broker"]
        done = subprocess.run(
            [*control, "start", folder], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"no RabbitMQ can be started: {done.stderr.strip()[-500:]}")
        try:
            yield done.stdout.strip()
        finally:
            subprocess.run([*control, "stop", folder], cwd=ROOT, check=False)


def write_source(path: Path, size_bytes: int) -> bytes:
    """Write content that cannot be compressed; its BLAKE3."""
    stream, hasher = blake3(b"the file of this benchmark"), blake3()
    with path.open("wb") as file:
        for seek in range(0, size_bytes, MIB):
            block = stream.digest(min(MIB, size_bytes - seek), seek=seek)
            hasher.update(block)
            file.write(block)
    return hasher.digest()


def digest_of(path: Path) -> bytes:
    """The BLAKE3 of a file as it lies on the disk."""
    return blake3().update_mmap(path).digest()


def peak_rss_mib(pid: int) -> int:
    """The most resident memory that a process has had so far."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii", errors="replace").splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(peak) // 1024


def show(plan: Plan, figures: Figures) -> str:
    """Speeds, ratios with their bounds, and memory."""
    speeds = medians(figures.speeds)
    lines = [
        f"{plan.size_bytes // MIB} MiB, medians of {plan.repetitions} in turn, MB/s (10^6 bytes)",
        *(f"  {name:<28}{speed:>8,.0f}" for name, speed in speeds.items()),
        "ratios",
    ]
    for what, ours, against, bound in RATIOS:
        ratio = speeds[ours] / speeds[against]
        wanted = "" if bound is None else f"  wanted {bound}: {_verdict(ratio >= bound)}"
        lines.append(f"  {what} to {against:<28}{ratio:>5.2f}x{wanted}")
    lines.append(f"peak RSS of a delivery of {plan.large_bytes // MIB} MiB, MiB")
    lines += [f"  {name:<28}{rss:>8,}" for name, rss in figures.rss_mib.items()]
    highest = max(figures.rss_mib.values())
    lines.append(f"  highest {highest}, wanted {RSS_MAX_MIB}: {_verdict(highest <= RSS_MAX_MIB)}")
    return "\n".join(lines)


def _verdict(is_reached: bool) -> str:
    return "ok" if is_reached else "MISSED"


def main(arguments: Sequence[str]) -> None:
    """Run and print."""
    usual = Plan()
    parser = argparse.ArgumentParser(prog="python -m bench.queueing", description=__doc__)
    parser.add_argument("--mib", type=int, default=usual.size_bytes // MIB)
    parser.add_argument("--large-mib", type=int, default=usual.large_bytes // MIB)
    parser.add_argument("--repetitions", type=int, default=usual.repetitions)
    parser.add_argument("--amqp", metavar="URL", help="a broker; default: a private one")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    plan = Plan(given.mib * MIB, given.large_mib * MIB, given.repetitions)
    print("; ".join(f"{name} {value}" for name, value in machine().items()))
    with broker(given.amqp) as url:
        figures = run(plan, url)
    print(show(plan, figures))
    if given.json is not None:
        made = {"machine": machine(), "speeds": figures.speeds, "rss_mib": figures.rss_mib}
        given.json.write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

"""iperf3: what one TCP connection of loopback carries, with no file, hash or encryption at all."""

import json
import subprocess
from pathlib import Path

from bench.movers.base import Load, Moved, NotMeasured
from bench.movers.process import Meter, Process, program, run_metered
from console.stage import free_port


class IperfMover:
    """A server for one test, and a client that sends as many bytes as the load has."""

    name = "iperf3"

    def __init__(self) -> None:
        self._program = program("iperf3")

    def version(self) -> str:
        done = subprocess.run([self._program, "--version"], capture_output=True, check=True)
        return " ".join(done.stdout.decode().split()[:2])

    def move(self, load: Load, folder: Path) -> Moved:
        if load.is_folder:
            raise NotMeasured("it moves no files")
        port = str(free_port())
        with Process([self._program, "-s", "-p", port, "--forceflush"], folder) as server:
            while "Server listening" not in server.hear():
                pass
            receiving = Meter(server.pid)
            report = folder / "report.json"
            to = ["-c", "127.0.0.1", "-p", port, "-n", str(load.size_bytes)]
            _, sender = run_metered([self._program, *to, "-J", "--logfile", str(report)], folder)
            receiver = receiving.usage()
        seconds = json.loads(report.read_text())["end"]["sum_received"]["seconds"]
        return Moved(seconds, sender, receiver, None)

"""A private RabbitMQ cluster for tests: three nodes with folders and ports of their own.

Owns starting, losing and ending the nodes. All talk over loopback, share one cookie and one epmd,
and find each other by their configuration; nothing of the system's own broker is touched.
"""

import contextlib
import json
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.support import waiting
from tests.support.broker import BrokerError, Ports, PrivateBroker, free_ports, settings_text

NODES = 3
SETTLE_TIMEOUT_S = 90.0
STARTS_MAX = 3
COOKIE = "SHOALTESTCLUSTER"
USER = "Basic Z3Vlc3Q6Z3Vlc3Q="


class PrivateCluster:
    """The nodes, in the order of their start; use `temporary_cluster`."""

    def __init__(self, folder: Path) -> None:
        """Choose ports and write what the nodes read; starts nothing."""
        epmd, *ports = free_ports(1 + 3 * NODES)
        self.nodes = [
            PrivateBroker(folder / f"node-{number}", Ports(amqp, distribution, epmd, 0, management))
            for number, (amqp, distribution, management) in enumerate(
                zip(ports[::3], ports[1::3], ports[2::3], strict=True)
            )
        ]
        for node in self.nodes:
            node.folder.mkdir(parents=True)
            cookie = node.folder / ".erlang.cookie"
            cookie.write_text(COOKIE, encoding="ascii")
            cookie.chmod(0o400)
            plugins = node.folder / "enabled_plugins"
            plugins.write_text("[rabbitmq_management].\n", encoding="ascii")
            text = settings_text(self._settings(node))
            (node.folder / "rabbitmq.conf").write_text(text, encoding="utf-8")

    def _settings(self, node: PrivateBroker) -> dict[str, object]:
        names = {
            f"cluster_formation.classic_config.nodes.{number}": each.name
            for number, each in enumerate(self.nodes, 1)
        }
        return names | {
            "cluster_formation.peer_discovery_backend": "classic_config",
            "management.tcp.ip": "127.0.0.1",
            "management.tcp.port": node.ports.management,
            "collect_statistics_interval": 500,
        }

    def start(self) -> None:
        """Start all nodes; the first forms the cluster, the others join it together."""
        self.nodes[0].start()
        with ThreadPoolExecutor(NODES) as pool:
            list(pool.map(PrivateBroker.start, self.nodes[1:]))
        self.await_nodes(NODES)

    def discard(self) -> None:
        """End every node at once, and then the epmd that they share."""
        for node in self.nodes:
            node.kill()
        self.nodes[0].end_epmd()

    def url(self, *nodes: PrivateBroker) -> str:
        """Return one URL that names these nodes, or all of them, in this order."""
        servers = ",".join(f"127.0.0.1:{node.ports.amqp}" for node in nodes or self.nodes)
        return f"amqp://guest:guest@{servers}/%2F"

    def told(self, path: str) -> Any:
        """Ask the management API of whichever node answers."""
        for node in self.nodes:
            request = urllib.request.Request(f"{node.management}/api/{path}")
            request.add_header("Authorization", USER)
            with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=10) as found:
                return json.load(found)
        raise BrokerError("no node of the cluster answers")

    def queue(self, name: str) -> dict[str, Any]:
        """Return what the cluster tells of a queue, once it tells who leads it."""

        def is_told() -> bool:
            return bool(self.told(path).get("leader"))

        path = f"queues/%2F/{quote(name, safe='')}"
        waiting.until(is_told, SETTLE_TIMEOUT_S, f"a leader of {name}")
        told: dict[str, Any] = self.told(path)
        return told

    def leader_of(self, queue: str) -> PrivateBroker:
        """Return the node that leads a quorum queue."""
        leader = self.queue(queue)["leader"]
        (node,) = [node for node in self.nodes if node.name == leader]
        return node

    def await_nodes(self, count: int) -> None:
        """Wait until so many nodes run and know of each other."""

        def are_there() -> bool:
            return sum(node.get("running") is True for node in self.told("nodes")) == count

        waiting.until(are_there, SETTLE_TIMEOUT_S, f"{count} running nodes")

    def await_members(self, queue: str, count: int = NODES) -> None:
        """Wait until so many members of a quorum queue are online."""

        def are_there() -> bool:
            return len(self.queue(queue).get("online", ())) == count

        waiting.until(are_there, SETTLE_TIMEOUT_S, f"{count} online members of {queue}")


@contextlib.contextmanager
def temporary_cluster() -> Iterator[PrivateCluster]:
    """Yield a running cluster; tried again with other ports, since free ones may be taken."""
    folder = Path(tempfile.mkdtemp(prefix="shoal-cluster-"))
    try:
        for attempt in range(STARTS_MAX):
            cluster = PrivateCluster(folder / f"try-{attempt}")
            try:
                cluster.start()
            except BrokerError:
                cluster.discard()
                if attempt == STARTS_MAX - 1:
                    raise
            else:
                break
        try:
            yield cluster
        finally:
            cluster.discard()
    finally:
        shutil.rmtree(folder, ignore_errors=True)

"""`doctor`: examine a peer and its surroundings, each check with what was seen and the remedy.

Owns which checks are made, their order, and how long they may take: all run at once, each within a
deadline, so that nothing silent holds up the end. Two doctors: one inside the running peer, one
without any, through a client of the moment that touches no disk. What a measurement means is
peer.checkup's, how it is made peer.probing's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from dht.config import DhtConfig
from dht.node import DhtNode
from identity.address import Address
from identity.errors import ShoalError
from identity.keys import Identity
from identity.network import BootstrapNode, NetworkFile
from identity.tls import make_tls
from peer.addresses import DEFAULT_LISTEN
from peer.arguments import Arguments
from peer.checkup import (
    judge_clock,
    judge_contacts,
    judge_disk,
    judge_drops,
    judge_free_port,
    judge_home,
    judge_lag,
    judge_node,
    judge_own_port,
    judge_reachability,
    ok,
    problem,
    skipped,
)
from peer.config import Config, load_config
from peer.core import Core
from peer.errors import NotFound
from peer.failures import failure_of
from peer.given import parse_listen
from peer.home import Home
from peer.networks import choose_network
from peer.options import AloneOptions
from peer.presence import Presence
from peer.probing import probe_node, probe_tls, secret_files, spaces, try_to_listen
from peer.queue_check import judge_queue
from peer.reporting import Emit, Reporter
from peer.views import CheckView, StatusView
from queueing.rabbitmq_health import QueueHealth
from rpc.channels import ChannelPool

CHECK_TIMEOUT_S = 6.0
NODES_MAX = 16
"""Bootstrap nodes that are tried."""

Check = Coroutine[Any, Any, list[CheckView]]


class Doctor:
    """The command `doctor` of a running peer."""

    def __init__(
        self,
        core: Core,
        presence: Presence,
        status: Callable[[], StatusView],
        bootstrap: Sequence[BootstrapNode],
        queue: Callable[[], Awaitable[QueueHealth | None]],
    ) -> None:
        self._queue_health = queue
        self._core = core
        self._presence = presence
        self._status = status
        self._bootstrap = bootstrap

    async def doctor(self, _: Arguments, reporter: Reporter) -> None:
        """Send one check after the other; findings are results, so that this never fails."""
        core, status = self._core, self._status()
        text = f"process {status.pid}, network {status.network}, at {status.address}"
        await reporter.item(ok("peer", text))
        nodes = _examine_nodes(core.dht, core.channels, self._bootstrap, has_contacts=self._has())
        await _report(
            reporter,
            [
                ("home", _examine_home(core.home)),
                ("ports", self._ports()),
                ("bootstrap", nodes),
                ("contacts", self._contacts()),
                ("queue", self._queue()),
            ],
        )
        drops, received = status.drops, status.traffic.get("datagrams-received", 0)
        advertised = Address.parse(status.address)
        for check in (
            judge_clock(core.dht.clock_offsets_ms()),
            judge_reachability(status.reachability, advertised, core.dht.observed_address()),
            judge_lag(status.loop_lag_ms_max),
            judge_drops(drops, received),
        ):
            await reporter.item(check)

    def _has(self) -> bool:
        return any(contact.alive for contact in self._core.dht.contacts())

    async def _ports(self) -> list[CheckView]:
        bound = self._core.dht.bound
        local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bound.host, bound.host)  # noqa: S104
        tls, met = await probe_tls(self._core.channels, Address(local, bound.port))
        if met not in (None, self._core.identity.peer_id):
            return [problem("ports", f"another peer answers at TCP {bound}", "`shoal leave`, join")]
        return [judge_own_port(str(bound), tls=tls, text=tls.name.lower())]

    async def _queue(self) -> list[CheckView]:
        return [judge_queue(self._status().queue, await self._queue_health())]

    async def _contacts(self) -> list[CheckView]:
        peers = await self._presence.current()
        return [judge_contacts(sum(peer.state == "active" for peer in peers), len(peers))]


async def examine_alone(options: AloneOptions, arguments: dict[str, Any], emit: Emit) -> None:
    """Make the checks that need no running peer, the network's through a client of the moment."""
    home, reporter = Home(options.home), Reporter(emit)
    await reporter.item(_no_peer(home))
    listen = Arguments(arguments).get("listen", str)
    here = [("home", _examine_home(home)), ("ports", _free_port(listen))]
    file = await _network_of(home, options, reporter)
    if file is None:
        await _report(reporter, here)
        return
    async with _client(file) as (dht, channels):
        nodes = _examine_nodes(dht, channels, file.bootstrap, has_contacts=False)
        await _report(reporter, [*here, ("bootstrap", nodes)])
        await reporter.item(judge_clock(dht.clock_offsets_ms()))


async def _network_of(home: Home, options: AloneOptions, reporter: Reporter) -> NetworkFile | None:
    """Tell which network is examined, or why none is."""
    try:
        file = choose_network(
            home,
            invite=None,
            network_file=options.network_file,
            fallback_file=options.fallback_network_file,
            make_new=False,
        ).file
    except NotFound as error:
        await reporter.item(skipped("network", error.message, error.hint))
        return None
    except ShoalError as error:
        failure = failure_of(error)
        await reporter.item(problem("network", failure.message, failure.hint))
        return None
    await reporter.item(ok("network", file.network.name))
    return file


@asynccontextmanager
async def _client(file: NetworkFile) -> AsyncIterator[tuple[DhtNode, ChannelPool]]:
    identity = Identity.generate()
    dht = DhtNode(identity, file.network, nickname="client", config=DhtConfig(client=True))
    channels = ChannelPool(make_tls(identity, file.network), file.network)
    await dht.listen("0.0.0.0", 0)  # noqa: S104 - answers come from anywhere
    try:
        yield dht, channels
    finally:
        await channels.close()
        await dht.close()


def _no_peer(home: Home) -> CheckView:
    pid = home.running_pid()
    if pid is None:
        return skipped("peer", "no peer runs in this home", "`shoal join` starts one")
    remedy = f"it may be just starting or leaving; else end it: kill {pid}"
    return problem("peer", f"process {pid} has this home, but does not answer", remedy)


async def _examine_home(home: Home) -> list[CheckView]:
    return await asyncio.to_thread(_look_at_home, home)


def _look_at_home(home: Home) -> list[CheckView]:
    files, exists = secret_files(home), home.path.is_dir()
    writable = os.access(home.path, os.W_OK | os.X_OK)
    checks = [judge_home(str(home.path), exists=exists, writable=writable, files=files)]
    config = Config()
    try:
        config = load_config(home.config_path)
    except ShoalError as error:
        failure = failure_of(error)
        checks.append(problem("config", failure.message, failure.hint))
    else:
        exists = home.config_path.exists()
        checks.append(ok("config", str(home.config_path) if exists else "defaults"))
    return [*checks, judge_disk(spaces(home), free_bytes_min=config.disk.free_bytes_min)]


async def _free_port(listen: str | None) -> list[CheckView]:
    where = DEFAULT_LISTEN if listen is None else parse_listen(listen)
    attempts = await asyncio.to_thread(try_to_listen, where)
    return [judge_free_port(where, attempts, was_asked=listen is not None)]


async def _examine_nodes(
    dht: DhtNode,
    channels: ChannelPool,
    nodes: Sequence[BootstrapNode],
    *,
    has_contacts: bool,
) -> list[CheckView]:
    if not nodes:
        remedy = "`shoal invite` names the peer that prints it"
        return [skipped("bootstrap", "this network names no bootstrap node", remedy)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(probe_node(dht, channels, node)) for node in nodes[:NODES_MAX]]
    found = [each for task in tasks for each in task.result()]
    answer = has_contacts or any(each.udp_id is not None or each.is_own for each in found)
    return [judge_node(each, others_answer=answer) for each in found]


async def _report(reporter: Reporter, checks: Sequence[tuple[str, Check]]) -> None:
    """Make checks at once, and send what they find in their order."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_within(name, check)) for name, check in checks]
        for task in tasks:
            for view in await task:
                await reporter.item(view)


async def _within(name: str, check: Check) -> list[CheckView]:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return await check
    except TimeoutError:
        return [skipped(name, f"took longer than {CHECK_TIMEOUT_S:g} s")]
    except ShoalError as error:
        failure = failure_of(error)
        return [problem(name, failure.message, failure.hint)]

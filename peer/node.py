"""The running peer: what `shoal join` runs, and the short-lived client of `search` and `get`.

Owns the order of starting and leaving. The parts are wired here and nowhere else; what they do
stands in their own modules. Start: home, network, key, database, port, services, bootstrap, own
record, ready. Leave: records withdrawn, running work ended, everything saved.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from dht.errors import PortInUse as UdpPortInUse
from dht.node import bulk_handler
from dht.reachability import Reach
from dht.records import Payload, PeerPayload
from identity.address import Address
from identity.keys import short_peer_id, show_peer_id
from identity.network import BootstrapNode
from peer.addresses import DEFAULT_LISTEN, advertised_addresses, bind_one_port
from peer.announcing import Announcing
from peer.arguments import Arguments
from peer.background import Background
from peer.commands import Commands, FetchCommands, PeerFacts
from peer.config import Config, load_config
from peer.control import ControlServer
from peer.core import Core
from peer.errors import NotFound
from peer.failures import ExitCode
from peer.fetching import Fetching
from peer.garbage import keep_turns_short
from peer.home import Home
from peer.inbox import Inbox
from peer.joining import join_network
from peer.lag import LoopLag
from peer.mail import Mail
from peer.networks import Choice, choose_network, invite_for, remember
from peer.offering import Offering, check_shares
from peer.operator import serving_operator
from peer.options import AloneOptions, JoinOptions, Observer
from peer.presence import Presence
from peer.received import Received, ReceivedJournal
from peer.reporting import Emit, Reporter
from peer.roles import (
    authority_of,
    config_of_role,
    keeps_mail,
    nickname_of,
    queue_url_of,
    records_of_role,
)
from peer.sending import Sending
from peer.serving import Acceptance, Offered, service_limits
from peer.sharing import Sharing
from peer.status import status_view
from peer.traffic import Traffic
from peer.views import Snapshot, StatusView
from queueing.errors import QueueError
from queueing.journal import OutboxRow
from queueing.store import Usage
from rpc.caller import caller_of
from rpc.errors import PortInUse as TcpPortInUse
from rpc.listener import RpcListener
from transfer.inbox import InboxFolder
from transfer.service import TransferService

PUBLISH_TIMEOUT_S = 3.0
QUEUE_TIMEOUT_S = 5.0
LEAVE_TIMEOUT_S = 4.0
HAND_OVER_TIMEOUT_S = 3.0
PEER_RECORD_LIFE_MS = 24 * 3600 * 1000
PEER_RECORD_REFRESH_S = 6 * 3600.0
NOBODY_ANSWERS = "no peer of the network answers, so nothing can be found"
NOBODY_ANSWERS_HINT = "check the connection, or ask a member for a new invite"
PRESENCE_REFRESH_S = 15.0

_log = logging.getLogger(__name__)


async def run_peer(options: JoinOptions, observer: Observer) -> int:
    """Run a peer until the observer's `leaving` is set; return the exit code.

    Raises ShoalErrors of the start: AlreadyRunning, OtherNetwork, BadNetworkFile, PortInUse, ...
    """
    home = Home(options.home)
    with home.lock():
        config = config_of_role(load_config(home.config_path), options)
        check_shares(options.shares, home)
        choice = choose_network(
            home,
            invite=options.invite,
            network_file=options.network_file,
            fallback_file=options.fallback_network_file,
            make_new=True,
        )
        peer = Peer(home, config, choice, options, observer)
        async with serving_operator(options.operator, peer, observer.note) as tell_ready:
            try:
                await peer.start()
                await tell_ready(True)
                keep_turns_short()
                await peer.stay()
            finally:
                await tell_ready(False)
                await peer.stop()
    return ExitCode.DONE


async def run_command_alone(
    options: AloneOptions, command: str, arguments: dict[str, Any], emit: Emit
) -> None:
    """Run `search` or `get` through a client of the moment, which leaves no trace behind."""
    home = Home(options.home)
    home.ensure()
    config = load_config(home.config_path)
    file = choose_network(
        home,
        invite=None,
        network_file=options.network_file,
        fallback_file=options.fallback_network_file,
        make_new=False,
    ).file
    core = Core.of_client(home, config, file)
    reporter = Reporter(emit)
    try:
        await core.dht.listen("0.0.0.0", 0)  # noqa: S104 - answers come from anywhere
        joined = bool(await join_network(core, file.bootstrap))
        await _search_or_get(core, command, Arguments(arguments), reporter, joined=joined)
    finally:
        await core.close()


async def _search_or_get(
    core: Core, command: str, arguments: Arguments, reporter: Reporter, *, joined: bool
) -> None:
    """Run the command; where nobody could be asked, say this and not that nothing exists."""
    commands = FetchCommands(core, Fetching(core), Presence(core))
    if command == "search":
        await commands.search(arguments, reporter)
        if not joined:
            await reporter.note(NOBODY_ANSWERS, hint=NOBODY_ANSWERS_HINT)
        return
    try:
        await commands.get(arguments, reporter)
    except NotFound as error:
        if joined:
            raise
        raise NotFound(NOBODY_ANSWERS, hint=NOBODY_ANSWERS_HINT) from error


class Peer:
    """One running peer. `start`, then `stay` until it is to leave, then `stop` in any case."""

    def __init__(
        self,
        home: Home,
        config: Config,
        choice: Choice,
        options: JoinOptions,
        observer: Observer,
    ) -> None:
        self._choice = choice
        self._queue_url = queue_url_of(options, config, choice.file)
        self._options = options
        self._observer = observer
        self._started_at = time.monotonic()
        self._background = Background()
        self._loops: list[asyncio.Task[None]] = []
        self._listener: RpcListener | None = None
        self._control: ControlServer | None = None
        self._mail: Mail | None = None
        self._addresses: tuple[Address, ...] = ()
        self._lag = LoopLag()
        self._is_ready = False
        self._is_unreachable = False
        nickname, records = nickname_of(options, config), records_of_role(options)
        self.core = Core.of_peer(home, config, choice.file, nickname, records)
        self.presence = Presence(self.core)
        self.sharing = Sharing(self.core)
        self.offering = Offering(self.core, self.sharing, options.shares, observer.note)
        self.fetching = Fetching(self.core)
        self.announcing = Announcing(self.core, self.sharing, self._background)
        self.fetching.announcing = self.announcing
        self.traffic = Traffic(self.core, self.fetching)

    # Start

    async def start(self) -> None:
        """Come up to the ready line; what fails before it is the command's error."""
        core = self.core
        if self._options.operator is not None:
            self.sharing.close()
        acceptance = Acceptance(core.config, core.file.network, core.contacts)
        inbox = Inbox(
            core.identity.peer_id,
            acceptance,
            InboxFolder(core.home.inbox, core.config.inbox.quota_bytes),
            ReceivedJournal(core.database),
            file_bytes_max=core.config.inbox.file_bytes_max,
            on_received=self._on_received,
        )
        mail = await Mail.open(
            core,
            inbox,
            acceptance,
            self._background,
            queue_url=self._queue_url,
            keeps_mail=keeps_mail(self._options, core.config, core.file),
            is_desk=self._options.operator is not None,
            on_change=self._on_delivery,
        )
        self._mail = mail
        await self._listen(inbox, mail)
        core.dht.on_contact = self._on_contact
        core.dht.on_clock = self._on_clock
        core.dht.on_reach = self._on_reach
        self._observer.watch(self.snapshot)
        await self._join_network()
        if self._choice.remember:
            # Not before: a wrong key must not bind the home to a network that there is not.
            remember(core.home, core.file)
        await self._publish_self()
        self._commands = Commands(
            core,
            fetching=self.fetching,
            sharing=self.sharing,
            sending=Sending(core, mail, inbox),
            presence=self.presence,
            facts=PeerFacts(
                status=self.status,
                snapshot=self.snapshot,
                invite=self.invite,
                leave=self._observer.leaving.set,
                bootstrap=self._bootstrap_nodes(),
                queue=mail.queue_health,
            ),
        )
        self._control = ControlServer(core.home.socket_path, self._commands.run)
        await self._control.start()
        self._is_ready = True
        invite = self.invite() if core.file.network.is_private else None
        self._observer.ready(show_peer_id(core.identity.peer_id), str(self._addresses[0]), invite)

    async def _listen(self, inbox: Inbox, mail: Mail) -> None:
        core = self.core

        def identify(context: Any) -> Any:
            return caller_of(context, core.file.network)

        service = TransferService(
            Offered(core.catalog, self.fetching, self.sharing, self._background),
            identify,
            inbox=inbox,
            config=service_limits(core.config.transfer, core.identity.peer_id),
            on_upload=self.traffic.uploaded,
            up=core.paces.gets.up,
            down=core.paces.mail.down,
        )
        mailbox = mail.service(lambda context: caller_of(context, core.file.network).peer_id)
        handlers = [service.handler(), mailbox.handler()]

        async def bind_tcp(host: str, port: int) -> int:
            self._listener = core.listener()
            for handler in (*handlers, bulk_handler(core.dht)):
                self._listener.add(handler)
            return await self._listener.start(host, port)

        listen = self._options.listen
        port = await bind_one_port(
            listen,
            bind_first=core.dht.listen,
            unbind_first=core.dht.close,
            bind_second=bind_tcp,
            in_use=(TcpPortInUse, UdpPortInUse),
        )
        host = (listen or DEFAULT_LISTEN).host
        self._addresses = advertised_addresses(host, port, self._options.advertise)
        loopback = "127.0.0.1" if host in ("0.0.0.0", "") else host  # noqa: S104
        self.fetching.own_address = Address("::1" if host == "::" else loopback, port)
        core.dht.advertise(self._addresses)
        self.sharing.advertise(self._addresses)
        mail.advertise(self._addresses)

    async def _join_network(self) -> None:
        nodes = self._bootstrap_nodes()
        others = [node for node in nodes if node.address not in self._own_addresses()]
        if await join_network(self.core, others) or not others:
            return
        listed = ", ".join(str(node.address) for node in others[:4])
        self._observer.note(
            f"no bootstrap node answers ({listed}): this peer is alone for now",
            "it keeps trying; check that the other peer runs and that UDP and TCP get through",
        )

    def _bootstrap_nodes(self) -> tuple[BootstrapNode, ...]:
        asked = (BootstrapNode(address) for address in self._options.bootstrap)
        return (*asked, *self.core.file.bootstrap)

    async def _publish_self(self) -> None:
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                await self.core.dht.publish(self._own_payloads())
                await self.core.dht.withdraw(self._former_names())
        except TimeoutError:
            _log.info("the peer record is not acknowledged yet; it is tried again")

    def _former_names(self) -> list[Payload]:
        """Return the records of nicknames that this peer went by in former runs."""
        nickname = nickname_of(self._options, self.core.config)
        return [
            payload
            for payload in self.core.dht.schedule.payloads()
            if isinstance(payload, PeerPayload)
            and payload.under_nickname
            and payload.nickname != nickname
        ]

    def _own_payloads(self) -> list[Payload]:
        core = self.core
        return [
            PeerPayload(
                nickname=nickname_of(self._options, core.config),
                addresses=self._addresses,
                sealing_key=core.identity.sealing_public_key,
                here_until_ms=core.dht.now_ms() + PEER_RECORD_LIFE_MS,
                under_nickname=under_nickname,
            )
            for under_nickname in (False, True)
        ]

    # Life

    async def stay(self) -> None:
        """Carry mail, keep shares published and presence current until asked to leave."""
        assert self._mail is not None
        self._background.start(self.announcing.withdraw_former())
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._mail.run()),
                group.create_task(self.core.dht.watch()),
                group.create_task(self._lag.run()),
                group.create_task(self.offering.run()),
                group.create_task(self._warn_of_silent_queue()),
                group.create_task(self._refresh_own_record()),
                group.create_task(self._refresh_presence()),
            ]
            await self._observer.leaving.wait()
            for task in tasks:
                task.cancel()

    async def stop(self) -> None:
        """Leave cleanly as far as the start came; safe after a failed start."""
        if self._control is not None:
            await self._control.stop()
        await self._background.close()
        if self._is_ready and self._mail is not None:
            handed = await self._mail.hand_over(HAND_OVER_TIMEOUT_S)
            _log.info("handed %d deliveries over to other hosts", handed)
        if self._is_ready and not await self.core.dht.withdraw_all(timeout_s=LEAVE_TIMEOUT_S):
            _log.info("not every record was withdrawn in time; they expire by themselves")
        if self._listener is not None:
            await self._listener.stop(0.5)
        if self._mail is not None:
            await self._mail.close()
        await self.core.close()

    async def _warn_of_silent_queue(self) -> None:
        """Tell at the start that the broker cannot be used: else only a delivery would show it."""
        url = self._queue_url
        if url is None:
            return
        from queueing.rabbitmq import reachable

        try:
            ca_file = authority_of(self.core.config, self.core.home)
            await reachable(url, QUEUE_TIMEOUT_S, ca_file=ca_file)
        except QueueError as error:
            assert self._mail is not None
            self._observer.note(
                f"the queue {self._mail.queue_host} cannot be used: {error}",
                "deliveries go to mailboxes until it can; check --queue and that the broker runs",
            )

    async def _refresh_own_record(self) -> None:
        while True:
            await asyncio.sleep(PEER_RECORD_REFRESH_S)
            await self._publish_self()

    async def _refresh_presence(self) -> None:
        """While somebody watches the table, ask the peers; an unwatched peer stays silent."""
        while True:
            await asyncio.sleep(PRESENCE_REFRESH_S)
            if self._observer.is_watched:
                await self.core.dht.check(None)
            self.presence.remember()

    # What the parts report

    def _on_contact(self, peer_id: bytes, address: Address) -> None:
        for contact in self.core.dht.contacts():
            if contact.peer_id == peer_id:
                if not contact.is_passing:
                    self.presence.seen(peer_id, contact.nickname, address)
                break
        if self._mail is not None:
            self._mail.on_contact(peer_id)

    def _on_clock(self, offset_ms: int, is_corrected: bool) -> None:
        if not offset_ms:
            self._observer.note("this machine's clock agrees with the others' again")
            return
        direction = "behind" if offset_ms > 0 else "ahead of"
        self._observer.note(
            f"this machine's clock is {abs(offset_ms) // 1000} s {direction} the other peers'",
            "set the clock; until then records are issued with the others' time"
            if is_corrected
            else "set the clock here or there: until then each refuses the other's records",
        )

    def _on_reach(self, reach: Reach) -> None:
        port = self._addresses[0].port
        if reach is Reach.UNREACHABLE:
            self._observer.note(
                "other peers cannot reach this one: it finds and fetches, but offers nothing",
                f"let UDP and TCP port {port} through to this machine; it is tried again by itself",
            )
        elif reach is Reach.REACHABLE and self._is_unreachable:
            self._observer.note("other peers reach this one again")
        self._is_unreachable = reach is Reach.UNREACHABLE

    def _on_received(self, row: Received) -> None:
        what = f"received {row.described} from {short_peer_id(row.sender)}"
        self._observer.note(f"{what}: {row.path}")

    def _on_delivery(self, row: OutboxRow) -> None:
        _log.info("delivery %s is %s", row.delivery_id.hex()[:8], row.state)

    # Facts

    def status(self) -> StatusView:
        """Tell how this peer does, without asking anybody."""
        return status_view(
            self.core,
            self.presence.known(),
            self._mail,
            self._lag,
            nickname=nickname_of(self._options, self.core.config),
            address=str(self._addresses[0]) if self._addresses else "",
            uptime_s=time.monotonic() - self._started_at,
            watched_waiting=sum(watch.waiting for watch in self.offering.watches),
        )

    async def mail_usage(self) -> Usage | None:
        """Tell how full the mailbox for others is; None where none is kept."""
        mail = self._mail
        return await mail.usage() if mail is not None and mail.keeps_mail else None

    def mail_counters(self) -> dict[str, int]:
        """Count what happened with the broker."""
        return {} if self._mail is None else self._mail.queue_counters()

    def snapshot(self) -> Snapshot:
        """Return everything that the live table shows."""
        private = self.core.file.network.is_private
        return Snapshot(
            status=self.status(),
            peers=tuple(self.presence.known()),
            transfers=tuple(self.traffic.running()),
            invite=self.invite() if private else None,
        )

    def invite(self) -> str:
        """Make the string with which somebody joins this network through this peer."""
        me = BootstrapNode(self._addresses[0], self.core.identity.peer_id)
        return invite_for(self.core.file, me)

    def _own_addresses(self) -> set[Address]:
        port = self._addresses[0].port
        hosts = ("127.0.0.1", "::1", "localhost")
        own = {Address(host, port) for host in hosts} | set(self._addresses)
        # As they were written, too: a bootstrap node's own name stands in the network file.
        asked = (self._options.listen, self._options.advertise)
        return own | {Address(each.host, each.port or port) for each in asked if each is not None}

"""What an operator does to the network's broker: set it up, make and remove accounts of peers.

Owns which broker and which management API are meant, and the choice between doing a step and
printing it. Loaded by those commands only. Credentials are in what is returned, nowhere else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from identity.keys import parse_peer_id
from identity.network import NetworkFile
from peer.config import load_config
from peer.failures import ExitCode, Failure
from peer.given import read_invite
from peer.home import Home
from peer.networks import choose_network
from peer.roles import authority_of
from queueing.errors import Unavailable
from queueing.rabbitmq_management import ManagementApi, ManagementUrl, management_url
from queueing.rabbitmq_setup import (
    CLUSTER_NODES_MIN,
    Account,
    QueueLimits,
    QueueType,
    Step,
    account_steps,
    network_steps,
    queue_type_for,
    removal_steps,
    uncovered,
    user_of,
)
from queueing.rabbitmq_url import AmqpUrl, amqp_url_with_password, parse_amqp_url

PASSWORD_BYTES = 24
Note = Callable[[str, str], None]


def administer(
    home_path: Path, given: Mapping[str, Any], fallback_file: Path | None, note: Note
) -> dict[str, Any]:
    """Do what the options of `bootstrap` ask for; return what is to be shown, this once."""
    home = Home(home_path)
    file = choose_network(
        home,
        invite=read_invite(given["invite"]),
        network_file=given["network_file"],
        fallback_file=fallback_file,
        make_new=False,
    ).file
    broker = Broker.of(home, file, given["queue"], given["management"])
    chosen = None if given["queue_type"] is None else QueueType(given["queue_type"])
    if given["add_queue_user"]:
        return broker.add_user(given["add_queue_user"], chosen, note)
    if given["remove_queue_user"]:
        return broker.remove_user(given["remove_queue_user"], note)
    return broker.set_up(chosen, note)


@dataclasses.dataclass(frozen=True, slots=True)
class Broker:
    """One network's broker as its operator reaches it."""

    network_id: bytes
    url: AmqpUrl
    management: ManagementUrl
    ca_file: Path | None
    queue_bytes_max: int

    @classmethod
    def of(cls, home: Home, file: NetworkFile, queue: str | None, management: str | None) -> Broker:
        """Find out which broker is meant; Failure where no option and no file names one."""
        config = load_config(home.config_path)
        text = queue or config.queue.amqp or file.queue_amqp
        if text is None:
            raise Failure(
                "no broker is named",
                hint="give its URL by --queue, SHOAL_QUEUE or `[queue] amqp` in config.toml",
                exit_code=ExitCode.USAGE,
            )
        url = parse_amqp_url(text)
        return cls(
            file.network.network_id,
            url,
            management_url(management or config.queue.management, url),
            authority_of(config, home),
            config.queue.queue_bytes_max,
        )

    def set_up(self, queue_type: QueueType | None, note: Note) -> dict[str, Any]:
        """Set policies and queues; where the API cannot be reached, return lines instead."""
        limits = QueueLimits(queue_bytes_max=self.queue_bytes_max)
        try:
            with self._api() as api:
                chosen = queue_type or queue_type_for(api.nodes())
                steps = network_steps(self.network_id, self.url.virtual_host, chosen, limits)
                api.run(steps)
                if chosen is QueueType.QUORUM:
                    old = uncovered(api.queues(self.url.virtual_host), self.network_id)
                    for name in old:
                        note(
                            f"{name} is a classic queue: the policy is not applied to it",
                            "delete it when it is empty; the next that uses it makes a quorum one",
                        )
        except Unavailable as error:
            chosen = queue_type or self._likely_type
            steps = network_steps(self.network_id, self.url.virtual_host, chosen, limits)
            return self._printed(steps, error, note, {"queue_type": chosen.value})
        return {"done": True, "lines": [], "queue_type": chosen.value, "queue": str(self.url)}

    def add_user(self, peer: str, queue_type: QueueType | None, note: Note) -> dict[str, Any]:
        """Make an account for a peer, or give it a new password; the URL is told this once."""
        peer_id = parse_peer_id(peer)
        account = Account(user_of(self.network_id, peer_id), secrets.token_urlsafe(PASSWORD_BYTES))
        url = dataclasses.replace(self.url, user=account.user, password=account.password)
        told = {"user": account.user, "url": amqp_url_with_password(url)}

        def steps(chosen: QueueType) -> list[Step]:
            host = self.url.virtual_host
            return account_steps(self.network_id, host, peer_id, account, chosen)

        try:
            with self._api() as api:
                chosen = queue_type or queue_type_for(api.nodes())
                api.run(steps(chosen))
        except Unavailable as error:
            return self._printed(steps(queue_type or self._likely_type), error, note, told)
        return {"done": True, "lines": [], **told}

    @property
    def _likely_type(self) -> QueueType:
        """What is meant where nobody can be asked: who names three nodes has a cluster."""
        named = len(self.url.nodes) >= CLUSTER_NODES_MIN
        return QueueType.QUORUM if named else QueueType.CLASSIC

    def remove_user(self, peer: str, note: Note) -> dict[str, Any]:
        """Take a peer's account away; what waits in its queues stays."""
        user = user_of(self.network_id, parse_peer_id(peer))
        steps = removal_steps(user)
        try:
            with self._api() as api:
                api.run(steps)
        except Unavailable as error:
            return self._printed(steps, error, note, {"user": user})
        return {"done": True, "lines": [], "user": user}

    @contextlib.contextmanager
    def _api(self) -> Iterator[ManagementApi]:
        with ManagementApi(self.management, ca_file=self.ca_file) as api:
            api.check_virtual_host(self.url.virtual_host)
            yield api

    def _printed(
        self, steps: Sequence[Step], error: Unavailable, note: Note, told: dict[str, Any]
    ) -> dict[str, Any]:
        note(f"{error}: nothing is done yet", "run the lines below on the broker's machine")
        return {"done": False, "lines": [step.line for step in steps], **told}

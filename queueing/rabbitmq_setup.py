"""What an operator sets up on a RabbitMQ broker, as steps; pure.

Owns policies, queue types and the rights of accounts, each step both as a call of the management
API and as a `rabbitmqctl` line. Must not know HTTP, processes or who runs the steps.

One policy covers a network's mail and receipts: lifetime, size with reject-publish (a full queue is
a nack, nothing is dropped), the dead letter, and for quorum queues the delivery limit: classic ones
have none, and a policy that names it is not applied to them at all. The dead letter is one bounded
queue a network. An account may configure and read its peer's own two queues and write to the
default exchange: no binding, no other queue.

Whoever declares a queue must know its type, and an ordinary account may not ask how many nodes a
broker has. So the operator leaves a sign that every account can look for: on a cluster there is an
empty queue `shoal.<network>.quorum`, and where that is, mail queues are quorum queues.
"""

import enum
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from identity.keys import show_peer_id
from queueing.rabbitmq_messages import (
    dead_queue,
    mail_queue,
    network_name,
    quorum_sign,
    receipts_queue,
)
from queueing.receipt import RECEIPT_BYTES_MAX

CLUSTER_NODES_MIN = 3
"""A quorum of two nodes would lose its majority with either of them."""
NODES_MAX = 1000
_DAY_MS = 86_400_000
_JSON = msgspec.json.Encoder(order="sorted")


class QueueType(enum.StrEnum):
    """How the broker keeps a queue."""

    CLASSIC = "classic"
    QUORUM = "quorum"


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Limits that the policy sets for each queue."""

    queue_bytes_max: int = 10 * 1024**3
    """What may wait for one peer; beyond it publishers are refused."""
    lifetime_ms: int = 37 * _DAY_MS
    """A month is the longest expiry, and a receipt outlives it by a week."""
    delivery_limit: int = 1000
    """Of quorum queues; each lost connection of a recipient is one more delivery."""
    dead_bytes_max: int = 256 * 1024**2
    """What the dead letter keeps; the oldest goes first."""
    dead_lifetime_ms: int = 7 * _DAY_MS

    def __post_init__(self) -> None:
        """Refuse limits that would refuse or bury healthy mail."""
        assert self.queue_bytes_max > 16 * 1024 * 1024 > RECEIPT_BYTES_MAX
        assert self.delivery_limit >= 1000
        assert min(self.lifetime_ms, self.dead_bytes_max, self.dead_lifetime_ms) > 0


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to set up; doing it again changes nothing."""

    method: str
    path: str
    """Below /api/."""
    body: Mapping[str, Any]
    line: str
    """The same for rabbitmqctl; empty where it has no such command, and does not need it."""
    unless_there: bool = False
    """Leave alone what exists: queues may hold mail, and their type cannot be changed."""


@dataclass(frozen=True, slots=True)
class Account:
    """An account of one peer."""

    user: str
    password: str


def queue_type_for(nodes: Sequence[Mapping[str, Any]]) -> QueueType:
    """Choose by the answer of /api/nodes: quorum where a majority survives the loss of a node."""
    running = sum(node.get("running") is True for node in nodes[:NODES_MAX])
    return QueueType.QUORUM if running >= CLUSTER_NODES_MIN else QueueType.CLASSIC


def network_steps(
    network_id: bytes, virtual_host: str, queue_type: QueueType, limits: QueueLimits
) -> list[Step]:
    """Return what makes a virtual host ready for a network."""
    name, dead = network_name(network_id), dead_queue(network_id)
    mail = {
        "dead-letter-exchange": "",
        "dead-letter-routing-key": dead,
        "max-length-bytes": limits.queue_bytes_max,
        "message-ttl": limits.lifetime_ms,
        "overflow": "reject-publish",
    }
    if queue_type is QueueType.QUORUM:
        mail["delivery-limit"] = limits.delivery_limit
    buried = {
        "max-length-bytes": limits.dead_bytes_max,
        "message-ttl": limits.dead_lifetime_ms,
        "overflow": "drop-head",
    }
    mail_pattern = rf"^shoal\.{name}\.(mail|receipts)\."
    steps = [
        _policy(virtual_host, f"shoal-{name}", mail_pattern, mail),
        _policy(virtual_host, f"shoal-{name}-dead", rf"^shoal\.{name}\.dead$", buried),
        _queue(virtual_host, dead, queue_type),
    ]
    if queue_type is QueueType.QUORUM:
        steps.append(_queue(virtual_host, quorum_sign(network_id), queue_type))
    return steps


def account_steps(
    network_id: bytes,
    virtual_host: str,
    peer_id: bytes,
    account: Account,
    queue_type: QueueType,
) -> list[Step]:
    """Return what gives one peer an account, and the queues that it may read."""
    own = rf"^shoal\.{network_name(network_id)}\.(mail|receipts)\.{show_peer_id(peer_id)}$"
    write = r"^amq\.default$"
    user, host = quote(account.user, safe=""), quote(virtual_host, safe="")
    rights = {"configure": own, "write": write, "read": own}
    words = ["set_permissions", "-p", virtual_host, account.user, own, write, own]
    return [
        Step(
            "PUT",
            f"users/{user}",
            {"password": account.password, "tags": ""},
            _line("add_user", account.user, account.password)
            + f" || {_line('change_password', account.user, account.password)}",
        ),
        Step("PUT", f"permissions/{host}/{user}", rights, _line(*words)),
        _queue(virtual_host, mail_queue(network_id, peer_id), queue_type),
        _queue(virtual_host, receipts_queue(network_id, peer_id), queue_type),
    ]


def removal_steps(user: str) -> list[Step]:
    """Return what takes an account away; the queues stay, with what waits in them."""
    return [
        Step("DELETE", f"users/{quote(user, safe='')}", {}, _line("delete_user", user)),
    ]


def user_of(network_id: bytes, peer_id: bytes) -> str:
    """Return the account's name: it says of which network and for whom."""
    return f"shoal-{network_name(network_id)}-{show_peer_id(peer_id)}"


def uncovered(queues: Sequence[Mapping[str, Any]], network_id: bytes) -> list[str]:
    """Return a network's classic mail queues: a policy for quorum queues is not applied to them."""
    mail = re.compile(rf"shoal\.{network_name(network_id)}\.(mail|receipts)\.")
    names = [str(each.get("name")) for each in queues if each.get("type") == QueueType.CLASSIC]
    return sorted(name for name in names if mail.match(name))


def _policy(virtual_host: str, name: str, pattern: str, definition: Mapping[str, Any]) -> Step:
    path = f"policies/{quote(virtual_host, safe='')}/{quote(name, safe='')}"
    body = {"pattern": pattern, "apply-to": "queues", "definition": definition}
    text = _JSON.encode(definition).decode()
    words = ["set_policy", "-p", virtual_host, "--apply-to", "queues", name, pattern, text]
    return Step("PUT", path, body, _line(*words))


def _queue(virtual_host: str, name: str, queue_type: QueueType) -> Step:
    body = {"durable": True, "arguments": {"x-queue-type": queue_type.value}}
    path = f"queues/{quote(virtual_host, safe='')}/{quote(name, safe='')}"
    return Step("PUT", path, body, _declare(virtual_host, name, body), unless_there=True)


def _declare(virtual_host: str, name: str, body: Mapping[str, Any]) -> str:
    """Say it in Erlang, for rabbitmqctl has no command that declares a queue."""
    queue_type = body["arguments"]["x-queue-type"]
    expression = (
        f'rabbit_amqqueue:declare({{resource,<<"{virtual_host}">>,queue,<<"{name}">>}},'
        f'true,false,[{{<<"x-queue-type">>,longstr,<<"{queue_type}">>}}],none,<<"shoal">>).'
    )
    return _line("eval", expression)


def _line(*words: str) -> str:
    return " ".join(["rabbitmqctl", *map(shlex.quote, words)])

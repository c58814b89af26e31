"""The address of a RabbitMQ broker as people write it; pure.

Owns reading `amqp://` and `amqps://` and showing them without the password. Must not know pika.
"""

from dataclasses import dataclass, field, replace
from urllib.parse import SplitResult, quote, unquote, urlsplit

from queueing.errors import QueueError

NODES_MAX = 16
"""Addresses of one broker."""
_PORTS = {"amqp": 5672, "amqps": 5671}


class BadAmqpUrl(QueueError):  # noqa: N818 - named by what went wrong, as all our errors are
    """The queue's address is not an AMQP URL."""

    hint = "write it as amqp://user:password@host:5672/virtual-host, or amqps:// for TLS"


@dataclass(frozen=True, slots=True)
class AmqpUrl:
    """Where the broker is and as whom to log in; the password is in no repr."""

    host: str
    port: int
    tls: bool
    virtual_host: str
    user: str = "guest"
    password: str = field(default="guest", repr=False)
    others: tuple[tuple[str, int], ...] = ()
    """Hosts and ports of the broker's further nodes, where it is a cluster."""

    @property
    def nodes(self) -> tuple["AmqpUrl", ...]:
        """The address of each node by itself, in the order in which they were written."""
        servers = ((self.host, self.port), *self.others)
        return tuple(replace(self, host=host, port=port, others=()) for host, port in servers)

    def __str__(self) -> str:
        """Return hosts and ports, fit for logs and errors."""
        servers = ((self.host, self.port), *self.others)
        return ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in servers
        )


def parse_amqp_url(text: str) -> AmqpUrl:
    """Read an AMQP URL; BadAmqpUrl, whose message never repeats the text (it may hold a password).

    Follows the AMQP URI specification: an absent path is the virtual host "/", and the parts are
    percent-encoded. Beyond it, a cluster's nodes are written one after the other with commas
    between them: `amqp://one:5672,two:5672/shoal`.
    """
    try:
        parts = urlsplit(text.strip())
        if parts.scheme not in _PORTS:
            raise BadAmqpUrl("the queue's address starts with neither amqp:// nor amqps://")
        account, at, written = parts.netloc.rpartition("@")
        servers = [_server(each, parts.scheme) for each in written.split(",")]
        parts = parts._replace(netloc=f"{account}{at}host")
    except ValueError as error:
        raise BadAmqpUrl("the queue's address has a malformed host or port") from error
    if len(servers) > NODES_MAX:
        raise BadAmqpUrl(f"the queue's address names more than {NODES_MAX} nodes")
    if parts.query or parts.fragment:
        raise BadAmqpUrl("the queue's address takes no ? options")
    user, password = _credentials(parts)
    return AmqpUrl(
        host=servers[0][0],
        port=servers[0][1],
        tls=parts.scheme == "amqps",
        virtual_host=_virtual_host(parts.path),
        user=user,
        password=password,
        others=tuple(servers[1:]),
    )


def amqp_url_with_password(url: AmqpUrl) -> str:
    """Write the whole address, password included: for the eyes of its owner only."""
    scheme = "amqps" if url.tls else "amqp"
    user, password = quote(url.user, safe=""), quote(url.password, safe="")
    return f"{scheme}://{user}:{password}@{url}/{quote(url.virtual_host, safe='')}"


def _server(written: str, scheme: str) -> tuple[str, int]:
    parts = urlsplit(f"//{written}")
    if not parts.hostname:
        raise BadAmqpUrl("the queue's address names no host")
    return unquote(parts.hostname), parts.port or _PORTS[scheme]


def _virtual_host(path: str) -> str:
    name = path.removeprefix("/")
    if "/" in name:
        raise BadAmqpUrl("a / inside the virtual host is written %2F")
    return unquote(name) if name else "/"


def _credentials(parts: SplitResult) -> tuple[str, str]:
    if parts.username is None:
        return "guest", "guest"
    return unquote(parts.username), unquote(parts.password or "")

"""The address of a RabbitMQ broker as people write it; pure.

Owns reading `amqp://` and `amqps://` and showing them without the password. Must not know pika.
"""

from dataclasses import dataclass, field
from urllib.parse import SplitResult, quote, unquote, urlsplit

from queueing.errors import QueueError

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

    def __str__(self) -> str:
        """Return host and port, fit for logs and errors."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_amqp_url(text: str) -> AmqpUrl:
    """Read an AMQP URL; BadAmqpUrl, whose message never repeats the text (it may hold a password).

    Follows the AMQP URI specification: an absent path is the virtual host "/", and the parts are
    percent-encoded.
    """
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as error:
        raise BadAmqpUrl("the queue's address has a malformed host or port") from error
    if parts.scheme not in _PORTS:
        raise BadAmqpUrl("the queue's address starts with neither amqp:// nor amqps://")
    if not parts.hostname:
        raise BadAmqpUrl("the queue's address names no host")
    if parts.query or parts.fragment:
        raise BadAmqpUrl("the queue's address takes no ? options")
    user, password = _credentials(parts)
    return AmqpUrl(
        host=unquote(parts.hostname),
        port=port or _PORTS[parts.scheme],
        tls=parts.scheme == "amqps",
        virtual_host=_virtual_host(parts.path),
        user=user,
        password=password,
    )


def amqp_url_with_password(url: AmqpUrl) -> str:
    """Write the whole address, password included: for the eyes of its owner only."""
    scheme = "amqps" if url.tls else "amqp"
    user, password = quote(url.user, safe=""), quote(url.password, safe="")
    return f"{scheme}://{user}:{password}@{url}/{quote(url.virtual_host, safe='')}"


def _virtual_host(path: str) -> str:
    name = path.removeprefix("/")
    if "/" in name:
        raise BadAmqpUrl("a / inside the virtual host is written %2F")
    return unquote(name) if name else "/"


def _credentials(parts: SplitResult) -> tuple[str, str]:
    if parts.username is None:
        return "guest", "guest"
    return unquote(parts.username), unquote(parts.password or "")

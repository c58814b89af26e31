"""RabbitMQ's management API: a handful of calls over HTTP.

Owns the connection and the words for its failures. Blocking, for commands of an operator only; a
running peer needs AMQP alone. Must not know what the steps mean.
"""

import base64
import contextlib
import http.client
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

import msgspec

from queueing.errors import NotPermitted, QueueError, Unavailable
from queueing.rabbitmq_setup import Step
from queueing.rabbitmq_url import AmqpUrl, BadAmqpUrl

ANSWER_BYTES_MAX = 16 * 1024 * 1024
TIMEOUT_S = 5.0
_PORTS = {"http": 15672, "https": 15671}
_OK = frozenset({200, 201, 204})


@dataclass(frozen=True, slots=True)
class ManagementUrl:
    """Where the API is and as whom to log in; the password is in no repr."""

    host: str
    port: int
    tls: bool
    user: str
    password: str = field(repr=False)

    def __str__(self) -> str:
        """Return the address, fit for logs and errors."""
        return f"http{'s' if self.tls else ''}://{self.host}:{self.port}"


def management_url(text: str | None, broker: AmqpUrl) -> ManagementUrl:
    """Read the API's address, or take the broker's host; the account is the broker's unless told.

    BadAmqpUrl, whose message never repeats the text (it may hold a password).
    """
    if text is None:
        scheme = "https" if broker.tls else "http"
        return ManagementUrl(broker.host, _PORTS[scheme], broker.tls, broker.user, broker.password)
    hint = "write it as http://host:15672 or https://host:15671"
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as error:
        raise BadAmqpUrl("the management API's address is malformed", hint=hint) from error
    if parts.scheme not in _PORTS or not parts.hostname or parts.path not in ("", "/"):
        raise BadAmqpUrl("the management API's address is no http:// or https:// URL", hint=hint)
    user, password = broker.user, broker.password
    if parts.username is not None:
        user, password = unquote(parts.username), unquote(parts.password or "")
    tls = parts.scheme == "https"
    return ManagementUrl(parts.hostname, port or _PORTS[parts.scheme], tls, user, password)


class ManagementApi:
    """One connection to the API; a context manager. Unavailable where nobody answers."""

    def __init__(self, url: ManagementUrl, *, ca_file: Path | None = None) -> None:
        """Take the address; connects when used."""
        self._url = url
        token = base64.b64encode(f"{url.user}:{url.password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        if url.tls:
            context = ssl.create_default_context(cafile=ca_file)
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                url.host, url.port, timeout=TIMEOUT_S, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(url.host, url.port, timeout=TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def nodes(self) -> list[dict[str, Any]]:
        """Return the nodes of the broker."""
        return _objects(self._call("GET", "nodes")[1])

    def queues(self, virtual_host: str) -> list[dict[str, Any]]:
        """Return the queues of a virtual host, by name and type."""
        path = f"queues/{quote(virtual_host, safe='')}?columns=name,type"
        return _objects(self._call("GET", path)[1])

    def has_queue(self, virtual_host: str, name: str) -> bool:
        """Tell whether a queue exists."""
        path = f"queues/{quote(virtual_host, safe='')}/{quote(name, safe='')}"
        return self._exists(path)

    def check_virtual_host(self, name: str) -> None:
        """Raise QueueError where there is no such virtual host."""
        if not self._exists(f"vhosts/{quote(name, safe='')}"):
            raise QueueError(
                f"the broker has no virtual host {name!r}", hint=f"rabbitmqctl add_vhost {name}"
            )

    def run(self, steps: Sequence[Step]) -> None:
        """Take the steps in their order; each may be there already."""
        for step in steps:
            if step.unless_there and self._exists(step.path):
                continue
            self._call(step.method, step.path, step.body, missing_is_fine=step.method == "DELETE")

    def _exists(self, path: str) -> bool:
        return self._call("GET", path, missing_is_fine=True)[0] != http.client.NOT_FOUND

    def _call(
        self, method: str, path: str, body: Any = None, *, missing_is_fine: bool = False
    ) -> tuple[int, Any]:
        data = None if body is None else msgspec.json.encode(body)
        try:
            self._connection.request(method, f"/api/{path}", data, self._headers)
            response = self._connection.getresponse()
            answer = response.read(ANSWER_BYTES_MAX)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unavailable(
                f"the management API at {self._url} cannot be reached: {reason}",
                hint="`rabbitmq-plugins enable rabbitmq_management`, or name it by --management",
            ) from error
        if response.status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            raise NotPermitted(
                f"the management API at {self._url} refuses {self._url.user!r}",
                hint="the account needs the tag administrator: rabbitmqctl set_user_tags",
            )
        if response.status == http.client.NOT_FOUND and missing_is_fine:
            return response.status, None
        decoded: Any = None
        with contextlib.suppress(msgspec.DecodeError):
            decoded = msgspec.json.decode(answer) if answer else None
        if response.status not in _OK:
            reason = decoded.get("reason", "") if isinstance(decoded, dict) else ""
            raise QueueError(
                f"the management API refuses {path.partition('/')[0]}:"
                f" {response.status} {str(reason)[:200]}"
            )
        return response.status, decoded


def _objects(answer: Any) -> list[dict[str, Any]]:
    if not isinstance(answer, list):
        raise QueueError("the management API answers in an unknown form")
    return [each for each in answer if isinstance(each, dict)]

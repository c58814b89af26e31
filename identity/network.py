"""What a network is: a name, perhaps a key, and where it can be entered.

Owns: the network id, the keys derived from the network, and the network file's format.
Must not know: paths, sockets, or whether a bootstrap node answers.
"""

import base64
import binascii
import hashlib
import unicodedata
from functools import lru_cache
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from identity.address import PORT_MAX, Address, check_host
from identity.encoding import length_prefixed
from identity.errors import BadNetworkFile, InvalidAddress, InvalidPeerId
from identity.keys import PEER_ID_BYTES, parse_peer_id, show_peer_id

NETWORK_KEY_BYTES = 32
NETWORK_NAME_BYTES_MAX = 128
NETWORK_FILE_BYTES_MAX = 64 * 1024
BOOTSTRAP_NODES_MAX = 64
AMQP_URL_CHARS_MAX = 1_024
FILE_VERSION = 1


NETWORKS_KEPT_MAX = 64


@lru_cache(maxsize=NETWORKS_KEPT_MAX)
def _network_id(name: str, key: bytes | None) -> bytes:
    """Hash name and key; every signature asks for it, so that it is kept for a few networks."""
    return hashlib.sha256(length_prefixed(b"shoal/network/1", name.encode(), key or b"")).digest()


class Network(msgspec.Struct, frozen=True):
    """A network; private when it has a key of 32 bytes. Raises BadNetworkFile when built wrong."""

    name: str
    key: bytes | None = None

    def __post_init__(self) -> None:
        name = unicodedata.normalize("NFC", self.name)
        _check_network_name(name)
        msgspec.structs.force_setattr(self, "name", name)
        if self.key is not None and len(self.key) != NETWORK_KEY_BYTES:
            raise BadNetworkFile(f"key: must be {NETWORK_KEY_BYTES} bytes, not {len(self.key)}")

    @property
    def network_id(self) -> bytes:
        """The 32 bytes that every signature and record key of this network covers."""
        return _network_id(self.name, self.key)

    @property
    def is_private(self) -> bool:
        """True when only holders of a key take part."""
        return self.key is not None

    def derive(self, label: str, *context: bytes, length: int = 32) -> bytes:
        """Derive key material for one use (HKDF-SHA256, RFC 5869, without salt).

        On an open network anybody can derive the same: it then separates, it protects nothing.
        """
        material = self.key if self.key is not None else hashlib.sha256(self.name.encode()).digest()
        info = length_prefixed(label.encode(), *context)
        return HKDF(SHA256(), length, salt=None, info=info).derive(material)

    def __repr__(self) -> str:
        return f"Network({self.name!r}, {'private' if self.is_private else 'open'})"  # no key


class BootstrapNode(msgspec.Struct, frozen=True):
    """A peer through which the network can be entered; with its id, nobody else will do."""

    address: Address
    peer_id: bytes | None = None

    def __post_init__(self) -> None:
        if self.peer_id is not None and len(self.peer_id) != PEER_ID_BYTES:
            raise BadNetworkFile(f"id: must be {PEER_ID_BYTES} bytes, not {len(self.peer_id)}")


class NetworkFile(msgspec.Struct, frozen=True):
    """All that a newcomer needs. Raises BadNetworkFile when built wrong."""

    network: Network
    bootstrap: tuple[BootstrapNode, ...]
    queue_amqp: str | None = None

    def __post_init__(self) -> None:
        if len(self.bootstrap) > BOOTSTRAP_NODES_MAX:
            raise BadNetworkFile(f"bootstrap: more than {BOOTSTRAP_NODES_MAX} nodes")
        for index, node in enumerate(self.bootstrap):
            _check_bootstrap_host(f"bootstrap[{index}].host", node.address.host)
        if self.queue_amqp is not None:
            _check_amqp_url("queue.amqp", self.queue_amqp)


def parse_network_file(data: bytes) -> NetworkFile:
    """Read a network file (JSON); raises BadNetworkFile, which names the key that is wrong."""
    if len(data) > NETWORK_FILE_BYTES_MAX:
        raise BadNetworkFile(f"the network file is larger than {NETWORK_FILE_BYTES_MAX} bytes")
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadNetworkFile(f"the network file is not JSON: {error}") from error
    top = _Table(document, "")
    version = top.take("version", int)
    if version != FILE_VERSION:
        raise BadNetworkFile(f"version: must be {FILE_VERSION}, not {version}")
    network = Network(_utf8(top.take("network", str)), _key(top.take_optional("key", str)))
    nodes = top.take_optional("bootstrap", list) or []
    bootstrap = tuple(_bootstrap_node(item, f"bootstrap[{i}]") for i, item in enumerate(nodes))
    queue = top.take_optional("queue", dict)
    top.finish()
    return NetworkFile(network, bootstrap, None if queue is None else _queue(queue))


def dump_network_file(file: NetworkFile) -> bytes:
    """Write the network file as parse_network_file reads it."""
    document: dict[str, Any] = {"version": FILE_VERSION, "network": file.network.name}
    if file.network.key is not None:
        document["key"] = base64.b64encode(file.network.key).decode()
    document["bootstrap"] = [_dump_node(node) for node in file.bootstrap]
    if file.queue_amqp is not None:
        document["queue"] = {"amqp": file.queue_amqp}
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


class _Table:
    """A JSON object whose keys are taken one by one, so that a key left over is noticed."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise BadNetworkFile(f"{path or 'the network file'}: must be an object")
        self._left: dict[str, Any] = dict(value)
        self._path = path

    def take(self, key: str, kind: type) -> Any:
        value = self.take_optional(key, kind)
        if value is None:
            raise BadNetworkFile(f"{self._name(key)}: is missing")
        return value

    def take_optional(self, key: str, kind: type) -> Any:
        if key not in self._left:
            return None
        value = self._left.pop(key)
        if type(value) is not kind:  # exact: true is no port
            raise BadNetworkFile(f"{self._name(key)}: must be {_KIND_NAMES[kind]}")
        return value

    def finish(self) -> Self:
        for key in self._left:
            raise BadNetworkFile(f"{self._name(key)[:80]!r}: is not a known key")
        return self

    def _name(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key


_KIND_NAMES = {int: "a whole number", str: "a text", list: "a list", dict: "an object"}


def _utf8(text: str) -> str:
    """Refuse lone surrogates, which JSON can escape and UTF-8 cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadNetworkFile("network: the name is not valid Unicode") from error
    return text


def _check_network_name(name: str) -> None:
    if not name or len(name.encode()) > NETWORK_NAME_BYTES_MAX:
        raise BadNetworkFile(f"network: the name must be 1 to {NETWORK_NAME_BYTES_MAX} bytes")
    # C*: control, format (bidirectional ones too), surrogate, private and unassigned characters.
    if name != name.strip() or any(unicodedata.category(char)[0] == "C" for char in name):
        raise BadNetworkFile("network: the name holds control characters or outer spaces")


def _key(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadNetworkFile("key: is not base64") from error
    if len(key) != NETWORK_KEY_BYTES:
        raise BadNetworkFile(f"key: must be {NETWORK_KEY_BYTES} bytes, not {len(key)}")
    return key


def _bootstrap_node(value: object, path: str) -> BootstrapNode:
    table = _Table(value, path)
    host: str = table.take("host", str)
    port: int = table.take("port", int)
    peer_id_text: str | None = table.take_optional("id", str)
    table.finish()
    if not 1 <= port <= PORT_MAX:
        raise BadNetworkFile(f"{path}.port: must be 1 to {PORT_MAX}, not {port}")
    _check_bootstrap_host(f"{path}.host", host)
    try:
        peer_id = None if peer_id_text is None else parse_peer_id(peer_id_text)
    except InvalidPeerId as error:
        raise BadNetworkFile(f"{path}.id: {error}", hint=error.hint) from error
    return BootstrapNode(Address(host, port), peer_id)


def _dump_node(node: BootstrapNode) -> dict[str, Any]:
    shown: dict[str, Any] = {"host": node.address.host, "port": node.address.port}
    if node.peer_id is not None:
        shown["id"] = show_peer_id(node.peer_id)
    return shown


def _check_bootstrap_host(path: str, host: str) -> None:
    try:
        check_host(host)
    except InvalidAddress as error:
        raise BadNetworkFile(f"{path}: {error}") from error


def _queue(value: object) -> str:
    table = _Table(value, "queue")
    url: str = table.take("amqp", str)
    table.finish()
    return url


def _check_amqp_url(path: str, url: str) -> None:
    # The URL itself is not shown in these messages: it may hold a password by mistake.
    if len(url) > AMQP_URL_CHARS_MAX or not url.isascii() or not url.isprintable() or " " in url:
        raise BadNetworkFile(f"{path}: is not an AMQP address")
    try:
        parts = urlsplit(url)
        # A cluster's nodes stand one after the other, with commas between them.
        nodes = [urlsplit(f"//{node}") for node in parts.netloc.split(",")]
        is_complete = all(node.hostname and node.port != 0 for node in nodes)
    except ValueError as error:
        raise BadNetworkFile(f"{path}: is not an AMQP address") from error
    if "@" in parts.netloc:
        raise BadNetworkFile(
            f"{path}: credentials do not belong in the network file",
            hint="put them into config.toml (mode 0600) or SHOAL_QUEUE",
        )
    if parts.scheme not in ("amqp", "amqps") or not is_complete or parts.fragment:
        raise BadNetworkFile(f"{path}: must be amqp://HOST:PORT/VHOST")

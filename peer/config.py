"""config.toml: what a person may set for one peer, checked when it is read.

Owns the names, defaults and limits of the settings. Must not know who uses them. Sizes and spans
may be numbers (bytes, seconds) or text such as "10GB" and "7d". A key that is not known here is an
error that names it: a misspelt limit must not be a limit that silently does not hold.
"""

from __future__ import annotations

import os
import stat
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from peer.failures import BadConfig
from peer.units import parse_size, parse_span

_CONFIG_BYTES_MAX = 64 * 1024
_GIB = 1024**3
QUEUE_BYTES_MIN = 64 * 1024 * 1024
"""A smaller queue could not hold a file and its manifest."""


class InboxAccept(StrEnum):
    """Who may send files to this peer; unset: `network` if private, else `contacts`."""

    NETWORK = "network"
    CONTACTS = "contacts"
    NONE = "none"


class DeliveryMeans(StrEnum):
    """A way to reach a peer that is away."""

    QUEUE = "queue"
    MAILBOX = "mailbox"


class InboxConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be sent to this peer."""

    accept: InboxAccept | None = None
    quota_bytes: int = 10 * _GIB
    """Files in the inbox, summed."""
    file_bytes_max: int = 10 * _GIB


class MailboxConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keeping mail for others."""

    enabled: bool | None = None
    """Unset: on in private networks, off in open ones."""
    quota_bytes: int = 10 * _GIB
    sender_quota_bytes: int = 2 * _GIB
    """Of one sender, so that none fills the box alone."""
    recipient_quota_bytes: int = 4 * _GIB
    """For one recipient, so that nobody's absence fills the box alone."""
    free_bytes_min: int = _GIB // 4
    """Of the disk; no mail is taken that would leave less."""
    retention_s: int = 30 * 86400
    """The longest expiry that this peer promises."""


class QueueConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """RabbitMQ; the URL may hold credentials, so the file must then be 0600."""

    amqp: str | None = None
    management: str | None = None
    """RabbitMQ's management API, for the operator's commands; unset: the broker's host, 15672."""
    ca_file: str | None = None
    """The authority that signed the broker's certificate; relative to the home."""
    delivery_bytes_max: int = 64 * 1024 * 1024
    """Of a larger one only a claim goes to the broker, its chunks to mailboxes; 0: never."""
    queue_bytes_max: int = 10 * _GIB
    """What may wait for one peer on the broker; `bootstrap --setup-queue` sets it."""


class TransferConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rates and slots; 0 is no limit of rate."""

    upload_bytes_per_s: int = 0
    download_bytes_per_s: int = 0
    slots: int = 16
    """Uploads at one time; further ones are told when to ask again."""


class ShareConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What this peer offers."""

    piped_quota_bytes: int = 10 * _GIB
    """Files that were put from stdin, summed."""


class DeliveryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How files reach peers that are away, in the order to be tried."""

    means: tuple[DeliveryMeans, ...] = (DeliveryMeans.QUEUE, DeliveryMeans.MAILBOX)
    expires_s: int = 7 * 86400
    audit_s: int = 1800
    """About how often each host proves that it has what it keeps for this peer."""
    host_silent_s: int = 3600
    """Mail at a host that is silent for longer is placed at another."""


class DiskConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Room on the disk."""

    free_bytes_min: int = _GIB // 2
    """`doctor` calls less than this a problem; `put -` leaves so much."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of one peer."""

    nickname: str | None = None
    inbox: InboxConfig = InboxConfig()
    mailbox: MailboxConfig = MailboxConfig()
    queue: QueueConfig = QueueConfig()
    transfer: TransferConfig = TransferConfig()
    share: ShareConfig = ShareConfig()
    delivery: DeliveryConfig = DeliveryConfig()
    disk: DiskConfig = DiskConfig()


def load_config(path: Path) -> Config:
    """Read config.toml; a missing file is all defaults. BadConfig says where it is wrong."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        return Config()
    except OSError as error:
        raise BadConfig(f"{path} cannot be read: {error.strerror or error}") from error
    config = parse_config(data, name=str(path))
    if config.queue.amqp and stat.S_IMODE(mode) & 0o077:
        raise BadConfig(
            f"{path} holds a broker's address, which may hold a password, and others can read it",
            hint=f"chmod 600 {path}",
        )
    return config


def parse_config(data: bytes, *, name: str = "config.toml") -> Config:
    """Check the text of a config.toml; BadConfig names the key that is wrong."""
    if len(data) > _CONFIG_BYTES_MAX:
        raise BadConfig(f"{name} is larger than {_CONFIG_BYTES_MAX} bytes")
    try:
        table = tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise BadConfig(f"{name} is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise BadConfig(f"{name}: {error}") from error
    except RecursionError as error:
        raise BadConfig(f"{name} is nested too deeply") from error
    try:
        config = msgspec.convert(_with_numbers(table, name, ""), Config)
    except msgspec.ValidationError as error:
        raise BadConfig(f"{name}: {_readable(str(error))}") from error
    _check(config, name)
    return config


def _with_numbers(table: dict[str, Any], name: str, prefix: str) -> dict[str, Any]:
    """Replace sizes and spans written as text; the key's unit says which it is."""
    result: dict[str, Any] = {}
    for key, value in table.items():
        try:
            if isinstance(value, dict):
                value = _with_numbers(value, name, f"{prefix}{key}.")
            elif isinstance(value, str) and "bytes" in key.split("_"):
                value = parse_size(value.removesuffix("/s"))
            elif isinstance(value, str) and key.endswith("_s"):
                value = parse_span(value)
        except ValueError as error:
            raise BadConfig(f"{name}: {prefix}{key}: {error}") from error
        result[key] = value
    return result


def _check(config: Config, name: str) -> None:
    numbers = {
        "inbox.quota_bytes": config.inbox.quota_bytes,
        "inbox.file_bytes_max": config.inbox.file_bytes_max,
        "mailbox.quota_bytes": config.mailbox.quota_bytes,
        "mailbox.sender_quota_bytes": config.mailbox.sender_quota_bytes,
        "mailbox.recipient_quota_bytes": config.mailbox.recipient_quota_bytes,
        "mailbox.free_bytes_min": config.mailbox.free_bytes_min,
        "mailbox.retention_s": config.mailbox.retention_s - 1,
        "queue.delivery_bytes_max": config.queue.delivery_bytes_max,
        "queue.queue_bytes_max": config.queue.queue_bytes_max - QUEUE_BYTES_MIN,
        "transfer.upload_bytes_per_s": config.transfer.upload_bytes_per_s,
        "transfer.download_bytes_per_s": config.transfer.download_bytes_per_s,
        "transfer.slots": config.transfer.slots - 1,
        "share.piped_quota_bytes": config.share.piped_quota_bytes,
        "disk.free_bytes_min": config.disk.free_bytes_min,
        "delivery.expires_s": config.delivery.expires_s - 1,
        "delivery.audit_s": config.delivery.audit_s - 1,
        "delivery.host_silent_s": config.delivery.host_silent_s - 1,
    }
    for key, value in numbers.items():
        if value < 0:
            raise BadConfig(f"{name}: {key} is too small")
    if not config.delivery.means:
        raise BadConfig(f"{name}: delivery.means names no means")
    if len(set(config.delivery.means)) != len(config.delivery.means):
        raise BadConfig(f"{name}: delivery.means names one twice")
    amqp = config.queue.amqp
    if amqp is not None and not amqp.startswith(("amqp://", "amqps://")):
        raise BadConfig(f"{name}: queue.amqp must begin with amqp:// or amqps://")


def _readable(message: str) -> str:
    """Say "inbox: ..." where msgspec says "... - at `$.inbox`"; it repeats no values of text."""
    text, separator, place = message.rpartition(" - at `$")
    if not separator:
        return message
    where = place.rstrip("`").lstrip(".")
    return f"{where}: {text}" if where else text

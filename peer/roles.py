"""What a peer is for: a person's own, or the operator's; and what follows from that.

Owns the caps of the operator's role, and the order in which options, config.toml, network file and
the kind of network decide about broker and mailbox. Pure; must not know who acts upon it.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TypeVar

import msgspec

from dht.records import NICKNAME_BYTES_MAX
from dht.storage import StorageLimits
from identity.network import NetworkFile
from peer.config import Config, MailboxConfig, TransferConfig
from peer.errors import BadInput
from peer.home import Home
from peer.options import JoinOptions

Settings = TypeVar("Settings", bound=msgspec.Struct)

_GIB = 1024**3
OPERATOR_RECORDS = StorageLimits(
    records_max=400_000,
    publisher_records_max=50_000,
    block_records_max=100_000,
    deletions_max=400_000,
)
"""Four times a peer's; 400 MB of memory when full."""
OPERATOR_MAILBOX = MailboxConfig(
    quota_bytes=100 * _GIB, sender_quota_bytes=20 * _GIB, recipient_quota_bytes=40 * _GIB
)
OPERATOR_TRANSFER = TransferConfig(slots=64)


def config_of_role(config: Config, options: JoinOptions) -> Config:
    """Return the settings with the limits that were asked for.

    The operator's are larger caps where nothing else was set.
    """
    asked = {
        "upload_bytes_per_s": options.limit_up_bytes_per_s,
        "download_bytes_per_s": options.limit_down_bytes_per_s,
    }
    given = {name: rate for name, rate in asked.items() if rate is not None}
    config = msgspec.structs.replace(
        config, transfer=msgspec.structs.replace(config.transfer, **given)
    )
    if options.operator is None:
        return config
    return msgspec.structs.replace(
        config,
        mailbox=_raised(config.mailbox, MailboxConfig(), OPERATOR_MAILBOX),
        transfer=_raised(config.transfer, TransferConfig(), OPERATOR_TRANSFER),
    )


def records_of_role(options: JoinOptions) -> StorageLimits | None:
    """Return how many records the DHT's node keeps; None is the default."""
    return None if options.operator is None else OPERATOR_RECORDS


def queue_url_of(options: JoinOptions, config: Config, file: NetworkFile) -> str | None:
    """Return the broker's URL, credentials included, or None where no broker is named."""
    return options.queue_url or config.queue.amqp or file.queue_amqp


def authority_of(config: Config, home: Home) -> Path | None:
    """Return the file of the authority that signs the broker's certificate; None: the system's."""
    named = config.queue.ca_file
    return None if named is None else home.path / Path(named).expanduser()


def keeps_mail(options: JoinOptions, config: Config, file: NetworkFile) -> bool:
    """Tell whether this peer keeps mail for others."""
    if options.mailbox is not None:
        return options.mailbox
    if config.mailbox.enabled is not None:
        return config.mailbox.enabled
    return file.network.is_private or options.operator is not None


def nickname_of(options: JoinOptions, config: Config) -> str:
    """Return the nickname: the one asked for, the configured one, else the host's name."""
    nickname = options.nickname or config.nickname
    if nickname is None:
        return socket.gethostname().encode()[:NICKNAME_BYTES_MAX].decode(errors="ignore") or "peer"
    if not nickname.strip() or len(nickname.encode()) > NICKNAME_BYTES_MAX:
        raise BadInput(f"a nickname has 1 to {NICKNAME_BYTES_MAX} bytes")
    return nickname


def _raised(given: Settings, default: Settings, raised: Settings) -> Settings:
    """Take the raised value of each setting that still has its default."""
    changes = {
        name: getattr(raised, name)
        for name in given.__struct_fields__
        if getattr(given, name) == getattr(default, name)
    }
    return msgspec.structs.replace(given, **changes)

"""Which peer a person means: a nickname, an id, or eight or more characters of one.

Owns the rules of names: the first id seen under a nickname is remembered, another id under it
later is reported and never followed, and whatever could mean two peers is refused with both.
Pure but for the contacts' table: the peers that the network knows are handed in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from identity.errors import InvalidPeerId
from identity.keys import parse_peer_id, show_peer_id
from peer.contacts import Contacts
from peer.errors import Ambiguous, NotFound

ID_CHARS = 32
PREFIX_CHARS_MIN = 8
BASE32_CHARS = frozenset("abcdefghijklmnopqrstuvwxyz234567")


@dataclasses.dataclass(frozen=True, slots=True)
class Named:
    """A peer and the nickname that it goes by."""

    peer_id: bytes
    nickname: str


def full_peer_id(text: str) -> bytes | None:
    """Return the id when the text is a whole one."""
    try:
        return parse_peer_id(text) if len(text) == ID_CHARS else None
    except InvalidPeerId:
        return None


def is_prefix(text: str) -> bool:
    """Tell whether the text could be the beginning of an id."""
    return PREFIX_CHARS_MIN <= len(text) <= ID_CHARS and set(text.lower()) <= BASE32_CHARS


def resolve_peer(
    text: str, contacts: Contacts, *, under_nickname: Iterable[bytes], known: Iterable[Named]
) -> bytes:
    """Return the id that a person means by PEER, and remember a nickname's first id.

    `under_nickname` are the ids that publish this nickname now, `known` all peers ever seen.
    Raises Ambiguous with all candidates, NotFound.
    """
    whole = full_peer_id(text)
    if whole is not None:
        return whole
    known = list(known)
    published = dict.fromkeys(under_nickname)
    published.update(dict.fromkeys(peer.peer_id for peer in known if peer.nickname == text))
    candidates = list(dict.fromkeys([*published, *_by_prefix(text, known, contacts)]))
    pin = contacts.pinned(text)
    if pin is not None:
        others = [peer_id for peer_id in candidates if peer_id != pin.peer_id]
        # A contact that the person added stays what they said; only a pin of ours is in doubt.
        if others and not pin.may_send:
            raise _changed(text, pin.peer_id, others)
        return pin.peer_id
    match candidates:
        case []:
            raise NotFound(
                f"no peer is known as {text!r}",
                hint="`shoal peers` lists the peers that are known; an id works from the start",
            )
        case [peer_id]:
            if peer_id in published:
                contacts.pin(text, peer_id)
            return peer_id
        case several:
            raise Ambiguous(
                f"{text!r} means {len(several)} peers: {_listed(several)}",
                hint="name one by its id, or settle it: `shoal contact add NICK ID`",
            )


def _by_prefix(text: str, known: list[Named], contacts: Contacts) -> list[bytes]:
    if not is_prefix(text):
        return []
    ids = dict.fromkeys([peer.peer_id for peer in known] + [pin.peer_id for pin in contacts.pins()])
    return [peer_id for peer_id in ids if show_peer_id(peer_id).startswith(text.lower())]


def _changed(nickname: str, pinned: bytes, others: list[bytes]) -> Ambiguous:
    return Ambiguous(
        f"{nickname!r} was {show_peer_id(pinned)} and now also means {_listed(others)}",
        hint=f"if you trust one of them: `shoal contact add {nickname} ID`",
    )


def _listed(peer_ids: list[bytes]) -> str:
    return ", ".join(show_peer_id(peer_id) for peer_id in peer_ids[:8])

"""What a lookup did, in plain words: the cells of its hops and the verdict. Pure.

Owns those sentences. Names, nicknames and addresses come from other peers: each goes through
`escape`. Must not know how a lookup works.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from console.text import escape, human_left, human_size, plural

Fields = Mapping[str, Any]

RECORD_COLUMNS = (
    "name",
    "content_id",
    "size",
    "publisher",
    "expires",
    "on_closest",
    "reachable",
    "address",
)
"""What stands after `record` in a line for scripts: the first fields of a record."""
_SHORT_ID_CHARS = 8
_REASONS = {
    "record-signature": "bad signature",
    "record-expired": "expired",
    "record-ahead": "issued in the future",
    "record-key": "wrong key",
    "record-unasked": "not what was asked for",
    "record-outdated": "older version",
    "record-surplus": "beyond the limit",
    "record-lifetime": "lives too long",
    "record-malformed": "malformed record",
    "record-not-canonical": "malformed record",
    "record-too-large": "too large",
    "record-filename": "unsafe name",
    "contact-malformed": "malformed contact",
    "contact-unbelievable": "contact at an address that cannot be right",
}
_OUTCOMES = {"bad": "nonsense", "waiting": "no answer yet", "passed-over": "not asked"}
_PASSED_OVER = {
    "crowded": "its address block has its share",
    "doubted": "too many failed that its tellers named",
    "silent-before": "silent lately",
    "limit": "limit of requests",
}
_TITLES = {
    "name": "the name",
    "content": "the content",
    "word": "the word",
    "peer": "the peer",
    "nickname": "the nickname",
}


def hop_row(fields: Fields) -> dict[str, object]:
    """Turn a hop into the cells of its line on a terminal."""
    named_by = fields.get("named_by")
    return {
        **{name: fields.get(name) for name in ("hop", "address", "shared_bits", "place")},
        "took_ms": _short_ms(fields.get("took_ms")),
        "peer": escape(str(fields.get("id", "")))[:_SHORT_ID_CHARS],
        "named_by": None if named_by is None else escape(str(named_by))[:_SHORT_ID_CHARS],
        "came_back": came_back(fields),
    }


def came_back(fields: Fields) -> str:
    """Say in a few words what a request brought."""
    outcome, text = str(fields.get("outcome", "")), str(fields.get("text", ""))
    if outcome not in ("answered", "late"):
        said = _OUTCOMES.get(outcome, escape(outcome))
        why = _PASSED_OVER.get(text, escape(text))
        return f"{said}: {why}" if text and "does not answer" not in text else said
    brought = [
        plural(int(fields.get("records", 0)), "record") if fields.get("records") else "",
        plural(int(fields.get("contacts", 0)), "peer") if fields.get("contacts") else "",
        f"rejected: {reasons(fields['rejected'])}" if fields.get("rejected") else "",
    ]
    said = ", ".join(part for part in brought if part) or "nothing new"
    return said if outcome == "answered" else f"late: {said}"


def reasons(rejected: Mapping[str, int]) -> str:
    """Name what was rejected and why, most of it first."""
    ordered = sorted(rejected.items(), key=lambda each: (-each[1], each[0]))
    return ", ".join(f"{count} {_REASONS.get(name, escape(name))}" for name, count in ordered)


def explanation_lines(fields: Fields, *, wall_s: float) -> list[str]:
    """Show what a lookup came to, records first, for a terminal."""
    lines = [""]
    shown = list(fields.get("records", ()))
    for record in shown:
        lines += _record_lines(record, int(fields.get("closest", 0)), wall_s)
    more = int(fields.get("found", 0)) - sum(not record.get("withdrawn") for record in shown)
    if more > 0:
        lines.append(f"and {more} more")
    return [*lines, *verdict_lines(fields)]


def verdict_lines(fields: Fields) -> list[str]:
    """Say in plain words what was found, or why nothing was."""
    return [_verdict(fields), *_doubts(fields), _effort(fields)]


def _record_lines(record: Fields, closest: int, wall_s: float) -> list[str]:
    head = [escape(str(record.get("name") or "")), f"by {_publisher(record)}"]
    if record.get("size") is not None:
        head.insert(1, human_size(int(record["size"])))
    if record.get("withdrawn"):
        head.append("withdrawn")
    lines = ["  ".join(part for part in head if part)]
    if record.get("content_id"):
        lines.append(f"  {escape(str(record['content_id']))}")
    on = f"on {record.get('on_closest', 0)} of the {plural(closest, 'closest peer')}"
    left = human_left(str(record.get("expires", "")), wall_s)
    lines.append(f"  {on}, expires in {left}")
    if record.get("outdated_on"):
        lines.append(f"  an older version of it on {plural(int(record['outdated_on']), 'peer')}")
    match record.get("reachable"):
        case True if record.get("address"):
            lines.append(f"  the publisher answers at {escape(str(record['address']))}")
        case False:
            lines.append(f"  the publisher is not reached: {escape(str(record.get('trouble')))}")
        case _:
            pass
    return lines


def _publisher(record: Fields) -> str:
    short = escape(str(record.get("publisher", "")))[:_SHORT_ID_CHARS]
    nickname = escape(str(record.get("nickname") or ""))
    return f"{nickname} ({short})" if nickname else short


def _verdict(fields: Fields) -> str:
    what = f"{_TITLES.get(str(fields.get('kind')), 'the key')} '{escape(str(fields['what']))}'"
    found, records = int(fields.get("found", 0)), list(fields.get("records", ()))
    if not found:
        return _why_nothing(what, fields, records)
    live = [record for record in records if not record.get("withdrawn")]
    publishers = plural(len({record.get("publisher") for record in live}), "peer")
    said = f"found: {plural(found, 'record')} of {what}, published by {publishers}"
    if live and all(record.get("reachable") is False for record in live):
        said += "; none of them can be reached now"
    return said


def _why_nothing(what: str, fields: Fields, records: list[Fields]) -> str:
    closest, asked = int(fields.get("closest", 0)), int(fields.get("asked", 0))
    answered = int(fields.get("answered", 0)) + int(fields.get("late", 0))
    if records:
        return f"not found: {what} was withdrawn by {_publisher(records[0])}"
    if not asked:
        return f"not found: no other peer is known, and this one has no record of {what}"
    if not answered:
        return f"not found: {plural(asked, 'peer')} asked for {what}, and none answers"
    return f"not found: none of the {plural(closest, 'closest peer')} has a record of {what}"


def _doubts(fields: Fields) -> list[str]:
    """Say what speaks against the verdict: what was rejected, who was silent."""
    lines = []
    if fields.get("rejected"):
        lines.append(f"rejected: {reasons(fields['rejected'])}")
    if {"record-ahead", "record-expired"} & set(fields.get("rejected", ())):
        lines.append("records of a wrong time mean a clock that is off: see `shoal doctor`")
    if fields.get("hot"):
        lines.append("the word is hot: a search also reads its other words, or its shards")
    if fields.get("passed_over"):
        passed = plural(int(fields["passed_over"]), "peer")
        lines.append(f"not asked though near enough: {passed}")
    if not fields.get("found") and fields.get("silent"):
        lines.append(f"{plural(int(fields['silent']), 'silent peer')} may have what others lack")
    return lines


def _effort(fields: Fields) -> str:
    names = ("answered", "late", "silent", "bad")
    told = [f"{fields[name]} {_OUTCOMES.get(name, name)}" for name in names if fields.get(name)]
    asked = plural(int(fields.get("asked", 0)), "peer")
    said = f"asked {asked} in {float(fields.get('took_ms', 0)):.0f} ms: {', '.join(told) or '-'}"
    return f"{said}; this peer is one of the closest too" if fields.get("own_place") else said


def _short_ms(took_ms: float | None) -> str | None:
    if took_ms is None:
        return None
    return f"{took_ms:.1f}" if took_ms < 100 else f"{took_ms:.0f}"

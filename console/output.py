"""Results of commands, as text or as JSON: what goes to stdout, what to stderr.

Owns the look of every command. Off a terminal a list is one item a line, tab-separated, never
wrapped, cut or padded; on one it is a table. JSON is printed as the peer gave it, so that fields a
newer peer adds come through, and in ASCII, so that it is safe on a terminal too. What one command
alone needs is loaded when it is shown: every command waits for this module.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Self, TextIO

from console.progress import Bars
from console.text import escape, get_line, human_ago, human_size, plural

Fields = Mapping[str, Any]

# The columns of each list, in the order in which scripts may count on them.
COLUMNS: dict[str, tuple[str, ...]] = {
    "search": ("name", "size", "content_id", "holders"),
    "shares": ("name", "size", "content_id", "holders"),
    "peers": ("id", "nickname", "address", "state", "last_seen", "rtt_ms"),
    "inbox": ("delivery_id", "name", "from", "size", "path", "state"),
    "outbox": ("delivery_id", "name", "to", "state", "held_by", "expires"),
    "contact": ("nickname", "id", "added"),
    "doctor": ("check", "state", "seen", "remedy"),
    "explain": (
        "hop",
        "id",
        "address",
        "shared_bits",
        "place",
        "named_by",
        "took_ms",
        "outcome",
        "records",
        "contacts",
        "rejected",
    ),
    "put": ("name", "size", "content_id", "stored_on"),
    "send": ("delivery_id", "name", "state", "held_by", "expires"),
    "get": ("path", "size", "content_id", "sources", "fetched_bytes", "seconds"),
}
_EMPTY = {
    "search": "nothing matches all these words",
    "shares": "nothing is shared here yet",
    "peers": "no other peer is known yet",
    "inbox": "nothing has come in yet",
    "outbox": "nothing was sent yet",
    "contact": "no contact is known yet",
}
# On a terminal, which is 80 columns wide for many.
_TERMINAL_COLUMNS: dict[str, tuple[str, ...]] = {
    "peers": ("nickname", "id", "address", "state", "last_seen", "rtt_ms"),
    "outbox": ("delivery_id", "name", "size", "to", "state", "held_by", "expires"),
    "explain": (
        "hop",
        "peer",
        "address",
        "shared_bits",
        "place",
        "named_by",
        "took_ms",
        "came_back",
    ),
}
_RESULTS_AFTER_ITEMS = {"explain": "explanation"}
"""Commands whose result looks different from their items."""
_SHORT_ID_CHARS = 8
_SIZES = frozenset({"size", "fetched_bytes"})
_NUMBERS = frozenset({"holders", "rtt_ms", "hop", "shared_bits", "place", "took_ms"})
_HEADINGS = {"rtt_ms": "rtt ms", "hop": "#", "shared_bits": "bits", "took_ms": "ms"}
_CHECK_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red", "skipped": "dim"}
_STATE_STYLES = {
    "active": "green",
    "delivered": "green",
    "received": "green",
    "stored": "cyan",
    "spooled": "yellow",
    "inactive": "dim",
    "expired": "red",
    "refused": "red",
}


class Output:
    """What one command says; remote text goes through `escape` on every path."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self._json = as_json
        self._quiet = quiet
        self._bars = Bars(sys.stderr, shown=not quiet and is_terminal(sys.stderr))
        self._rows: dict[str, list[Fields]] = {}
        self._said_something = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def event(self, command: str, event: Fields) -> None:
        """Show one event of a command, whether it came from the running peer or from our own."""
        match event["event"]:
            case "item" if command == "get":
                # The contents to choose from: no result, but part of the error that follows.
                self._bars.stop()
                self.show("search", event["item"], sys.stderr)
            case "item" | "result" as kind:
                self._bars.stop()
                self._said_something = True
                if kind == "result":
                    command = _RESULTS_AFTER_ITEMS.get(command, command)
                self.show(command, event[kind])
            case "progress":
                self._bars.update(event)
            case "note":
                self.note(str(event.get("text", "")), str(event.get("hint", "")))
            case _:
                pass  # an event of a newer peer

    def show(self, command: str, fields: Fields, stream: TextIO | None = None) -> None:
        """Print one result or item; on a terminal, items of a list wait for `close`."""
        stream = stream or sys.stdout
        if command == "put" and "delivery_id" in fields:
            command = "send"
        if self._json:
            print_line(json.dumps(fields, separators=(",", ":")), stream)
        elif command in _SENTENCES and (is_terminal(stream) or command not in COLUMNS):
            self._draw_lists()
            for line in _SENTENCES[command](fields):
                print_line(line, stream)
        elif command == "doctor" and is_terminal(stream):
            _draw_check(fields)
        elif not is_terminal(stream):
            cells = [_cell(name, fields.get(name)) for name in COLUMNS[command]]
            if command == "put":
                cells.append(get_line(fields["name"], fields["content_id"]))
            print_line("\t".join(cells), stream)
        else:
            self._rows.setdefault(command, []).append(_row(command, fields))

    def note(self, text: str, hint: str = "") -> None:
        """Say something beside the results."""
        if self._quiet:
            return
        self._bars.stop()
        print_line(f"shoal: {escape(text)}", sys.stderr)
        if hint:
            print_line(f"hint: {escape(hint)}", sys.stderr)

    def finished(self, command: str) -> None:
        """After a command that succeeded: tell a person that its list is empty; scripts see it."""
        text = _EMPTY.get(command)
        if text and not self._said_something and not self._json and is_terminal(sys.stdout):
            self.note(text)

    def close(self) -> None:
        """End the bars and draw the lists that were waiting."""
        self._bars.stop()
        self._draw_lists()

    def _draw_lists(self) -> None:
        rows, self._rows = self._rows, {}
        for command, items in rows.items():
            _draw_list(command, items)


def is_terminal(stream: TextIO) -> bool:
    """Whether a person looks at this stream, on something that can draw."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def print_line(line: str, stream: TextIO) -> None:
    """Print a whole line at once, now: a reader may wait for it."""
    stream.write(line + "\n")
    stream.flush()


def _cell(name: str, value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return ",".join(f"{escape(str(k))}={escape(str(v))}" for k, v in value.items()) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ",".join(_cell(name, item) for item in value) or "-"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return escape(str(value)) or "-"


def _row(command: str, fields: Fields) -> Fields:
    if command != "explain":
        return fields
    from console.explanation import hop_row

    return hop_row(fields)


def _draw_list(command: str, items: list[Fields]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = _TERMINAL_COLUMNS.get(command, COLUMNS[command])
    for name in columns:
        numbers = name in _SIZES or name in _NUMBERS
        heading = _HEADINGS.get(name, name.replace("_", " "))
        table.add_column(heading, justify="right" if numbers else "left", overflow="fold")
    for item in items:
        cells = []
        for name in columns:
            value = item.get(name)
            shown = _for_people(command, name, value, item)
            style = _STATE_STYLES.get(str(value), "") if name == "state" else ""
            cells.append(Text(shown or _cell(name, value), style=style))
        table.add_row(*cells)
    Console(markup=False, highlight=False, emoji=False).print(table)


def _draw_check(fields: Fields) -> None:
    """Draw one check at once: others may take seconds."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    state, remedy = str(fields.get("state", "")), str(fields.get("remedy") or "")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=max(map(len, _CHECK_STYLES)))
    grid.add_column(overflow="fold")
    style = _CHECK_STYLES.get(state, "")
    text = f"{escape(str(fields.get('check', '')))}: {escape(str(fields.get('seen', '')))}"
    grid.add_row(Text(escape(state), style=style), Text(text))
    if remedy:
        grid.add_row("", Text(f"hint: {escape(remedy)}", style="dim" if state == "skipped" else ""))
    Console(markup=False, highlight=False, emoji=False).print(grid)


def _for_people(command: str, name: str, value: object, item: Fields) -> str | None:
    """Shorten what a person need not see whole; None for what is shown as scripts see it."""
    if item.get("files") is not None and name == "name":
        return f"{escape(str(value))}/"
    if item.get("files") is not None and name == "size":
        return _folder_size(item)
    if name in _SIZES and isinstance(value, int):
        return human_size(value)
    if command == "peers" and name == "id":
        return escape(str(value))[:_SHORT_ID_CHARS]
    if name == "last_seen" and isinstance(value, str):
        return human_ago(value, time.time())
    return None


def _put(fields: Fields) -> list[str]:
    stored = int(fields["stored_on"])
    where = f"found through {plural(stored, 'other peer')}" if stored else "known only here so far"
    if fields.get("closest"):
        where += f", read back from {fields['found_on']} of the {fields['closest']} closest"
    return [
        f"{escape(fields['name'])}  {human_size(fields['size'])}  {where}",
        f"  {fields['content_id']}",
        f"  {get_line(fields['name'], fields['content_id'])}",
    ]


def _send(fields: Fields) -> list[str]:
    line = f"{escape(fields['state'])}  {escape(fields['name'])}"
    if fields.get("files") is not None:
        line += f"  {_folder_size(fields)}"
    if fields.get("held_by"):
        line += f"  kept by {_cell('held_by', fields['held_by'])}"
    if fields.get("expires") and fields["state"] != "delivered":
        line += f" until {escape(fields['expires'])}"
    return [line, f"  delivery {escape(fields['delivery_id'])}"]


def _folder_size(fields: Fields) -> str:
    return f"folder, {plural(int(fields['files']), 'file')}, {human_size(int(fields['size']))}"


def _get(fields: Fields) -> list[str]:
    sources = plural(int(fields["sources"]), "peer")
    how = f"{human_size(fields['size'])} from {sources} in {fields['seconds']:.1f} s"
    return [
        f"{escape(fields['path'])}  {how}",
        f"  {fields['content_id']}",
    ]


def _status(fields: Fields) -> list[str]:
    if is_terminal(sys.stdout):
        from console.status import status_lines

        return status_lines(fields, width=shutil.get_terminal_size().columns)
    return [f"{name}\t{_cell('', value)}" for name, value in fields.items()]


def _bootstrap(fields: Fields) -> list[str]:
    """What an operator's command did: lines to run, the account's URL, or what is set up."""
    lines = [str(line) for line in fields.get("lines", ())]
    if "url" in fields:
        return [*lines, str(fields["url"])]
    if lines:
        return lines
    if "queue_type" in fields:
        return [f"{escape(str(fields['queue']))} is set up, its queues are {fields['queue_type']}"]
    return [f"{escape(str(fields['user']))} is removed"]


def _explanation(fields: Fields) -> list[str]:
    from console.explanation import RECORD_COLUMNS, explanation_lines, verdict_lines

    if is_terminal(sys.stdout):
        return explanation_lines(fields, wall_s=time.time())
    records = [
        "\t".join(["record", *(_cell(name, each.get(name)) for name in RECORD_COLUMNS)])
        for each in fields.get("records", ())
    ]
    return [*records, *(f"verdict\t{line}" for line in verdict_lines(fields))]


_SENTENCES: dict[str, Callable[[Fields], list[str]]] = {
    "put": _put,
    "send": _send,
    "get": _get,
    "status": _status,
    "explanation": _explanation,
    "invite": lambda fields: [escape(fields["invite"])],
    "leave": lambda _: ["left"],
    "unshare": lambda fields: [f"no longer shared: {escape(str(fields.get('name', '')))}"],
    "bootstrap": _bootstrap,
    "network": lambda fields: [escape(str(fields["path"]))],
}

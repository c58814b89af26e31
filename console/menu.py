"""The menu of a bare `shoal` on a terminal: three things to do, each a command that it shows.

Owns the questions and nothing else: what is done is done by the command itself, run as the person
could have typed it, so that the menu teaches the command line and its errors are the command's.
"""

from __future__ import annotations

import contextlib
import glob
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from console.command_line import Settings
from console.output import is_terminal, print_line
from console.text import escape, human_size, plural

CHOICES = """
  1  search and download
  2  send a file to a peer
  3  active and inactive peers
  q  leave the menu"""
SHOWN_MAX = 30
"""Hits that are offered by number; more words find fewer."""

Fields = Mapping[str, Any]


class Place(Protocol):
    """A peer's home."""

    @property
    def path(self) -> Path: ...

    def running_pid(self) -> int | None: ...


def offer_menu(settings: Settings, home: Place, command: Sequence[str]) -> bool:
    """Show the menu to whoever types a bare `shoal` on a terminal; False where nobody does."""
    if settings.json or not (sys.stdin.isatty() and is_terminal(sys.stdout)):
        return False
    words = [*command, "--home", str(home.path), *settings.flags()]
    Menu(words, peer_runs=home.running_pid() is not None).run()
    return True


class Menu:
    """Asks what to do until the person leaves."""

    def __init__(self, command: Sequence[str], *, peer_runs: bool) -> None:
        """``command``: the words that start `shoal` with this home's options."""
        self._command = list(command)
        self._peer_runs = peer_runs

    def run(self) -> None:
        """Ask and do until `q`, the end of input or Ctrl-C at a question."""
        with contextlib.suppress(ImportError):
            import readline  # questions are edited as a shell's line is

            readline.set_completer_delims("")
            readline.set_completer(_completed_path)
            readline.parse_and_bind("tab: complete")
        if not self._peer_runs:
            _say("No peer runs here yet: 1 works all the same, for 2 and 3 run `shoal join` first.")
        try:
            while True:
                _say(CHOICES)
                match _ask("what to do").lower():
                    case "1":
                        self._search_and_get()
                    case "2":
                        self._send()
                    case "3":
                        self._do("peers")
                    case "q" | "quit" | "exit":
                        return
                    case "":
                        pass
                    case other:
                        _say(f"There is no {escape(other)} here: type 1, 2, 3 or q.")
        except (EOFError, KeyboardInterrupt):
            _say("")

    def _search_and_get(self) -> None:
        words = _words(_ask("words of its name"))
        if not words:
            return
        hits = self._listed("search", "--limit", str(SHOWN_MAX), "--", *words)
        if hits is None:
            return
        if not hits:
            _say("Nothing matches all these words.")
            return
        chosen = _choose("which one to download", hits, _hit_line)
        if isinstance(chosen, Mapping):
            self._do("get", str(chosen["content_id"]))
        elif chosen:
            self._do("get", "--", chosen)

    def _send(self) -> None:
        path = _path(_ask("file or folder to send"))
        if path is None:
            return
        if not path.exists():
            _say(f"{escape(str(path))} does not exist.")
            return
        peers = self._listed("peers")
        if peers is None:
            return
        peer = _choose("to whom (number, nickname or id)", peers, _peer_line)
        if isinstance(peer, Mapping):
            peer = str(peer["id"])
        if peer:
            self._do("put", "--to", peer, "--", str(path))

    def _do(self, *words: str) -> None:
        """Run a command on this terminal; Ctrl-C ends the command, not the menu."""
        _say(f"$ shoal {escape(shlex.join(words))}")
        with _left_to_the_command():
            subprocess.run([*self._command, *words], check=False)

    def _listed(self, *words: str) -> list[Fields] | None:
        """Return what a command lists; None where it failed, which it has said itself."""
        with _left_to_the_command():
            done = subprocess.run(
                [*self._command, "--json", *words], stdout=subprocess.PIPE, text=True, check=False
            )
        if done.returncode:
            return None
        return [json.loads(line) for line in done.stdout.splitlines()]


def _say(text: str) -> None:
    print_line(text, sys.stdout)


def _ask(question: str) -> str:
    return input(f"{question}: ").strip()


def _choose(question: str, items: Sequence[Fields], line: Callable[[Fields], str]) -> Fields | str:
    """Number the items; return the chosen one, or what was typed instead, "" for nothing."""
    for number, item in enumerate(items, start=1):
        _say(f"  {number:>2}  {line(item)}")
    answer = _ask(question)
    if answer.isdecimal() and 1 <= int(answer) <= len(items):
        return items[int(answer) - 1]
    return answer


def _hit_line(hit: Fields) -> str:
    holders = plural(int(hit["holders"]), "holder")
    return f"{escape(str(hit['name']))}  {human_size(int(hit['size']))}  {holders}"


def _peer_line(peer: Fields) -> str:
    return f"{escape(str(peer['nickname']))}  {escape(str(peer['id']))[:8]}  {peer['state']}"


def _completed_path(begun: str, number: int) -> str | None:
    """The paths that begin so, one at a time, as readline asks for them."""
    whole = str(Path(begun).expanduser()) if begun.startswith("~") else begun
    matches = glob.glob(f"{glob.escape(whole)}*")  # noqa: PTH207 - each begins as it was typed
    found = sorted(matches)[number : number + 1]
    return f"{found[0]}/" if found and Path(found[0]).is_dir() else "".join(found) or None


def _words(line: str) -> list[str]:
    """Split as a shell does; quotes that do not end are letters."""
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


def _path(line: str) -> Path | None:
    """The path as typed, dropped into the terminal or quoted; None for nothing."""
    if not line:
        return None
    plain = Path(line).expanduser()
    if plain.exists():
        return plain
    words = _words(line)
    return Path(words[0] if len(words) == 1 else line).expanduser()


@contextlib.contextmanager
def _left_to_the_command() -> Iterator[None]:
    """Ctrl-C reaches the command, which is in the same foreground, and nobody else."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

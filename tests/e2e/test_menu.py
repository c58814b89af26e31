"""A bare `shoal` on a real terminal, with real peers."""

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

from tests.support.processes import CLI, environment, joined, run_shoal


class Terminal:
    """A terminal with a bare `shoal` on it."""

    def __init__(self, own: Path, folder: Path) -> None:
        self._mother, child = pty.openpty()
        self._seen = ""
        self.process = subprocess.Popen(
            [sys.executable, str(CLI)],
            cwd=folder,
            env={**environment(own), "TERM": "xterm", "COLUMNS": "100", "LINES": "40"},
            stdin=child,
            stdout=child,
            stderr=child,
        )
        os.close(child)

    def reads(self, wanted: str, timeout_s: float = 30.0) -> None:
        """Wait for a text after what was read before."""
        deadline = time.monotonic() + timeout_s
        while wanted not in self._seen:
            assert select.select([self._mother], [], [], deadline - time.monotonic())[0], self._seen
            self._seen += os.read(self._mother, 4096).decode()
        self._seen = self._seen.split(wanted, 1)[1]

    def types(self, line: str) -> None:
        os.write(self._mother, line.encode() + b"\n")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._mother)


def test_menu_searches_downloads_sends_and_lists(tmp_path: Path) -> None:
    (tmp_path / "whale song").write_bytes(b"whale")
    (tmp_path / "letter").write_bytes(b"dear ada")
    with joined(tmp_path, "ada", "bob") as (ada, bob):
        ada.json("put", str(tmp_path / "whale song"))
        folder = tmp_path / "downloads"
        folder.mkdir()
        terminal = Terminal(bob.folder, folder)
        try:
            for question, answer in [
                ("what to do: ", "1"),
                ("words of its name: ", "whale"),
                ("which one to download: ", "1"),
                ("what to do: ", "2"),
                ("file or folder to send: ", "../letter"),
                ("to whom (number, nickname or id): ", "ada"),
                ("delivered", ""),
                ("what to do: ", "3"),
                ("active", ""),
                ("what to do: ", "q"),
            ]:
                terminal.reads(question)
                if answer:
                    terminal.types(answer)
            assert terminal.process.wait(10) == 0
        finally:
            terminal.close()
        assert (folder / "whale song").read_bytes() == b"whale"
        [received] = ada.json("inbox")
        assert Path(str(received["path"])).read_bytes() == b"dear ada"


def test_bare_command_off_a_terminal_prints_the_help(tmp_path: Path) -> None:
    done = run_shoal(tmp_path)
    assert done.code == 0
    assert done.stdout.startswith("Usage: shoal")

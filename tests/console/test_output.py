"""What a person reads of deliveries: a folder is shown as one, a file as before."""

import contextlib
import io
from collections.abc import Mapping
from typing import Any

import pytest

from console.output import Output

FOLDER = {
    "delivery_id": "d" * 8, "name": "pho\u202etos", "state": "delivered", "to": "bob",
    "from": "ada", "held_by": [], "expires": "2026-12-02T10:00:00Z", "size": 3_400_000, "files": 12,
    "path": "/inbox/photos",
}  # fmt: skip
FILE = {**FOLDER, "name": "a.txt", "files": None}
KEPT = {**FILE, "state": "stored", "held_by": ["hal"]}


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown_to_people(monkeypatch: pytest.MonkeyPatch, *shown: tuple[str, Mapping[str, Any]]) -> str:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    screen = Screen()
    with contextlib.redirect_stdout(screen), Output() as output:
        for command, fields in shown:
            output.show(command, fields)
    return screen.getvalue()


def test_folder_that_was_sent_is_told_with_its_files_and_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = shown_to_people(monkeypatch, ("put", FOLDER), ("put", FILE), ("put", KEPT))
    folder, _, file, _, kept, _ = shown.splitlines()
    assert kept == "stored  a.txt  kept by hal until 2026-12-02T10:00:00Z"
    assert folder == "delivered  pho\\u202etos  folder, 12 files, 3.40 MB"
    assert file == "delivered  a.txt"


@pytest.mark.parametrize("command", ["inbox", "outbox"])
def test_lists_for_people_tell_folders_from_files(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    items = (FOLDER, {**FILE, "size": 10}, {**FOLDER, "files": 1})
    shown = shown_to_people(monkeypatch, *((command, item) for item in items))
    assert "pho\\u202etos/" in shown
    assert "folder, 12 files, 3.40 MB" in shown
    assert "folder, 1 file, 3.40 MB" in shown
    assert "a.txt/" not in shown


def test_lists_for_scripts_keep_their_columns(capsys: pytest.CaptureFixture[str]) -> None:
    with Output() as output:
        output.show("outbox", FOLDER)
    assert capsys.readouterr().out == (
        "dddddddd\tpho\\u202etos\tbob\tdelivered\t-\t2026-12-02T10:00:00Z\n"
    )

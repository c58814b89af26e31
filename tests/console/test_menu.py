"""The menu: which commands it runs for what is typed, with a stand-in for the command itself."""

import builtins
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from console import menu
from console.menu import Menu

ADA = {"id": "a" * 32, "nickname": "ada", "state": "active"}
HITS = [
    {"name": "whale song", "size": 2_000, "content_id": "b3:01", "holders": 1},
    {"name": "\u202ewhale\n", "size": 1, "content_id": "b3:02", "holders": 2},
]
STAND_IN = """
import json, sys
log, lists, words = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
with open(log, "a") as file: print(json.dumps(words), file=file)
if words[0] == "--json":
    code, items = lists[words[1]]
    for item in items: print(json.dumps(item))
    sys.exit(code)
"""

Typing = Callable[..., list[list[str]]]


@pytest.fixture
def typing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typing:
    """Type lines into a menu, then end the input; return the commands that it ran."""

    def typed(
        *lines: str, search: object = (0, HITS), peers: object = (0, [ADA])
    ) -> list[list[str]]:
        log, waiting = tmp_path / "log", list(lines)

        def read(_: str) -> str:
            if not waiting:
                raise EOFError
            return waiting.pop(0)

        monkeypatch.setattr(builtins, "input", read)
        lists = json.dumps({"search": search, "peers": peers})
        Menu([sys.executable, "-c", STAND_IN, str(log), lists], peer_runs=True).run()
        assert not waiting
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    return typed


def test_chosen_hit_is_fetched_by_its_content_id(
    typing: Typing, capfd: pytest.CaptureFixture[str]
) -> None:
    assert typing("1", "whale 'so*'", "2") == [
        ["--json", "search", "--limit", "30", "--", "whale", "so*"],
        ["get", "b3:02"],
    ]
    shown = capfd.readouterr().out
    assert "1  whale song  2.00 kB  1 holder\n" in shown
    assert "2  \\u202ewhale\\n  1 B  2 holders\n" in shown
    assert "$ shoal get b3:02\n" in shown


def test_name_may_be_typed_instead_of_a_number_and_nothing_means_nothing(typing: Typing) -> None:
    assert typing("1", "whale", "-x")[1:] == [["get", "--", "-x"]]
    assert [words[0] for words in typing("1", "whale", "", "1", "")][2:] == ["--json"]


@pytest.mark.parametrize("answer", [(4, []), (0, [])])
def test_search_that_finds_nothing_or_fails_asks_no_more(
    typing: Typing, answer: tuple[int, list[object]]
) -> None:
    assert len(typing("1", "whale", search=answer)) == 1


@pytest.mark.parametrize(
    ("typed", "means"), [("1", ADA["id"]), ("2", "2"), ("bob", "bob"), ("0", "0")]
)
def test_file_is_sent_to_whom_a_number_or_a_name_means(
    typing: Typing, tmp_path: Path, typed: str, means: str
) -> None:
    file = tmp_path / "a file"
    file.touch()
    sent = ["put", "--to", means, "--", str(file)]
    assert typing("2", f"'{file}'", typed, "2", str(file), typed)[1::2] == [sent, sent]


def test_file_that_is_not_there_is_told_before_anybody_is_chosen(
    typing: Typing, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert typing("2", str(tmp_path / "none"), "3", "q") == [["peers"]]
    assert "none does not exist" in capfd.readouterr().out


def test_wrong_choice_is_told_and_the_menu_goes_on(
    typing: Typing, capfd: pytest.CaptureFixture[str]
) -> None:
    assert typing("9", "", "3") == [["peers"]]
    assert "There is no 9 here" in capfd.readouterr().out


def test_tab_completes_paths_one_by_one_and_marks_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "two").mkdir()
    (tmp_path / "t[o").touch()
    monkeypatch.chdir(tmp_path)
    assert [menu._completed_path("t", number) for number in range(3)] == ["t[o", "two/", None]
    assert menu._completed_path("t[", 0) == "t[o"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert menu._completed_path("~/tw", 0) == f"{tmp_path}/two/"

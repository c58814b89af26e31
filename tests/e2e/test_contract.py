"""What the contract of the command promises for every command alike, by the real command."""

from __future__ import annotations

import json
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from peer.failures import ExitCode
from tests.support.processes import Completed, PeerProcess, joined, run_shoal

NAMES = ["-rf.txt", "two words 😀.txt", "[red].txt", "me@home.txt", ".hidden"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[PeerProcess]]:
    folder = tmp_path_factory.mktemp("contract")
    with joined(folder, "ada", "bob") as peers:
        for name in NAMES:
            (peers[0].folder / name).write_text(name)
        put = peers[0].run("put", "--", *NAMES)
        assert put.code == 0, put.stderr
        sent = peers[0].run("put", "[red].txt", "--to", "bob")
        assert sent.code == 0, sent.stderr
        yield peers


def assert_is_one_error(done: Completed, code: ExitCode) -> None:
    """An error is one line, at most one hint below it, and nothing on stdout."""
    lines = done.stderr.splitlines()
    assert (done.code, done.stdout) == (code, ""), done
    assert lines[0].startswith("shoal: "), done
    assert [line[:6] for line in lines[1:]] in ([], ["hint: "]), done


@pytest.mark.parametrize(
    ("words", "columns"),
    [
        (("put", "me@home.txt"), 5),
        (("put", "me@home.txt", "--to", "bob"), 5),
        (("search", "txt"), 4),
        (("shares",), 4),
        (("peers",), 6),
        (("outbox",), 6),
        (("status",), 2),
        (("invite",), 1),
        (("contact", "list"), 2),
    ],
)
def test_every_line_off_a_terminal_has_its_columns_and_nothing_else_is_said(
    pair: list[PeerProcess], words: tuple[str, ...], columns: int
) -> None:
    done = pair[0].run(*words)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout
    assert "\x1b" not in done.stdout
    for line in done.stdout.splitlines():
        fields = line.split("\t")
        assert len(fields) >= columns, line
        assert fields == [field.strip() for field in fields], "padded"


def test_json_of_every_other_command_is_one_object(pair: list[PeerProcess]) -> None:
    ada, bob = pair
    (ada.folder / "passing.txt").write_text("soon gone")
    ada.json("put", "passing.txt")
    [gone] = ada.json("unshare", "passing.txt")
    assert gone["name"] == "passing.txt"
    [added] = ada.json("contact", "add", "robert", bob.id)
    assert (added["nickname"], added["id"]) == ("robert", bob.id)
    assert "robert" in [contact["nickname"] for contact in ada.json("contact", "list")]
    [removed] = ada.json("contact", "remove", "robert")
    assert removed["nickname"] == "robert"
    made = run_shoal(
        ada.folder, "network", "new", "n", "--seed", "192.0.2.1", "-o", "n.json", "--json"
    )
    assert made.code == 0
    [network] = made.items
    assert (network["path"], network["private"]) == ("n.json", True)
    assert stat.S_IMODE((ada.folder / "n.json").stat().st_mode) == 0o600
    assert json.loads((ada.folder / "n.json").read_text())["version"] == 1


@pytest.mark.parametrize("name", NAMES)
def test_line_that_put_prints_fetches_the_file_when_a_shell_runs_it(
    pair: list[PeerProcess], name: str, tmp_path: Path
) -> None:
    ada, bob = pair
    [line] = ada.run("put", "--", name).stdout.splitlines()
    command, *words = shlex.split(line.split("\t")[-1])
    assert command == "shoal"
    target = tmp_path / "copy"
    at = words.index("--") if "--" in words else len(words)
    done = bob.run(*words[:at], "--no-share", "-o", str(target), *words[at:])
    assert done.code == 0, done.stderr
    assert target.read_text() == name


def test_peer_is_meant_by_nickname_id_or_eight_characters_and_by_no_fewer(
    pair: list[PeerProcess], tmp_path: Path
) -> None:
    ada, bob = pair
    for number, word in enumerate(["ada", ada.id, ada.id[:8], ada.id[:20], ada.id[:8].upper()]):
        target = str(tmp_path / str(number))
        done = bob.run("get", "[red].txt", "--from", word, "--no-share", "-o", target)
        assert done.code == 0, (word, done.stderr)
    few = bob.run("get", "[red].txt", "--from", ada.id[:7], "--no-share", "-o", str(tmp_path / "x"))
    assert_is_one_error(few, ExitCode.NOT_FOUND)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("put", "no such file"), ExitCode.USAGE),
        (("put", "me@home.txt", "--as", "../x"), ExitCode.NOT_PERMITTED),
        (("put", "me@home.txt", "--to", "nobody"), ExitCode.NOT_FOUND),
        (("put", "me@home.txt", "--to", "ada"), ExitCode.USAGE),
        (("put", "me@home.txt", "--expires", "7d"), ExitCode.USAGE),
        (("put", "me@home.txt", "--to", "bob", "--expires", "90d"), ExitCode.USAGE),
        (("get", "nothing of that name"), ExitCode.NOT_FOUND),
        (("get", "b3:" + "f" * 64), ExitCode.NOT_FOUND),
        (("get", "b3:abc"), ExitCode.USAGE),
        (("get", "me@home.txt", "--from", "bob", "-o", "new"), ExitCode.NOT_FOUND),
        (("get", "me@home.txt"), ExitCode.USAGE),
        (("search", "...", "😀"), ExitCode.USAGE),
        (("unshare", "never shared"), ExitCode.NOT_FOUND),
        (("outbox", "cancel", "00000000"), ExitCode.NOT_FOUND),
        (("contact", "add", "zed", "nonsense"), ExitCode.USAGE),
        (("contact", "remove", "zed"), ExitCode.NOT_FOUND),
        (("join", "--listen", "127.0.0.1:0"), ExitCode.USAGE),
        (("join", "shoal1-nonsense"), ExitCode.USAGE),
        (("contact",), ExitCode.USAGE),
        (("no-such-command",), ExitCode.USAGE),
        (("get", "--no-such-option", "x"), ExitCode.USAGE),
    ],
)
def test_error_is_one_line_and_its_code_with_json_as_without(
    pair: list[PeerProcess], words: tuple[str, ...], code: ExitCode
) -> None:
    ada = pair[0]
    assert_is_one_error(ada.run(*words), code)
    with_json = ada.run("--json", *words)
    assert_is_one_error(with_json, code)
    assert "Traceback" not in with_json.stderr


def test_options_may_stand_anywhere_and_two_dashes_end_them(pair: list[PeerProcess]) -> None:
    ada, bob = pair
    home = ("--home", str(ada.home))
    for line in (
        ("--json", *home, "search", "rf"),
        ("search", "--json", "rf", *home),
        ("--json", "search", *home, "--limit", "1", "rf"),
        (*home, "search", "--quiet", "--json", "--", "-rf"),
    ):
        assert [hit["name"] for hit in bob.run(*line).items] == ["-rf.txt"], line
    after = bob.run("search", "rf", "--", "--json")
    assert (after.code, after.stdout) == (0, ""), "a word, no option"


def test_key_and_invite_are_in_no_file_but_the_network_file_and_the_home_is_closed(
    pair: list[PeerProcess],
) -> None:
    ada, bob = pair
    [shown] = ada.json("invite")
    key = json.loads((ada.home / "network.json").read_text())["key"]
    for peer in (ada, bob):
        for path in peer.folder.rglob("*"):
            if path.is_file() and path.name != "network.json":
                content = path.read_bytes()
                assert shown["invite"].encode() not in content, path
                assert key.encode() not in content, path
        assert stat.S_IMODE(peer.home.stat().st_mode) == 0o700
        for name in ("identity.key", "network.json", "shoal.db", "tls.key"):
            assert stat.S_IMODE((peer.home / name).stat().st_mode) == 0o600, name


def test_several_contents_under_a_name_are_listed_and_none_is_fetched(tmp_path: Path) -> None:
    with joined(tmp_path, "ada", "bob", "carol") as [ada, bob, carol]:
        for peer in (ada, bob):
            (peer.folder / "same.txt").write_text(f"by {peer.name}")
        ids = [peer.json("put", "same.txt")[0]["content_id"] for peer in (ada, bob)]
        done = carol.run("get", "same.txt")
        assert (done.code, done.stdout) == (ExitCode.AMBIGUOUS, "")
        assert all(content_id in done.stderr for content_id in ids)
        assert [path.name for path in carol.folder.iterdir() if "same" in path.name] == []
        assert carol.run("get", "same.txt", "-o", "-").stdout == ""
        assert carol.run("get", "same.txt@bob").code == 0
        assert (carol.folder / "same.txt").read_text() == "by bob"


def test_two_networks_on_one_machine_know_nothing_of_each_other(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    with joined(tmp_path / "1", "ada") as [ada], joined(tmp_path / "2", "ada") as [other]:
        (ada.folder / "ours.txt").write_text("ours")
        ada.json("put", "ours.txt")
        assert other.json("search", "ours") == []
        assert other.run("get", "ours.txt").code == ExitCode.NOT_FOUND
        assert other.json("peers") == []
        assert other.run("get", "ours.txt", "--from", ada.id).code == ExitCode.NOT_FOUND

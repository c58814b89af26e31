"""The real command against a scripted peer: arguments, output, exit codes; no network."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from peer.failures import ExitCode, Failure
from peer.version import VERSION
from tests.support.processes import CLI, environment, run_shoal
from tests.support.scripted_peer import ScriptedPeer, item, result

ID = "b3:" + "0" * 64
FORGED = "a\tb\n[/red]\x1b[31m\u202etxt.exe"


def found(name: str) -> dict[str, Any]:
    return item(name=name, size=1234, content_id=ID, holders=2)


def test_lists_are_tab_separated_lines_off_a_terminal(tmp_path: Path) -> None:
    with ScriptedPeer(tmp_path, {"search": [found("x" * 250), found("two words")]}) as peer:
        done = run_shoal(tmp_path, "search", "x", "words", "--limit", "7")
    assert done.stdout.splitlines() == [f"{'x' * 250}\t1234\t{ID}\t2", f"two words\t1234\t{ID}\t2"]
    assert (done.stderr, done.code) == ("", 0)
    assert peer.asked == [("search", {"words": ["x", "words"], "limit": 7})]


def test_json_is_one_compact_object_a_line_with_unknown_fields_kept(tmp_path: Path) -> None:
    event = item(name="ü", size=1, content_id=ID, holders=1, new_field=[1])
    with ScriptedPeer(tmp_path, {"shares": [event, event]}):
        done = run_shoal(tmp_path, "shares", "--json")
    assert done.items == [event["item"]] * 2
    assert ": " not in done.stdout


def test_names_of_others_cannot_forge_lines_columns_or_colours(tmp_path: Path) -> None:
    note = {"event": "note", "text": f"note {FORGED}", "hint": FORGED}
    script: dict[str, list[Any]] = {
        "search": [found(FORGED), note],
        "peers": [Failure(f"bad {FORGED}", hint=FORGED)],
    }
    with ScriptedPeer(tmp_path, script):
        listed = run_shoal(tmp_path, "search", "a")
        failed = run_shoal(tmp_path, "peers")
        as_json = run_shoal(tmp_path, "search", "a", "--json")
    for text in (listed.stdout, listed.stderr, failed.stderr, as_json.stdout):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert listed.stdout == f"a\\tb\\n[/red]\\x1b[31m\\u202etxt.exe\t1234\t{ID}\t2\n"
    assert len(listed.stderr.splitlines()) == len(failed.stderr.splitlines()) == 2
    assert as_json.items[0]["name"] == FORGED


@pytest.mark.parametrize("code", [code for code in ExitCode if code is not ExitCode.DONE])
def test_failure_of_the_peer_becomes_exit_code_line_and_hint(
    tmp_path: Path, code: ExitCode
) -> None:
    with ScriptedPeer(tmp_path, {"status": [Failure("it broke", hint="mend it", exit_code=code)]}):
        done = run_shoal(tmp_path, "status")
    assert (done.code, done.stdout) == (code, "")
    assert done.stderr == "shoal: it broke\nhint: mend it\n"


@pytest.mark.parametrize("command", ["status", "peers", "inbox", "outbox", "shares", "invite"])
def test_commands_without_a_peer_exit_9(tmp_path: Path, command: str) -> None:
    done = run_shoal(tmp_path, command)
    assert done.code == ExitCode.NO_PEER
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["shoal", "hint"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("contact",),
        ("network",),
        ("put",),
        ("put", "x", "--expires", "7d"),
        ("put", "x", "--to", "bob", "--expires", "soon"),
        ("put", "x", "y", "--as", "z"),
        ("search",),
        ("search", "x", "--limit", "0"),
        ("get",),
        ("get", "x", "--timeout", "-1"),
        ("join", "--listen", "host:nowhere"),
        ("join", "--bootstrap", "host:99999"),
        ("join", "a", "b"),
        ("join", "x", "--network", "y"),
        ("join", "--queue", "@/nonexistent"),
        ("network", "new", "n"),
        ("status", "--bogus"),
        ("get", b"\xff\xfe"),
    ],
)
def test_usage_error_is_a_line_and_a_hint_and_exit_2(
    tmp_path: Path, arguments: tuple[str | bytes, ...]
) -> None:
    done = run_shoal(tmp_path, *arguments)
    assert (done.code, done.stdout) == (ExitCode.USAGE, "")
    lines = done.stderr.splitlines()
    assert lines[0].startswith("shoal: ")
    assert not lines[0].removeprefix("shoal: ")[:2].istitle()
    assert len(lines[0]) < 120
    assert len(lines) <= 2
    assert "Traceback" not in done.stderr


def test_global_options_are_taken_before_and_after_the_command(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with ScriptedPeer(tmp_path, {"contact_list": [item(nickname="bob", id="x")]}):
        home = str(tmp_path / "home")
        for arguments in (
            ("--home", home, "--json", "contact", "list"),
            ("contact", "--json", "list", "--home", home),
            ("contact", "list", "--home", home, "--json", "--quiet", "-v"),
        ):
            done = run_shoal(other, *arguments)
            assert done.items == [{"nickname": "bob", "id": "x"}], done.stderr


def test_relative_paths_are_those_of_the_commands_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with ScriptedPeer(tmp_path, {"put": [], "get": []}) as peer:
        extra = {"SHOAL_HOME": str(tmp_path / "home")}
        run_shoal(tmp_path / "sub", "put", "--", "-dash", "b", extra=extra)
        run_shoal(tmp_path / "sub", "get", "x", "-o", "../y", extra=extra)
        run_shoal(tmp_path, "get", "x", "-o", "sub", "--from", "bob", "--no-share")
    (_, put), (_, get), (_, into) = peer.asked
    assert put["paths"] == [str(tmp_path / "sub" / "-dash"), str(tmp_path / "sub" / "b")]
    assert get["target"] == str(tmp_path / "y")
    assert (into["folder"], into["target"]) == (str(tmp_path / "sub"), None)
    assert (into["from"], into["share"], into["stdout"]) == ("bob", False, False)


def test_put_to_hands_every_option_on(tmp_path: Path) -> None:
    sent = result(
        delivery_id="d1", name="f", state="stored", held_by=["p1", "p2"], expires="2027", to="bob"
    )
    with ScriptedPeer(tmp_path, {"put": [sent]}) as peer:
        done = run_shoal(
            tmp_path, "put", "f", "--to", "bob", "--expires", "2d", "--wait", "--via", "queue"
        )
    _, arguments = peer.asked[0]
    wanted = {"to": "bob", "as": None, "expires_s": 172800, "wait": True, "via": ["queue"]}
    assert arguments == {"paths": [str(tmp_path / "f")], **wanted}
    assert done.stdout == "d1\tf\tstored\tp1,p2\t2027\n"


def test_put_prints_the_line_that_fetches_the_file(tmp_path: Path) -> None:
    names = ["plain.txt", "two words", "-dash", "bad\x1b"]
    events: list[Any] = [result(name=n, size=1, content_id=ID, stored_on=3) for n in names]
    with ScriptedPeer(tmp_path, {"put": events}):
        done = run_shoal(tmp_path, "put", "x")
    assert [line.split("\t")[4] for line in done.stdout.splitlines()] == [
        "shoal get plain.txt",
        "shoal get 'two words'",
        "shoal get -- -dash",
        f"shoal get {ID}",
    ]


def test_get_to_stdout_is_content_only_and_leaves_no_file(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    temporary = tmp_path / "temporary"
    temporary.write_bytes(content)
    events: list[Any] = [
        {"event": "note", "text": "something", "hint": ""},
        {"event": "progress", "name": "x", "phase": "fetching", "done_bytes": 1, "size_bytes": 2},
        result(path=str(temporary), size=len(content), content_id=ID, sources=1),
    ]
    with ScriptedPeer(tmp_path, {"get": events}) as peer:
        done = subprocess.run(
            [sys.executable, str(CLI), "get", "x", "-o", "-", "--json"],
            cwd=tmp_path,
            env=environment(tmp_path),
            capture_output=True,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, content)
    assert b"something" in done.stderr
    assert not temporary.exists()
    assert peer.asked[0][1]["stdout"] is True


def test_existing_target_is_exit_2_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "y").write_text("mine")
    with ScriptedPeer(tmp_path, {"get": []}) as peer:
        done = run_shoal(tmp_path, "get", "x", "-o", "y")
        assert done.code == ExitCode.USAGE
        assert peer.asked == []
        assert run_shoal(tmp_path, "get", "x", "-o", "y", "--overwrite").code == 0
    assert (tmp_path / "y").read_text() == "mine"


def test_contents_to_choose_from_are_no_result_of_a_get(tmp_path: Path) -> None:
    ambiguous = Failure("several", hint="take one", exit_code=ExitCode.AMBIGUOUS)
    with ScriptedPeer(tmp_path, {"get": [found("x"), found("x"), ambiguous]}):
        done = run_shoal(tmp_path, "get", "x")
    assert (done.code, done.stdout) == (ExitCode.AMBIGUOUS, "")
    assert done.stderr.splitlines()[0] == f"x\t1234\t{ID}\t2"


def test_interrupted_command_exits_130_and_cancels_its_work(tmp_path: Path) -> None:
    with ScriptedPeer(tmp_path, {}) as peer:
        child = subprocess.Popen(
            [sys.executable, str(CLI), "get", "x"],
            cwd=tmp_path,
            env=environment(tmp_path),
            stderr=subprocess.PIPE,
        )
        assert peer.waiting.wait(10)
        child.send_signal(signal.SIGINT)
        _, stderr = child.communicate(timeout=10)
        assert peer.cancelled.wait(10)
    assert (child.returncode, stderr) == (130, b"shoal: interrupted\n")


def test_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    with ScriptedPeer(tmp_path, {"search": [found("x" * 200)] * 3000}):
        child = subprocess.Popen(
            [sys.executable, str(CLI), "search", "x"],
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        with child.stderr as errors:
            assert errors.read() == b""
        assert child.wait(10) == 0


def test_quiet_keeps_errors_and_results_only(tmp_path: Path) -> None:
    note = {"event": "note", "text": "by the way", "hint": "so"}
    with ScriptedPeer(tmp_path, {"search": [note, found("x")]}):
        assert run_shoal(tmp_path, "search", "x").stderr == "shoal: by the way\nhint: so\n"
        done = run_shoal(tmp_path, "-q", "search", "x")
    assert (done.stderr, done.stdout.count("\n")) == ("", 1)


def test_list_on_a_terminal_is_a_table_without_forged_colours(tmp_path: Path) -> None:
    with ScriptedPeer(tmp_path, {"search": [found(FORGED)]}):
        mother, child = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, str(CLI), "search", "a"],
            cwd=tmp_path,
            env={**environment(tmp_path), "TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "200"},
            stdout=child,
            stderr=child,
        )
        os.close(child)
        text = _read_all(mother)
        assert process.wait(10) == 0
    assert "[/red]\\x1b[31m\\u202etxt.exe" in text
    assert "\x1b[31m" not in text
    assert "1.23 kB" in text


def test_help_and_version_are_quick_and_name_every_command(tmp_path: Path) -> None:
    shown = run_shoal(tmp_path, "--help")
    assert shown.code == 0
    for name in ("join", "leave", "put", "search", "get", "peers", "inbox", "outbox", "demo"):
        assert f"\n  {name} " in shown.stdout
    assert run_shoal(tmp_path, "--version").stdout == f"shoal {VERSION}\n"
    assert run_shoal(tmp_path, "put", "--help").code == 0


def test_version_is_that_of_the_package() -> None:
    project = tomllib.loads((CLI.parent / "pyproject.toml").read_text())
    assert project["project"]["version"] == VERSION


def test_local_commands_are_fast(tmp_path: Path) -> None:
    with ScriptedPeer(tmp_path, {"peers": []}):
        times = []
        for _ in range(5):
            began = time.monotonic()
            assert run_shoal(tmp_path, "peers").code == 0
            times.append(time.monotonic() - began)
    # 0.1 s on a quiet machine, where the promise is 0.2; room here for a busy one.
    assert min(times) < 0.4


def test_new_network_is_private_and_never_replaces_a_file(tmp_path: Path) -> None:
    seeds = ("--seed", "192.0.2.1:4100", "--seed", "[2001:db8::1]:4200")
    done = run_shoal(tmp_path, "network", "new", "Klasse ü", *seeds, "--json")
    path = tmp_path / "bootstrap.json"
    assert (done.code, path.stat().st_mode & 0o777) == (0, 0o600)
    written = path.read_bytes()
    fields = json.loads(written)
    assert (fields["version"], fields["network"], len(fields["bootstrap"])) == (1, "Klasse ü", 2)
    assert "key" in fields
    assert run_shoal(tmp_path, "network", "new", "n", *seeds).code == ExitCode.USAGE
    assert path.read_bytes() == written
    shown = run_shoal(tmp_path, "network", "new", "n", "--open", *seeds, "-o", "-")
    assert "key" not in json.loads(shown.stdout)


def _read_all(descriptor: int) -> str:
    data = b""
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # Linux says so when the other end is closed
            part = b""
        if not part:
            os.close(descriptor)
            return data.decode()
        data += part

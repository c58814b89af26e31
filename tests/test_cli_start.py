"""What a command loads before it answers: that decides how fast it starts, on any machine."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.processes import CLI, environment
from tests.support.scripted_peer import ScriptedPeer, result

PROJECT = tomllib.loads((CLI.parent / "pyproject.toml").read_text())["tool"]["setuptools"]
OURS = {"cli", *PROJECT["packages"]}
PARSING = {
    "cli",
    "console",
    "console.command_line",
    "console.edge",
    "console.output",
    "console.peer_options",
    "console.progress",
    "console.text",
    "identity",
    "identity.errors",
    "peer",
    "peer.control_client",
    "peer.failures",
    "peer.given",
    "peer.home",
    "peer.installed",
    "peer.units",
    "peer.version",
}
"""What reading the command line takes, and asking the running peer."""
EVENTS = {
    "status": [result(id="x")],
    "peers": [],
    "get": [
        result(path="/x", size=1024, content_id="b3:00", sources=1, fetched_bytes=0, seconds=0.1)
    ],
}


def loaded_by(folder: Path, *words: str) -> set[str]:
    """Run a command to its end, and return all modules that it loaded."""
    program = (
        "import sys; before = set(sys.modules)\n"
        "import cli\n"
        f"sys.argv = ['shoal', *{words!r}]\n"
        "code = cli.main()\n"
        "assert code == 0, code\n"
        "print(*(set(sys.modules) - before), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=CLI.parent,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.split())


@pytest.mark.parametrize(
    ("words", "besides"),
    [
        (["--help"], set()),
        (["--version"], set()),
        (["status"], set()),
        (["--json", "peers"], set()),
        (["get", "x"], {"peer.asking"}),
    ],
)
def test_command_loads_what_it_uses_and_nothing_else(
    tmp_path: Path, words: list[str], besides: set[str]
) -> None:
    with ScriptedPeer(tmp_path, EVENTS):
        loaded = loaded_by(tmp_path, *words)
    assert {name for name in loaded if name.partition(".")[0] in OURS} == PARSING | besides
    others = {name.partition(".")[0] for name in loaded} - OURS
    assert others - set(sys.stdlib_module_names) == {"click"}
    # Of the standard library these cost as much as all the rest of ours.
    assert others & {"asyncio", "concurrent", "logging", "ssl", "subprocess", "tempfile"} == set()


def test_peer_without_a_broker_does_not_hold_pika() -> None:
    program = "import sys, peer.node; print('pika' in sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=CLI.parent, capture_output=True, text=True, check=True
    )
    assert loaded.stdout == "False\n"

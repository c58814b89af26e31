"""The demo, played by the real command; and that a wrong result ends it with an error."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from console.demo import run_demo
from tests.support.processes import CLI, environment, run_shoal


def test_whole_story_comes_true_in_under_half_a_minute(tmp_path: Path) -> None:
    began = time.monotonic()
    done = run_shoal(tmp_path, "demo", timeout_s=55.0)
    assert done.code == 0, done.stdout + done.stderr
    assert time.monotonic() - began < 30
    for claim in ("from 2 holders", "1 holder left", "stored, sealed", "by erin's signed receipt"):
        assert claim in done.stdout
    assert not list(tmp_path.glob("shoal-demo-*")), "the demo left its folder behind"


def test_interrupted_demo_clears_its_processes_and_folder_away(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(CLI), "demo"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout as stdout, process.stderr as stderr:
        while b"ready:" not in stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        stdout.read()  # to the end: no peer holds the pipe any more
        stderr.read()
    assert process.wait(20) == 130
    assert not list(tmp_path.glob("shoal-demo-*"))


# A command that answers everything, but wrongly.
_LIAR = """
import json, sys, time
words = [word for word in sys.argv[1:] if word != "--json"]
if words[0] == "join":
    print("ready", "a" * 32, "127.0.0.1:1", flush=True)
    import threading; threading.Event().wait(30)
answers = {
    "network": {"path": "x"},
    "put": {"name": "x", "size": 1, "content_id": "b3:0", "stored_on": 2},
    "search": {"name": "python-standard-library.tar", "size": 1, "holders": 1},
}
print(json.dumps(answers[words[0]]))
"""


def test_wrong_result_ends_the_demo_with_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    liar = tmp_path / "liar.py"
    liar.write_text(_LIAR)
    code = run_demo(command=[sys.executable, str(liar)], queue_url=None, keep=False)
    shown = capsys.readouterr()
    assert code == 1
    assert "the demo failed: wrong result" in shown.err
    assert "all as it should be" not in shown.out

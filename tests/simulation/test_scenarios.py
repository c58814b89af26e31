import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulation.__main__ import all_scenarios, main, simulate
from simulation.report import Report
from simulation.scenario import Options, Scenario

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", list(all_scenarios()))
def test_short_run_reaches_its_figures(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = main([name, "--small"])
    shown = capsys.readouterr()
    assert "Figures to reach" in shown.out
    assert status == 0, shown.out + shown.err


@functools.cache
def run_apart(seed: int, hash_seed: int) -> bytes:
    """Run a short scenario in a process of its own, with another order of hashes."""
    command = [sys.executable, "-m", "simulation", "flash", "--small", "--peers", "26"]
    done = subprocess.run(
        [*command, "--seed", str(seed)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        check=True,
    )
    return done.stdout


def test_same_seed_gives_the_same_bytes_whatever_the_hash_seed() -> None:
    assert run_apart(5, 1) == run_apart(5, 2)


def test_another_seed_gives_other_figures() -> None:
    assert run_apart(5, 1) != run_apart(6, 1)


def test_missed_figure_exits_1_and_tells_how_to_repeat_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(options: Options) -> Report:
        report = Report()
        report.at_most("figure", options.seed, 1)
        return report

    scenario = Scenario("dead", "", 1, 1, run)
    monkeypatch.setattr("simulation.__main__.all_scenarios", lambda: {"dead": scenario})
    assert main(["dead", "--seed", "1"]) == 0
    assert main(["dead", "--seed", "7", "--peers", "3", "--hours", "2.5"]) == 1
    shown = capsys.readouterr()
    assert "MISSED" in shown.out
    assert "python -m simulation dead --peers 3 --seed 7 --hours 2.5" in shown.err


def test_failed_run_exits_1_and_tells_how_to_repeat_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(options: Options) -> Report:
        raise RuntimeError(f"broken by {options.seed}")

    scenario = Scenario("dead", "", 1, 1, run)
    monkeypatch.setattr("simulation.__main__.all_scenarios", lambda: {"dead": scenario})
    assert main(["dead", "--seed", "7"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "broken by 7" in shown.err
    assert "python -m simulation dead --peers 1 --seed 7" in shown.err


def test_simulate_runs_on_the_virtual_clock() -> None:
    async def run(options: Options) -> Report:
        report = Report()
        report.table("t", ("a",), [(options.peers,)])
        return report

    assert simulate(Scenario("x", "", 1, 1, run), Options(3, 1)).tables[0].rows == [(3,)]

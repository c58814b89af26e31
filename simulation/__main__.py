"""The command `python -m simulation`: one scenario, one report.

Owns arguments, exit code and what goes where: the report to stdout, the same bytes for the same
seed; wall time and memory, which differ from run to run, to stderr. Must not know a scenario.
"""

import argparse
import gc
import importlib
import pkgutil
import resource
import sys
import time
import traceback
from pathlib import Path

from simulation import loop, scenarios
from simulation.report import Report
from simulation.scenario import Options, Scenario
from simulation.signing import stub_signatures

EXIT_MISSED = 1
# A big network is millions of objects that stay: full collections over them find next to nothing.
GC_THRESHOLDS = (100_000, 20, 100)


def all_scenarios() -> dict[str, Scenario]:
    """Load every scenario by its name, in order of names."""
    names = sorted(module.name for module in pkgutil.iter_modules(scenarios.__path__))
    modules = [importlib.import_module(f"{scenarios.__name__}.{name}") for name in names]
    found = [module.SCENARIO for module in modules if hasattr(module, "SCENARIO")]
    return {scenario.name: scenario for scenario in found}


def simulate(scenario: Scenario, options: Options) -> Report:
    """Run one scenario on a fresh virtual loop."""

    async def run() -> Report:
        return await scenario.run(options)

    if scenario.has_real_signatures:
        return loop.run(run())
    with stub_signatures():
        return loop.run(run())


def parser(known: dict[str, Scenario]) -> argparse.ArgumentParser:
    """Build the parser of our arguments."""
    made = argparse.ArgumentParser(
        prog="python -m simulation",
        description="Run the real DHT on a virtual clock and a virtual network.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="scenarios:\n" + "\n".join(f"  {s.name:<10} {s.summary}" for s in known.values()),
    )
    made.add_argument("scenario", choices=list(known), metavar="SCENARIO")
    made.add_argument("--peers", type=int, help="size of the network")
    made.add_argument("--seed", type=int, default=1, help="decides all that is chance")
    made.add_argument("--small", action="store_true", help="a short run with fewer readings")
    made.add_argument("--hours", type=float, help="virtual hours of churn, instead of 36")
    made.add_argument("--plots", type=Path, metavar="DIR", help="write the plots there as SVG")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the scenario that the arguments name; 1 when a figure is missed or the run fails."""
    known = all_scenarios()
    given = parser(known).parse_args(arguments)
    scenario = known[given.scenario]
    peers = given.peers or (scenario.small_peers if given.small else scenario.peers)
    options = Options(peers, given.seed, given.small, given.hours)
    command = f"python -m simulation {scenario.name} --peers {peers} --seed {given.seed}"
    command += " --small" if given.small else ""
    command += f" --hours {given.hours:g}" if given.hours else ""
    began = time.monotonic(), time.process_time()
    try:
        report = simulate(scenario, options)
    except Exception:  # noqa: BLE001 - the process's edge: shown in full, and the exit says so
        traceback.print_exc()
        print(f"failed; seed {given.seed}; to repeat it: {command}", file=sys.stderr)
        return EXIT_MISSED
    sys.stdout.write(report.text())
    sys.stdout.flush()
    wall_s, cpu_s = time.monotonic() - began[0], time.process_time() - began[1]
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"wall {wall_s:.1f} s · CPU {cpu_s:.1f} s · peak RSS {rss_mb:.0f} MB", file=sys.stderr)
    if given.plots is not None:
        from simulation.plot import draw  # matplotlib is only needed here

        for plot in report.plots:
            draw(plot, given.plots)
    if report.missed:
        print(f"missed; seed {given.seed}; to repeat it: {command}", file=sys.stderr)
        return EXIT_MISSED
    return 0


if __name__ == "__main__":
    gc.set_threshold(*GC_THRESHOLDS)
    sys.exit(main())

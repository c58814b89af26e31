"""Run all simulations and put their output into docs/simulation.md. Owns that document's figures.

Each scenario runs in a process of its own, so that its memory is its own. The prose of the document
stays as it is: only what stands between `<!-- begin NAME -->` and `<!-- end NAME -->` is replaced.
With `small`, short runs are shown and nothing is written.
"""

import argparse
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs/simulation.md"
PLOTS = ROOT / "docs/simulation"
PACKAGES = ("kademlia", "msgspec", "cryptography")
MARK = re.compile(r"<!-- begin (\w+) -->\n.*?<!-- end \1 -->", re.DOTALL)


def main() -> int:
    """Run what is wanted; 1 when a scenario misses a figure or fails."""
    parser = argparse.ArgumentParser(description="Run all simulations and document them.")
    parser.add_argument("--scale", choices=("full", "small"), default="full")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", metavar="SCENARIO", help="leave out the others")
    parser.add_argument(
        "--peers", type=int, help="another size than the full one; the tables say it"
    )
    parser.add_argument("--hours", type=float, help="of churn, instead of 36; the table says it")
    given = parser.parse_args()
    names = given.only or [name for name in marks() if name != "machine"]
    failed = []
    for name in names:
        sized = [*option("--peers", given.peers), *option("--hours", given.hours)]
        text, is_good = run(name, given.seed, sized, is_small=given.scale == "small")
        print(text, flush=True)
        if not is_good:
            failed.append(name)
        if given.scale == "full":
            write(name, text)
            write("machine", machine())
    if failed:
        print(f"missed or failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def marks() -> list[str]:
    """The sections of the document that are replaced, in its order."""
    return [match[1] for match in MARK.finditer(DOCUMENT.read_text("utf-8"))]


def option(name: str, value: float | None) -> list[str]:
    """Return the words of an option that was given."""
    return [] if value is None else [name, f"{value:g}"]


def run(name: str, seed: int, sized: list[str], *, is_small: bool) -> tuple[str, bool]:
    """Run one scenario and return its section, and whether all went well."""
    shown = [name, *sized, "--seed", str(seed)]
    arguments = [*shown, *(["--small"] if is_small else ["--plots", str(PLOTS)])]
    done = subprocess.run(
        [sys.executable, "-m", "simulation", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    sys.stderr.write(done.stderr)
    figures = next((line for line in done.stderr.splitlines() if line.startswith("wall")), "failed")
    plots = sorted(PLOTS.glob(f"{name}-*.svg"))
    pictures = [f"![{plot.stem}](simulation/{plot.name})" for plot in plots]
    command = f"`python -m simulation {' '.join(shown)}`: {figures}"
    return "\n\n".join([command, done.stdout.strip(), *pictures]), done.returncode == 0


def write(name: str, text: str) -> None:
    """Replace one section of the document."""
    old = DOCUMENT.read_text("utf-8")
    section = f"<!-- begin {name} -->\n{text}\n<!-- end {name} -->"
    DOCUMENT.write_text(
        MARK.sub(lambda match: section if match[1] == name else match[0], old), "utf-8"
    )


def machine() -> str:
    """Say on what the figures were made."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = re.findall(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE)
        model = f"{len(names)} × {names[0]}" if names else model
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return f"{model}, {platform.system()}, Python {platform.python_version()}, {versions}."


if __name__ == "__main__":
    sys.exit(main())

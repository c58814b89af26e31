"""Make the Python code of protos/*.proto; with --check only say whether it is current."""

import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GENERATED = ("*_pb2.py", "*_pb2.pyi")


def generate(target: Path) -> None:
    """Run protoc from the root, so that the generated files import as `from protos import ...`."""
    sources = sorted(f"protos/{path.name}" for path in (ROOT / "protos").glob("*.proto"))
    if not sources:
        return
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", "."]
    command += [f"--python_out={target}", f"--pyi_out={target}", *sources]
    subprocess.run(command, cwd=ROOT, check=True)


def differences() -> list[str]:
    """Name the generated files that are stale, missing, or left over from a removed .proto."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        wanted, present = _names(fresh), _names(ROOT)
        found = [f"{name}: not generated" for name in sorted(wanted - present)]
        found += [f"{name}: no .proto has it" for name in sorted(present - wanted)]
        for name in sorted(wanted & present):
            if not filecmp.cmp(fresh / name, ROOT / name, shallow=False):
                found.append(f"{name}: not what its .proto gives")
        return found


def _names(root: Path) -> set[str]:
    return {f"protos/{path.name}" for glob in GENERATED for path in (root / "protos").glob(glob)}


def main() -> int:
    if "--check" not in sys.argv[1:]:
        generate(ROOT)
        return 0
    found = differences()
    for line in found:
        print(line, file=sys.stderr)
    if found:
        print("hint: make protos", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

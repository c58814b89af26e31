import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAULTS = """
import resource
from rpc.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        buffers = [bytearray(524_349) for _ in range(8)]
        buffers.clear()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before, kept = faults(), keep_freed_memory()
faults()
print(before, kept, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator of glibc is told")
def test_freed_buffers_are_used_again_without_page_faults() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], cwd=ROOT, capture_output=True, check=True, text=True
    )
    before, kept, after = done.stdout.split()
    assert kept == "True"
    assert int(before) > 50_000
    assert int(after) < 1_000

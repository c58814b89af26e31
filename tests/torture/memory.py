"""Peak memory of both ends of one large transfer, each a process of its own."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from tests.torture.tally import Tally
from transfer.hashing import hash_file_blocking
from transfer.manifest import CHUNK_SIZE_MIN_BYTES

ROOT = Path(__file__).parents[2]
MEBIBYTE = 1024 * 1024
RSS_MAX_BYTES = 200 * MEBIBYTE
TIMEOUT_S = 300.0


def large_file(folder: Path, *, size_bytes: int, seed: int) -> Tally:
    """Move a file of this size and look what both processes needed at most."""
    tally = Tally("memory of both ends", seed, runs=1)
    source, target = folder / "source", folder / "copy"
    rng = random.Random(seed)
    with source.open("wb") as file:
        file.truncate(size_bytes)
        for offset in range(0, size_bytes, CHUNK_SIZE_MIN_BYTES):  # no chunk like another
            file.seek(offset)
            file.write(rng.randbytes(16))
    manifest = hash_file_blocking(source).manifest
    holder = subprocess.Popen(
        [sys.executable, "-m", "tests.transfer.holder_process", str(source), "measured"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        peer_id, port = holder.stdout.readline().decode().split()
        names = [peer_id, port, manifest.content_id.hex(), str(target)]
        getter = subprocess.run(
            [sys.executable, "-m", "tests.transfer.get_process", *names],
            cwd=ROOT,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=True,
        )
        told, _ = holder.communicate(timeout=30)
    finally:
        holder.kill()
        holder.wait()
    got_kib, held_kib = int(getter.stdout.split()[1]), int(told)
    tally.damaged += hash_file_blocking(target).manifest != manifest
    tally.damaged += max(got_kib, held_kib) * 1024 > RSS_MAX_BYTES
    tally.notes.append(
        f"{size_bytes // MEBIBYTE} MiB: the receiver needed {got_kib // 1024} MiB at most, the"
        f" holder {held_kib // 1024} MiB ({RSS_MAX_BYTES // MEBIBYTE} allowed)"
    )
    return tally

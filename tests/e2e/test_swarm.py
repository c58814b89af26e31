"""Real peers that fetch one file at once, and one whose holder moves while it fetches."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support import waiting
from tests.support.processes import joined, seed_of

SIZE = 16 * 1024 * 1024
RATE = 8_000_000


def test_readers_find_each_other_while_they_fetch_and_spare_the_limited_seed(
    tmp_path: Path,
) -> None:
    data = random.Random(5).randbytes(SIZE)
    (tmp_path / "film").write_bytes(data)
    with joined(tmp_path, "seed", "ann", "ben", "cem") as peers:
        seed, readers = peers[0], peers[1:]
        seed.terminate()
        seed.join("--limit-up", str(RATE), network=tmp_path / "network.json", listen=seed.address)
        seed.json("put", str(tmp_path / "film"))
        with ThreadPoolExecutor(len(readers)) as pool:
            got = list(pool.map(lambda peer: peer.json("get", "film")[0], readers))
        [status], [of_reader] = seed.json("status"), readers[0].json("status")
    assert all((peer.folder / "film").read_bytes() == data for peer in readers)
    assert sum(each["fetched_bytes"] for each in got) <= 1.05 * len(readers) * SIZE
    assert max(each["sources"] for each in got) > 1
    # In bytes, since seconds say as much of the machine: from the seed alone it would be all.
    by_seed = sum(each["source_bytes"].get(seed.id, 0) for each in got)
    assert by_seed < 0.8 * len(readers) * SIZE
    # What the limits hold is told, and how late the event loop was.
    assert (status["limit_up_bytes_per_s"], status["limit_down_bytes_per_s"]) == (RATE, None)
    assert status["moved"]["gets-up"] >= by_seed
    assert status["moved"]["mail-up"] == status["moved"]["gets-down"] == 0
    assert of_reader["moved"]["gets-down"] >= SIZE
    assert status["loop_lag_ms_max"] > 0
    assert status["loop_stalls"] >= 0


def test_holder_that_moves_to_another_port_is_found_again_in_a_running_get(tmp_path: Path) -> None:
    data = random.Random(6).randbytes(SIZE)
    (tmp_path / "film").write_bytes(data)
    with joined(tmp_path, "boot", "holder", "reader") as (boot, holder, reader):
        network = tmp_path / "network.json"
        holder.terminate()
        holder.join("--limit-up", str(RATE), network=network)
        holder.json("put", str(tmp_path / "film"))
        former = holder.address
        with ThreadPoolExecutor(1) as pool:
            getting = pool.submit(reader.json, "get", "film", "--timeout", "40")
            waiting.until(
                lambda: (
                    sum(path.stat().st_blocks * 512 for path in reader.folder.glob(".shoal-*.part"))
                    > SIZE // 8
                    or getting.done()
                )
            )
            assert not getting.done()
            holder.kill()
            holder.join(network=network)
            [result] = getting.result()
        assert holder.address != former
        assert boot.address == seed_of(network)
    assert (reader.folder / "film").read_bytes() == data
    assert result["fetched_bytes"] <= 1.4 * SIZE

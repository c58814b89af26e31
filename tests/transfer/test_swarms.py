"""Who sends how much in a swarm: modelled on a virtual clock, and with real processes.

`make torture` runs thirty real readers.
"""

from pathlib import Path

import pytest

from tests.torture.swarms import equal_holders, one_seed
from tests.transfer.swarm_model import Model


@pytest.mark.parametrize(
    ("readers", "chunks", "chunk_s", "seed"),
    [(30, 64, 0.01, 1), (12, 64, 0.1, 2), (12, 64, 0.001, 3)],
)
def test_one_seed_sends_a_few_files_to_many_readers(
    readers: int, chunks: int, chunk_s: float, seed: int
) -> None:
    model = Model(seeds=1, readers=readers, chunks=chunks, chunk_s=chunk_s, seed=seed).run()
    received = sum(reader.received for reader in model.readers)
    assert received <= 1.05 * readers * chunks
    assert model.seeds[0].sent <= 4 * chunks


@pytest.mark.parametrize(
    ("seed", "chunk_s", "run"), [*((seed, 0.01, 1) for seed in range(5)), (5, 0.0005, 4)]
)
def test_no_equal_holder_sends_more_than_one_and_a_half_times_the_mean(
    seed: int, chunk_s: float, run: int
) -> None:
    model = Model(seeds=8, readers=8, chunks=100, chunk_s=chunk_s, seed=seed).run()
    assert model.longest_run >= run
    sent = [holder.sent for holder in model.seeds]
    assert max(sent) <= 1.5 * sum(sent) / len(sent)


def test_readers_that_know_only_the_seed_get_everything_from_it() -> None:
    model = Model(seeds=1, readers=6, chunks=32, seed=1).run(know_s=None)
    assert all(not reader.swarm.missing for reader in model.readers if reader.swarm)
    assert model.seeds[0].sent == 6 * 32
    assert model.now < 30


def test_processes_fetch_from_each_other_and_spare_the_seed(tmp_path: Path) -> None:
    tally = one_seed(tmp_path, readers=8, chunks=40, seed=1, timeout_s=45)
    assert tally.passed, str(tally)


def test_processes_share_out_equal_holders(tmp_path: Path) -> None:
    """A process that the machine starves for a moment sends less: one of three tries must do."""
    tallies = []
    for seed in range(1, 4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        tallies.append(equal_holders(folder, count=4, chunks=48, seed=seed, timeout_s=45))
        if tallies[-1].passed:
            return
    pytest.fail("\n".join(map(str, tallies)))

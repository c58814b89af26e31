"""What of a partial folder is believed: journaled files unread, others once they verify."""

import os
from pathlib import Path

import pytest

from tests.transfer.trees import make_folder
from transfer.errors import TargetBusy
from transfer.tree_part import TreePart
from transfer.tree_plan import Plan, plan_of
from transfer.tree_walk import HashedTree, hash_tree

Opened = tuple[TreePart, Plan]


def opened(tmp_path: Path, hashed: HashedTree) -> Opened:
    part = TreePart(tmp_path / "copy", hashed.tree.manifest.content_id, updates=False)
    plan = plan_of(hashed.tree)
    part.begin(hashed.tree, plan)
    return part, plan


async def begun(tmp_path: Path, *, journaled: bool) -> tuple[HashedTree, Path]:
    """A partial folder in which every small file was written, as a killed process leaves it."""
    source = make_folder(tmp_path / "source", small=20, large=0)
    hashed = await hash_tree(source)
    part, plan = opened(tmp_path, hashed)
    for place, content in enumerate(plan.contents):
        path = hashed.tree.entries[content.entries[0]].path
        part.write_small(place, memoryview((source / path).read_bytes()))
    if journaled:
        part.flush(wait=True)
    part.close()
    return hashed, part.path / "tree"


@pytest.mark.parametrize("journaled", [True, False])
async def test_files_of_a_former_get_are_taken_over(tmp_path: Path, journaled: bool) -> None:
    hashed, _ = await begun(tmp_path, journaled=journaled)
    part, plan = opened(tmp_path, hashed)
    read_bytes = part.adopt(range(len(plan.contents)))
    assert all(part.is_whole(place) for place in range(len(plan.contents)))
    assert read_bytes == (0 if journaled else hashed.tree.manifest.tree_bytes)
    part.close()


@pytest.mark.parametrize("journaled", [True, False])
async def test_damaged_file_is_not_believed(tmp_path: Path, journaled: bool) -> None:
    hashed, tree = await begun(tmp_path, journaled=journaled)
    victim = tree / "part0" / "5.bin"
    victim.write_bytes(bytes(victim.stat().st_size))
    (tree / "part1" / "1.bin").unlink()
    os.truncate(tree / "part2" / "2.bin", 1)
    part, plan = opened(tmp_path, hashed)
    part.adopt(range(len(plan.contents)))
    missing = {
        hashed.tree.entries[content.entries[0]].path
        for place, content in enumerate(plan.contents)
        if not part.is_whole(place)
    }
    assert missing == {"part0/5.bin", "part1/1.bin", "part2/2.bin"}
    part.close()


async def test_two_gets_of_one_target_do_not_meet(tmp_path: Path) -> None:
    hashed, _ = await begun(tmp_path, journaled=True)
    part, _ = opened(tmp_path, hashed)
    with pytest.raises(TargetBusy):
        opened(tmp_path, hashed)
    part.close()
    opened(tmp_path, hashed)[0].close()

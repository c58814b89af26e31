"""From a complete partial folder to the target.

Owns the last step of a get of a folder: a new target appears by one rename; an existing one, which
the person allowed to be overwritten, is updated file by file, each by a rename, so that every file
is at any time wholly the old or wholly the new one. What is not in the tree stays as it is.
Blocking. Knows no network.

In an existing target a file or link that lies where the tree has a folder gives way, and a link is
replaced by what the tree has there, never followed. A folder where the tree has a file is refused
before anything is fetched: it may hold what nobody meant to lose.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from transfer.errors import TargetExists
from transfer.hashing import Fingerprint
from transfer.partial import sync_folder, target_error
from transfer.safe_folder import SafeFolder
from transfer.tree import Entry, EntryKind, Tree
from transfer.tree_part import FILES, TreePart
from transfer.tree_paths import shown_path
from transfer.tree_walk import TreeFile

_NEW_LINK = ".shoal-link.part"


def check_target(target: Path, *, overwrite: bool) -> bool:
    """Tell whether a get updates an existing folder; TargetExists where it may not."""
    if not os.path.lexists(target):
        return False
    if not overwrite:
        raise TargetExists(f"{target.name!a} exists")
    if target.is_symlink() or not target.is_dir():
        raise TargetExists(
            f"{target.name!a} is no folder, and the content is one",
            hint="choose another target with -o, or remove it",
        )
    return True


def check_update(base: SafeFolder, tree: Tree) -> None:
    """Refuse to update a target that has folders where the tree has files or links."""
    for entry in tree.entries:
        if entry.kind is EntryKind.FOLDER:
            continue
        status = base.look(entry.path)
        if status is not None and stat.S_ISDIR(status.st_mode):
            raise TargetExists(
                f"{shown_path(entry.path)} is a folder in the target and none in what is fetched",
                hint="remove that folder, or choose another target with -o",
            )


def finish(part: TreePart) -> list[TreeFile]:
    """Make the target and return its files; raises TargetExists, TargetUnwritable, DiskFull."""
    try:
        if part.base is None:
            _become(part)
        else:
            _make_empty_files(part)
            part.flush(wait=True)
            _update(part, part.base)
        part.remove()
    except OSError as error:
        raise target_error(error, part.target) from error
    return list(_files_of(part))


def complete(part: TreePart) -> None:
    """Add what has no content to a new folder, and make all of it durable; OSError, DiskFull."""
    _make_empty_files(part)
    part.flush(wait=True)
    tree = part.state.tree
    for entry in tree.entries:
        if entry.kind is EntryKind.FOLDER:
            part.files.folder(entry.path, make=True)
        elif entry.kind is EntryKind.LINK:
            _make_link(part.files, entry)
    root = part.path / FILES
    part.sync_folders([root, *(root / folder for folder in _folders_of(tree))])


def _make_empty_files(part: TreePart) -> None:
    state = part.state
    for number, entry in enumerate(state.tree.entries):
        if not entry.is_file or entry.size_bytes:
            continue
        found = None if part.base is None else part.base.look(entry.path)
        if found is not None and stat.S_ISREG(found.st_mode) and not found.st_size:
            state.kept[number] = Fingerprint.of(found)
        else:
            part.write_empty(number)


def _become(part: TreePart) -> None:
    """Complete the folder and give it its name."""
    complete(part)
    if os.path.lexists(part.target):
        raise TargetExists(f"{part.target.name!a} exists")
    # From here on the files speak for themselves, should the end come before the rename.
    part.journal.remove()
    # A folder cannot replace a file by a rename, nor a folder that has something in it.
    (part.path / FILES).rename(part.target)
    sync_folder(part.target.parent)


def _update(part: TreePart, base: SafeFolder) -> None:
    state = part.state
    for folder in _folders_of(state.tree):
        _make_room(base, folder)
    for number, entry in enumerate(state.tree.entries):
        if entry.kind is EntryKind.FOLDER:
            _make_room(base, entry.path)
        elif entry.kind is EntryKind.LINK:
            _make_link(base, entry)
        elif number in state.kept:
            _make_executable(base, entry)
        else:
            source, name = part.files.place(entry.path)
            into, _ = base.place(entry.path)
            os.replace(name, name, src_dir_fd=source, dst_dir_fd=into)
    for folder in ["", *_folders_of(state.tree)]:
        os.fsync(base.folder(folder))


def _make_room(base: SafeFolder, folder: str) -> None:
    """Make a folder, and take away a file or link that lies in its place."""
    status = base.look(folder)
    if status is not None and not stat.S_ISDIR(status.st_mode):
        parent, name = base.place(folder)
        os.unlink(name, dir_fd=parent)
    base.folder(folder, make=True)


def _make_link(root: SafeFolder, entry: Entry) -> None:
    """Make a link, in one step where something lies there already."""
    folder, name = root.place(entry.path, make=True)
    with suppress(OSError):
        if os.readlink(name, dir_fd=folder) == entry.target:
            return
    with suppress(FileNotFoundError):
        os.unlink(_NEW_LINK, dir_fd=folder)
    os.symlink(entry.target, _NEW_LINK, dir_fd=folder)
    os.replace(_NEW_LINK, name, src_dir_fd=folder, dst_dir_fd=folder)


def _make_executable(base: SafeFolder, entry: Entry) -> None:
    """Give an unchanged file the executable bit of the tree, to those who may read it."""
    status = base.look(entry.path)
    wants = entry.kind is EntryKind.EXECUTABLE
    if status is None or bool(status.st_mode & stat.S_IXUSR) == wants:
        return
    mode = stat.S_IMODE(status.st_mode)
    mode = mode | (mode & 0o444) >> 2 if wants else mode & ~0o111
    descriptor = base.read(entry.path)
    try:
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _folders_of(tree: Tree) -> list[str]:
    """All folders of a tree but its root, those above first."""
    folders: dict[str, None] = {}
    for entry in tree.entries:
        path = entry.path if entry.kind is EntryKind.FOLDER else entry.path.rpartition("/")[0]
        ways: list[str] = []
        while path and path not in folders:
            ways.append(path)
            path = path.rpartition("/")[0]
        folders.update(dict.fromkeys(reversed(ways)))
    return list(folders)


def _files_of(part: TreePart) -> Iterator[TreeFile]:
    state = part.state
    contents = {each.content_id: place for place, each in enumerate(state.plan.contents)}
    for number, entry in enumerate(state.tree.entries):
        if not entry.is_file:
            continue
        manifest = state.manifests.get(contents.get(entry.content_id, -1))
        yield TreeFile(
            entry.path,
            entry.content_id,
            state.done[number] if number in state.done else state.kept[number],
            None if manifest is None else manifest.encode(),
        )

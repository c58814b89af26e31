"""Which paths a folder's tree may hold, and where its links may lead.

Owns the rules for the layout of a tree that comes from others or goes to others. Pure: no file
system is asked. A layout that passes can be made below any folder, on file systems that do not
tell case apart too, and none of its links leads out, also not through another link.
"""

import unicodedata
from collections.abc import Iterable, Mapping

from transfer.errors import UnsafeTree
from transfer.names import why_unsafe

PATH_BYTES_MAX = 2_048
DEPTH_MAX = 100
LINK_BYTES_MAX = 1_024
LINK_HOPS_MAX = 40
"""Links followed on one way, as the kernel bounds it."""


def check_layout(leaves: Iterable[str], links: Mapping[str, str]) -> None:
    """Check the paths of files, links and empty folders together, and the links' targets.

    Raises UnsafeTree, which names the first path that is unsafe, clashes with another or leads out.
    """
    layout = _Layout()
    for path in leaves:
        layout.add(path)
    for path, target in links.items():
        check_link(path, target, links)


def check_link(path: str, target: str, links: Mapping[str, str]) -> None:
    """Refuse a link whose way leaves the folder, or goes in a circle; UnsafeTree.

    The way is walked as the kernel does it: `..` after a link counts from where the link leads.
    """
    reason = _reason_against_link(path, target, links)
    if reason is not None:
        raise UnsafeTree(f"the link {shown_path(path)} {reason}")


def folded(path: str) -> str:
    """Return what two paths have in common that some file systems take for the same."""
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def shown_path(path: str) -> str:
    """Quote a hostile path for an error line: ASCII only, its middle left out where it is long."""
    return ascii(path if len(path) <= 200 else f"{path[:97]}...{path[-100:]}")


class _Layout:
    """Paths seen so far: no two may clash, and none may lie below one that is no folder."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._leaves: set[str] = set()
        self._folders: set[str] = {""}

    def add(self, path: str) -> None:
        folder, _, name = path.rpartition("/")
        if path.startswith("/"):
            raise UnsafeTree(f"unsafe path {shown_path(path)}: it is absolute")
        if len(path.encode(errors="surrogatepass")) > PATH_BYTES_MAX:
            raise UnsafeTree(f"the path {shown_path(path)} is longer than {PATH_BYTES_MAX} bytes")
        if folder not in self._folders:
            self._add_folders(folder)
        self._add_name(path, name)
        if path in self._folders or path in self._leaves:
            raise UnsafeTree(f"{shown_path(path)} stands for two things")
        self._leaves.add(path)

    def _add_folders(self, folder: str) -> None:
        parts = folder.split("/")
        if len(parts) > DEPTH_MAX:
            raise UnsafeTree(f"the path {shown_path(folder)} is more than {DEPTH_MAX} folders deep")
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            if path in self._folders:
                continue
            self._add_name(path, parts[depth - 1])
            if path in self._leaves:
                raise UnsafeTree(f"{shown_path(path)} stands for two things")
            self._folders.add(path)

    def _add_name(self, path: str, name: str) -> None:
        reason = why_unsafe(name)
        if reason is not None:
            raise UnsafeTree(f"unsafe path {shown_path(path)}: {reason}")
        other = self._names.setdefault(folded(path), path)
        if other != path:
            raise UnsafeTree(
                f"{shown_path(other)} and {shown_path(path)} differ only in case or composition",
                hint="rename one of them: many file systems take them for the same",
            )


def _reason_against_link(path: str, target: str, links: Mapping[str, str]) -> str | None:
    reason = _reason_against_target(target)
    if reason is not None:
        return reason
    at = path.split("/")[:-1]
    ahead = _parts(target)
    hops = 0
    while ahead:
        part = ahead.pop()
        if part == "..":
            if not at:
                return "leads out of the folder"
            at.pop()
            continue
        at.append(part)
        further = links.get("/".join(at))
        if further is None:
            continue
        hops += 1
        if hops > LINK_HOPS_MAX:
            return "leads in a circle"
        reason = _reason_against_target(further)
        if reason is not None:
            return f"{reason}, by another link"
        at.pop()
        ahead.extend(_parts(further))
        if len(ahead) > PATH_BYTES_MAX:
            return "leads too far"
    return None


def _reason_against_target(target: str) -> str | None:
    if not target:
        return "leads nowhere"
    if target.startswith("/"):
        return "leads out of the folder"
    if "\\" in target:
        return "holds a backslash"
    for character in target:
        match unicodedata.category(character):
            case "Cc":
                return "holds a control character"
            case "Cs":
                return "is not valid Unicode"
    if len(target.encode()) > LINK_BYTES_MAX:
        return f"is longer than {LINK_BYTES_MAX} bytes"
    return None


def _parts(target: str) -> list[str]:
    """The parts of a target, the first of them last, to be taken from the end."""
    return [part for part in reversed(target.split("/")) if part not in ("", ".")]

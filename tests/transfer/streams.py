"""Folders in memory, and their streams built straight from docs/protocol/transfer.md."""

from collections.abc import Mapping

from tests.transfer.peers import CHUNK
from transfer.folder_stream import Came, Described, Found, Listed
from transfer.manifest import Manifest, digest_of
from transfer.tree import Entry, EntryKind, Tree


def manifest_of(data: bytes) -> Manifest:
    return Manifest.of(
        len(data), [digest_of(data[at : at + CHUNK]) for at in range(0, len(data), CHUNK)]
    )


def tree_of(files: Mapping[str, bytes], *others: Entry) -> Tree:
    """A folder of plain files, and what else is given."""
    entries = [
        Entry(path, EntryKind.FILE, len(data), manifest_of(data).content_id)
        for path, data in files.items()
    ]
    return Tree.of([*entries, *others])


def stream_of(tree: Tree, files: Mapping[str, bytes]) -> bytes:
    """The stream of a folder, as the protocol says."""
    manifest = tree.manifest.encode()
    parts = [b"shoal folder 1\0\0", len(manifest).to_bytes(4, "big"), manifest, tree.listing]
    seen = set()
    for path in sorted(files, key=str.encode):
        data = files[path]
        described = manifest_of(data)
        if data and described.content_id not in seen:
            seen.add(described.content_id)
            parts += [described.encode()] if len(data) > CHUNK else []
            parts.append(data)
    return b"".join(parts)


def contents_in(found: list[Found]) -> dict[bytes, bytes]:
    """What a reader gave out: content id and bytes, each chunk at its place."""
    [listed] = [each for each in found if isinstance(each, Listed)]
    contents: dict[bytes, bytes] = {}
    for each in found:
        if isinstance(each, Came):
            content_id = listed.plan.contents[each.content].content_id
            before = contents.get(content_id, b"")
            assert len(before) == each.chunk * CHUNK
            contents[content_id] = before + each.data
        elif isinstance(each, Described):
            assert each.manifest.content_id == listed.plan.contents[each.content].content_id
    return contents

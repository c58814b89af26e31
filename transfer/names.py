"""Which file names may be stored here.

Owns the rule for single file names that come from others or go to others. Knows no file system:
a name that passes is safe to join to a folder on Linux and macOS, and can be stored on Windows but
for a trailing dot or space, which Linux keeps and Windows drops. How a name is shown (bidirectional
characters, markup) is the console's concern, so those characters pass here.
"""

import unicodedata

from transfer.errors import UnsafeName

NAME_BYTES_MAX = 255
NAME_TRIES_MAX = 10_000
"""Numbers that are tried for a name that is taken."""
_RESERVED_STEMS = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    + [f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"]
)


def check_name(name: str) -> str:
    """Return the name as it is, or raise UnsafeName with the reason."""
    reason = why_unsafe(name)
    if reason is not None:
        raise UnsafeName(f"unsafe file name {shown_name(name)}: {reason}")
    return name


def why_unsafe(name: str) -> str | None:
    """Return what is wrong with a name, or None when it is safe."""
    if not name:
        return "it is empty"
    if name in (".", ".."):
        return "it means a folder"
    if "/" in name or "\\" in name:
        return "it contains a path separator"
    for character in "" if name.isascii() and name.isprintable() else name:
        match unicodedata.category(character):
            case "Cc":
                return "it contains a control character"
            case "Cs":
                return "it is not valid Unicode"
    if len(name.encode()) > NAME_BYTES_MAX:
        return f"it is longer than {NAME_BYTES_MAX} bytes"
    # Windows reserves the part before the first dot, whatever follows it.
    if name.split(".", 1)[0].rstrip(" ").casefold() in _RESERVED_STEMS:
        return "it is reserved on Windows"
    return None


def shown_name(name: str) -> str:
    """Quote a hostile name for an error line: ASCII only and short."""
    return ascii(name if len(name) <= 64 else name[:61] + "...")


def numbered(name: str, attempt: int) -> str:
    """Return `name.ext`, then `name (2).ext`, cut to what a file name may hold."""
    if attempt == 1:
        return name
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension.encode()) > 16:
        stem, dot, extension = name, "", ""
    tail = f" ({attempt}){dot}{extension}"
    room = NAME_BYTES_MAX - len(tail.encode())
    return stem.encode()[:room].decode(errors="ignore") + tail

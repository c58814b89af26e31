"""Words of filenames and of searches: one rule for publisher, storer and reader.

Owns how text becomes words, which words of a name are indexed, which one a search looks up, and
when a name matches. Pure; it knows nothing of records or storage. The rule is part of the protocol
(docs/protocol/records.md): storers recompute it, so a change here is a change of the network's
language.
"""

import functools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from dht.errors import BadQuery

WORD_BYTES_MAX = 64
INDEXED_WORDS_MAX = 8
FOLD_PASSES_MAX = 8
WORDS_CACHE_MAX = 4096
# English, German, French, Spanish: in so many names that they tell none apart.
_SMALL_WORDS = (
    "a an and are as at by for from in is it of on or the to with "
    "das dem den der des die ein eine für im ist mit und von vom zu zum zur "
    "au aux avec dans de du en et la le les ou par pour sur un une "
    "con del el las los para por que una y"
)
# Endings of filenames say of what kind a file is, not which one.
_ENDINGS = (
    "7z avi bin bmp csv doc docx epub flac gif gz htm html iso jpeg jpg json md mkv mov mp3 mp4 "
    "odt ogg pdf png ppt pptx rar rtf svg tar tif tiff txt wav webm webp xls xlsx xml zip"
)
STOP_WORDS = frozenset((*_SMALL_WORDS.split(), *_ENDINGS.split()))
"""Words that say next to nothing: indexed last, and looked up only where a search has no other.

They must match all the same, and a name or a search that has nothing else lives by them. Part of
the protocol, so it is short and kept: publisher and searcher order words by it.
"""


@functools.lru_cache(maxsize=WORDS_CACHE_MAX)
def words_of(text: str) -> tuple[str, ...]:
    """List the distinct words of a text, folded, in the order of their first appearance.

    A word starts with a letter or digit (Unicode L*, N*) and goes on through letters, digits and
    combining marks (M*); everything else separates. Words over WORD_BYTES_MAX are cut there.
    """
    words: dict[str, None] = {}
    current: list[str] = []
    for character in fold(text):
        category = unicodedata.category(character)[0]
        if category in "LN" or (category == "M" and current):
            current.append(character)
        elif current:
            words[_cut("".join(current))] = None
            current.clear()
    if current:
        words[_cut("".join(current))] = None
    return tuple(words)


def indexed_words(filename: str) -> tuple[str, ...]:
    """Choose the words that a name is published under: the INDEXED_WORDS_MAX most selective."""
    return selective_first(words_of(filename))[:INDEXED_WORDS_MAX]


def is_fully_indexed(filename: str) -> bool:
    """Tell whether each of a name's words finds it."""
    return len(words_of(filename)) <= INDEXED_WORDS_MAX


@dataclass(frozen=True, slots=True)
class Query:
    """What a search asks for: whole words, the best one to look up first, and how a word begins."""

    words: tuple[str, ...]
    prefix: str = ""


def query_of(arguments: Sequence[str]) -> Query:
    """Turn what a person typed into a query; BadQuery where there is no whole word to look up.

    A `*` at the end of an argument, right behind a letter or digit, makes a prefix of the word
    before it; every other `*` separates words like any other sign.
    """
    whole: list[str] = []
    prefixes: dict[str, None] = {}
    for argument in " ".join(arguments).split():
        rest, tail = _split_tail(argument[:-1]) if argument.endswith("*") else (argument, "")
        whole += [*words_of(rest), *words_of(tail)[:-1]]
        prefixes.update(dict.fromkeys(words_of(tail)[-1:]))
    if len(prefixes) > 1:
        raise BadQuery("only one word of a search may end in *")
    prefix = next(iter(prefixes), "")
    if not whole and prefix:
        raise BadQuery(f"{prefix}* needs a whole word beside it: only whole words can be looked up")
    if not whole:
        raise BadQuery("no word to search for: letters and digits count, the rest separates them")
    return Query(selective_first(tuple(dict.fromkeys(whole))), prefix)


def _split_tail(text: str) -> tuple[str, str]:
    """Cut off the letters, digits and marks at the end of a text."""
    start = len(text)
    while start and unicodedata.category(text[start - 1])[0] in "LNM":
        start -= 1
    return text[:start], text[start:]


def selective_first(words: Sequence[str]) -> tuple[str, ...]:
    """Order words by how few names they are likely to be in: stop words last, longer ones first.

    Nobody counts words across the network, so length stands in for rarity; ties are broken by
    code points. The order hangs on the words alone, never on where they stand: of any words of a
    name, the first in this order is indexed if one of them is, and so it is the one to look up.
    """
    return tuple(sorted(words, key=lambda word: (word in STOP_WORDS, -len(word), word)))


def matches(filename: str, words: Sequence[str], prefix: str = "") -> bool:
    """Tell whether each word is a whole word of the name, and one begins with the prefix."""
    return WordFilter(words, prefix).matches(spelled(filename))


class WordFilter:
    """Which names a search wants, made once and asked of many names.

    Words may come unfolded, the prefix as `query_of` gives it. No words and no prefix match every
    name; words that hold no letter or digit match none.
    """

    def __init__(self, words: Sequence[str], prefix: str = "") -> None:
        wanted = words_of(" ".join(words))
        self._matches_none = bool(words) and not wanted
        self._parts = [f" {word} " for word in wanted]
        if prefix:
            self._parts.append(f" {prefix}")

    def matches(self, text: str) -> bool:
        """Judge a name by what `spelled` makes of it; about 0.3 µs."""
        return not self._matches_none and all(part in text for part in self._parts)


def spelled(filename: str) -> str:
    """Write a name's words down with a space around each: short to keep, quick to search."""
    return f" {' '.join(words_of(filename))} "


def fold(text: str) -> str:
    """Apply NFKC and case folding until neither changes anything.

    One pass does with the Unicode tables tried, but Unicode does not promise it of this order of
    steps; words that change when folded again would be lost to search, so this goes on until none.
    """
    for _ in range(FOLD_PASSES_MAX):
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        if folded == text:
            break
        text = folded
    return text


def _cut(word: str) -> str:
    """Shorten a word to WORD_BYTES_MAX bytes of UTF-8 without splitting a character."""
    data = word.encode("utf-8")
    if len(data) <= WORD_BYTES_MAX:
        return word
    return data[:WORD_BYTES_MAX].decode("utf-8", "ignore")

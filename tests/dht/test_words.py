"""The words of filenames: what splits, what folds, what is indexed, what matches."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.words import (
    INDEXED_WORDS_MAX,
    WORD_BYTES_MAX,
    fold,
    indexed_words,
    matches,
    query_words,
    selective_first,
    words_of,
)

filenames = st.text(st.characters(exclude_categories=["Cs"]), max_size=255)


@pytest.mark.parametrize(
    ("filename", "words"),
    [
        ("Annual_Report-2024 (final).PDF", ("annual", "report", "2024", "final", "pdf")),
        ("Straße STRASSE strasse.txt", ("strasse", "txt")),
        ("ＦＵＬＬ　ｗｉｄｔｈ①.txt", ("full", "width1", "txt")),
        ("café.txt", ("café", "txt")),
        ("cafe\u0301.txt", ("café", "txt")),
        ("हिन्दी गीत.mp3", ("हिन्दी", "गीत", "mp3")),
        ("❤️ love \U0001f600.txt", ("love", "txt")),
        ("½ cup", ("1", "2", "cup")),
        ("[/red].txt", ("red", "txt")),
        ("a\u202etxt.exe", ("a", "txt", "exe")),
        ("--- ...", ()),
        ("", ()),
    ],
)
def test_a_name_splits_at_everything_but_letters_and_digits(
    filename: str, words: tuple[str, ...]
) -> None:
    assert words_of(filename) == words


@given(filenames)
def test_words_are_folded_bounded_distinct_and_of_letters_and_digits(filename: str) -> None:
    words = words_of(filename)
    assert len(set(words)) == len(words)
    for word in words:
        assert 0 < len(word.encode()) <= WORD_BYTES_MAX
        assert unicodedata.category(word[0])[0] in "LN"
        assert all(unicodedata.category(character)[0] in "LNM" for character in word)


@given(filenames)
def test_words_of_words_are_the_same_words(filename: str) -> None:
    words = words_of(filename)
    assert words_of(" ".join(words)) == words


@given(filenames)
def test_folding_reaches_a_fixed_point(text: str) -> None:
    folded = fold(text)
    assert unicodedata.normalize("NFKC", folded.casefold()) == folded


@given(filenames)
def test_composed_and_decomposed_names_have_the_same_words(text: str) -> None:
    decomposed = unicodedata.normalize("NFD", text)
    assert words_of(unicodedata.normalize("NFC", text)) == words_of(decomposed)


@given(filenames)
def test_a_name_matches_each_of_its_words_and_all_at_once(filename: str) -> None:
    words = words_of(filename)
    assert matches(filename, words)
    assert all(matches(filename, [word]) for word in words)


def test_words_match_whole_tokens_only_and_all_must_match() -> None:
    assert matches("Linear Algebra notes.pdf", ["ALGEBRA", "notes"])
    assert not matches("Linear Algebra notes.pdf", ["alg"])
    assert not matches("Linear Algebra notes.pdf", ["algebra", "physics"])


def test_no_words_match_everything_and_words_without_letters_match_nothing() -> None:
    assert matches("a.txt", [])
    assert not matches("a.txt", ["---"])


@given(filenames)
def test_indexed_words_are_few_and_no_word_left_out_is_longer(filename: str) -> None:
    indexed = indexed_words(filename)
    assert len(indexed) == min(INDEXED_WORDS_MAX, len(words_of(filename)))
    left_out = set(words_of(filename)) - set(indexed)
    shortest = min((len(word) for word in indexed), default=0)
    assert all(len(word) <= shortest for word in left_out)


def test_ties_are_indexed_in_the_order_of_the_name() -> None:
    assert indexed_words("bb aa c ccc.d") == ("ccc", "bb", "aa", "c", "d")
    assert indexed_words("a b c d e f g h i j") == tuple("abcdefgh")


def test_a_search_looks_up_first_what_was_indexed_first() -> None:
    name = "one two three four five six seven eight nine ten.tar.gz"
    assert query_words(["gz", "SEVEN", "two"])[0] in indexed_words(name)
    assert selective_first(["gz", "seven", "two"]) == ("seven", "two", "gz")


def test_a_long_word_is_cut_alike_for_name_and_search() -> None:
    long = "é" * 100
    (word,) = words_of(long + ".")
    assert word == "é" * (WORD_BYTES_MAX // 2)
    assert matches(long, [long])

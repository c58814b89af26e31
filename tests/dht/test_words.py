"""The words of filenames: what splits, what folds, what is indexed, what matches."""

import itertools
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.errors import BadQuery
from dht.words import (
    INDEXED_WORDS_MAX,
    STOP_WORDS,
    WORD_BYTES_MAX,
    Query,
    fold,
    indexed_words,
    matches,
    query_of,
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
def test_indexed_words_are_few_and_no_word_left_out_tells_more(filename: str) -> None:
    words = words_of(filename)
    indexed = indexed_words(filename)
    assert len(indexed) == min(INDEXED_WORDS_MAX, len(words))
    for left_out in set(words) - set(indexed):
        for word in indexed:
            assert (word in STOP_WORDS, -len(word)) <= (left_out in STOP_WORDS, -len(left_out))


# More words than are indexed, many of a length: what is left out hangs on ties and stop words.
crowded_names = st.permutations([*"abcdefghij", "the", "of", "pdf", "whale", "zu"]).map(
    lambda words: " ".join(words[: len(words) - 2])
)


@given(st.one_of(crowded_names, filenames))
def test_the_word_looked_up_is_indexed_if_any_word_of_the_search_is(filename: str) -> None:
    """Whatever words of a name are searched for, in any order: the choice of one misses nothing."""
    indexed = indexed_words(filename)
    words = words_of(filename)[:20]
    for searched in (*itertools.permutations(words, 2), *zip(words), words, words[::-1]):
        if searched:
            looked_up = query_of(searched).words[0]
            assert (looked_up in indexed) == any(word in indexed for word in searched)


def test_stop_words_come_last_and_longer_words_first() -> None:
    assert indexed_words("The Song of the Whale.pdf") == ("whale", "song", "pdf", "the", "of")
    assert query_of(["the", "orca", "with"]).words[0] == "orca"
    assert query_of(["the", "with"]).words[0] == "with"
    assert indexed_words("The The.txt") == ("the", "txt")


def test_stop_words_are_words_as_names_have_them() -> None:
    for word in STOP_WORDS:
        assert words_of(word) == (word,)


def test_ties_are_indexed_alike_wherever_they_stand() -> None:
    assert indexed_words("bb aa x ccc.d") == ("ccc", "aa", "bb", "d", "x")
    assert indexed_words("k j i h g f e d c b") == tuple("bcdefghi")
    assert query_of(["k", "j"]).words[0] == "j"


def test_a_long_word_is_cut_alike_for_name_and_search() -> None:
    long = "é" * 100
    (word,) = words_of(long + ".")
    assert word == "é" * (WORD_BYTES_MAX // 2)
    assert matches(long, [long])


def test_the_document_lists_the_stop_words() -> None:
    document = Path(__file__).parents[2] / "docs" / "protocol" / "records.md"
    listed = document.read_text(encoding="utf-8").partition("**Stop words** (as folded): ")[2]
    listed = listed.partition(". They must match")[0].replace("and the endings", "")
    assert set(words_of(listed)) == STOP_WORDS


@pytest.mark.parametrize(
    ("arguments", "query"),
    [
        (["whale", "so*"], Query(("whale",), "so")),
        (["Whale SO*"], Query(("whale",), "so")),
        (["so*", "whale"], Query(("whale",), "so")),
        (["blue-so*", "blue"], Query(("blue",), "so")),
        (["so-blue-so*"], Query(("blue", "so"), "so")),
        (["wha*le", "*song"], Query(("song", "wha", "le"))),
        (["whale", "*"], Query(("whale",))),
        (["whale -*"], Query(("whale",))),
        (["whale", "so**"], Query(("whale", "so"))),
        (["whale", "so*", "SO*"], Query(("whale",), "so")),
        (["cup", "½*"], Query(("cup", "1"), "2")),
    ],
)
def test_a_star_right_behind_a_word_makes_it_a_prefix(arguments: list[str], query: Query) -> None:
    assert query_of(arguments) == query


@pytest.mark.parametrize("arguments", [[], ["--"], ["*"], ["so*"], ["whale", "so*", "bl*"]])
def test_a_search_without_a_whole_word_or_with_two_prefixes_is_refused(
    arguments: list[str],
) -> None:
    with pytest.raises(BadQuery):
        query_of(arguments)


@given(filenames.filter(words_of), st.data())
def test_a_name_matches_each_prefix_of_its_words(filename: str, data: st.DataObject) -> None:
    words = words_of(filename)
    word = data.draw(st.sampled_from(words))
    assert matches(filename, [], word[: data.draw(st.integers(1, len(word)))])
    assert matches(filename, words, word)
    assert not matches(filename, words, word + "\U00020000\U00020001")
    assert not matches(filename, [*words, "\U00020000\U00020001"], word)


@given(st.lists(st.one_of(filenames, st.text("ab* -", max_size=6)), max_size=4))
def test_a_query_has_a_word_to_look_up_and_its_words_are_words(arguments: list[str]) -> None:
    try:
        query = query_of(arguments)
    except BadQuery:
        return
    assert query.words
    assert query.words == selective_first(query.words)
    for word in (*query.words, *([query.prefix] if query.prefix else [])):
        assert words_of(word) == (word,)


@given(
    st.one_of(crowded_names, filenames),
    st.lists(st.one_of(st.sampled_from(["a", "b", "whale", "zu", "sea"]), filenames), max_size=3),
    st.sampled_from(["", "a", "wha", "z", "se"]),
)
def test_matching_is_a_matter_of_whole_words_and_of_how_one_begins(
    filename: str, words: list[str], prefix: str
) -> None:
    has = set(words_of(filename))
    wanted = {part for word in words for part in words_of(word)}
    nothing = bool(words) and not wanted
    expected = wanted <= has and any(
        word.startswith(prefix) for word in (*has, *[""] * (not prefix))
    )
    assert matches(filename, words, prefix) == (expected and not nothing)

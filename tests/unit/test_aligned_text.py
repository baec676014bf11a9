"""A rewritten text that knows what it came from."""

from __future__ import annotations

import pickle
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech.aligned_text import AlignedText

TEXTS = st.text(st.sampled_from("ab1 ,.*$é\u0301ｶﾞ½你ﬁ\n"), max_size=30)


def came_from(text: AlignedText, source: str) -> list[str]:
    """Return what each character came from."""
    return [source[slice(*(text.source(at, at + 1) or (0, 0)))] for at in range(len(text))]


def test_what_is_the_same_keeps_its_source_and_the_rest_came_from_the_rest():
    source = "It costs $5."
    said = AlignedText.of(source).sub(r"\$(\d)", r"\1 dollars")
    assert said == "It costs 5 dollars." and said.source(9, 18) == (9, 11)
    assert came_from(said, source)[:9] == list("It costs ") and came_from(said, source)[-1] == "."


def test_words_that_a_match_shares_with_its_replacement_keep_their_source():
    source = "**two words** here"
    plain = AlignedText.of(source).sub(r"\*\*(.+?)\*\*", r"\1")
    assert plain == "two words here" and (plain.source(0, 3), plain.source(4, 9)) == ((2, 5), (6, 11))
    money = AlignedText.of("$2 million more").sub(r"\$(\d) million", r"\1 million dollars")
    assert (money.source(0, 1), money.source(2, 9)) == ((1, 2), (3, 10))


def test_a_foreign_rule_is_aligned_by_the_words_it_left():
    source = "Dr. Smith came on March 3, 2024."
    said = AlignedText.of(source).changed_to("Doctor Smith came on March third, 2024.")
    assert said.source(0, 6) == (0, 3) and said.source(7, 12) == (4, 9)
    assert source[slice(*said.source(27, 32))] == "3" and source[slice(*said.source(34, 38))] == "2024"


def test_what_came_from_nothing_says_so():
    assert AlignedText.joined(["a", "b"], " ").source() is None
    assert AlignedText.of("").source() is None
    grown = AlignedText.of("a").sub("$", "!")
    assert grown == "a!" and grown.source(0, 1) == (0, 1)


def test_it_travels_as_a_plain_text():
    copy = pickle.loads(pickle.dumps(AlignedText.of("one two")[4:]))
    assert copy == "two" and type(copy) is str


@given(TEXTS, st.integers(0, 30), st.integers(0, 30))
def test_slices_and_strips_stay_where_they_were(text, start, end):
    part = AlignedText.of(text)[start:end]
    assert part == text[start:end] and part.strip() == text[start:end].strip()
    for made in (part, part.strip()):
        assert came_from(made, text) == list(made)


@given(TEXTS)
@pytest.mark.parametrize("form", ["NFC", "NFKC"])
def test_normal_forms_are_pythons_own(form, text):
    made = AlignedText.of(text).normalized(form)
    assert made == unicodedata.normalize(form, text)
    for at, char in enumerate(made):
        assert char in unicodedata.normalize(form, came_from(made, text)[at]), "it came from what makes it"


@given(
    TEXTS,
    st.sampled_from([r"\*", r"[a-z]+", r"(\d)", r"\s+", r"(?=a)", r"b*"]),
    st.sampled_from(["", "x", "12 ", r"\\"]),
)
def test_a_replacement_is_that_of_re(text, pattern, new):
    made = AlignedText.of(text).sub(pattern, new)
    assert made == re.sub(pattern, new, text)
    starts = [made.source(at, at + 1) for at in range(len(made))]
    known = [span for span in starts if span]
    assert known == sorted(known), "in the order in which it was written"


@given(TEXTS, TEXTS)
def test_a_foreign_text_is_kept_whatever_it_is(text, new):
    assert AlignedText.of(text).changed_to(new) == new


def test_only_whole_replacements():
    with pytest.raises(TypeError, match="all, or none"):
        AlignedText.of("aa").replace("a", "b", 1)
    assert AlignedText.of("AbC").lower().translate({ord("b"): "xy"}) == "axyc"


def test_a_span_of_the_source_is_found_again():
    plain = AlignedText.of("a **bold** word").sub(r"\*\*", "")
    assert plain[slice(*plain.made_from(4, 8))] == plain[slice(*plain.made_from(2, 10))] == "bold"
    start, end = plain.made_from(2, 4)
    assert start == end == 2, "nothing is left of the signs"

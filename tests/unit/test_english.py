"""Plain English, as far as a program can check it: length of sentences, first words of docstrings."""

import re
import statistics

import pytest

from cluster.ray_head import ROOT
from tests.helpers.prose import docstrings, sentences, words

#: words in a sentence: on average over a document, and at most
AVERAGE, MOST = 20, 30
#: still to be mended; a name goes from here with its last finding
NOT_YET: set[str] = set()
DOCUMENTS = sorted(
    file for file in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")) if not file.name.endswith(".zh-CN.md")
)
ROOMS = "access bench cluster config deployments engines speech tests tracing voices watchdog webui".split()
#: first words that make a relative clause or an answer to a question out of what should be a sentence
FRAGMENT = re.compile(r"(?:What|Whether|Whose|Who|Where|Of|Which|One's)\b(?![^.]*\?)|One [a-z]+'s\b")


def pending(value: object, name: str):
    marks = [pytest.mark.xfail(reason="sentences still to be mended")] if name in NOT_YET else []
    return pytest.param(value, id=name, marks=marks)


@pytest.mark.parametrize("document", [pending(file, file.name) for file in DOCUMENTS])
def test_sentences_are_short(document):
    lengths = {sentence: len(words(sentence)) for sentence in sentences(document.read_text())}
    longest = [f"{length} words: {sentence}" for sentence, length in lengths.items() if length > MOST]
    assert not longest, f"{len(longest)} sentences of {document.name} are too long:\n" + "\n".join(longest)
    prose = [length for sentence, length in lengths.items() if sentence.rstrip("*_)”\"'").endswith((".", "!", "?"))]
    assert not prose or statistics.mean(prose) <= AVERAGE


@pytest.mark.parametrize("room", [pending(room, room) for room in ROOMS])
def test_a_docstring_opens_with_a_sentence(room):
    fragments = [
        f"{file.relative_to(ROOT)}:{line}: {first}"
        for file in sorted((ROOT / room).rglob("*.py"))
        for line, first in docstrings(file)
        if FRAGMENT.match(first)
    ]
    assert not fragments, "\n".join(fragments)


def test_units_and_sentences_are_found():
    paragraph = "One sentence goes\non. Another, see [the page](a.md). It says `x. Y`.\n"
    text = f"# A heading\n\n{paragraph}\n- an item\n  of two lines\n\n```\nNo. Prose.\n```\n"
    assert sentences(f"{text}\n| a cell | Two. Three. |\n|---|---|\n") == [
        "A heading",
        "One sentence goes on.",
        "Another, see the page.",
        "It says CODE.",
        "an item of two lines",
        "a cell",
        "Two.",
        "Three.",
    ]


@pytest.mark.parametrize(
    "first, is_fragment",
    [
        ("Whether the clip is long enough.", True),
        ("What is left of it.", True),
        ("Of one Prometheus.", True),
        ("One caller's share.", True),
        ("Return the share of one caller.", False),
        ("One request is one trace.", False),
        ("Does the served voice follow the reference?", False),
    ],
)
def test_a_fragment_is_told_from_a_sentence(first, is_fragment):
    assert bool(FRAGMENT.match(first)) == is_fragment

"""Subtitles of timed words: cues that can be read, in files that players take."""

from __future__ import annotations

import re

import pytest

from cluster.subtitles import LINES, LONGEST_S, Cue, cues, srt, vtt
from speech.words import Word


def spoken(text: str, each_s: float = 0.4, pauses: dict[int, float] | None = None) -> list[Word]:
    """Return the words of a text, each as long; `pauses` come before the words with these numbers."""
    found, at = [], 0.0
    for number, match in enumerate(re.finditer(r"[\w$&<>'/-]+", text)):
        at += (pauses or {}).get(number, 0.0)
        found.append(Word(match[0], *match.span(), at, at + each_s))
        at += each_s
    return found


def test_a_cue_ends_with_its_sentence_and_keeps_its_punctuation():
    text = 'She said: "Stop!" Then (at last) he left.'
    found = cues(spoken(text), text)
    assert [cue.text for cue in found] == ['She said: "Stop!"', "Then (at last) he left."]
    assert [(cue.start_s, cue.end_s) for cue in found] == [
        (0.0, pytest.approx(1.2)),
        (pytest.approx(1.2), pytest.approx(3.2)),
    ]


def test_the_full_stop_of_an_abbreviation_ends_no_cue():
    text = "Ask Dr. Smith. He knows."
    words = [word if word.text != "Dr" else Word("Dr.", 4, 7, word.start_s, word.end_s) for word in spoken(text)]
    assert [cue.text for cue in cues(words, text)] == ["Ask Dr. Smith.", "He knows."]


def test_a_pause_ends_a_cue():
    text = "one two three four"
    assert [cue.text for cue in cues(spoken(text, pauses={2: 1.0}), text)] == ["one two", "three four"]


def test_long_sentences_are_cut_to_what_can_be_read():
    text = "and then the " * 40
    found = cues(spoken(text, 0.3), text)
    assert " ".join(" ".join(cue.text.split()) for cue in found) == text.strip()
    for cue in found:
        lines = cue.text.split("\n")
        assert len(lines) <= LINES and all(len(line) <= 42 for line in lines)
        assert cue.end_s - cue.start_s <= LONGEST_S
    for before, after in zip(found, found[1:], strict=False):
        assert before.end_s <= after.start_s


def test_a_character_of_east_asia_takes_two_columns():
    text = "今天天气很好我们一起去公园散步然后回家吃饭看电视节目睡觉" * 2
    words = [Word(char, at, at + 1, at * 0.1, at * 0.1 + 0.1) for at, char in enumerate(text)]
    found = cues(words, text)
    assert "".join(cue.text.replace("\n", "") for cue in found) == text
    assert all(len(line) <= 21 for cue in found for line in cue.text.split("\n"))


def test_a_short_cue_stays_a_moment_but_never_over_the_next():
    text = "No. Yes indeed."
    first, second = cues(spoken(text, 0.2), text)
    assert first.end_s == second.start_s == pytest.approx(0.2)
    assert second.end_s - second.start_s == pytest.approx(0.7)


def timed(text: str, heard: str) -> list[Word]:
    """Return the words of `heard`, between bars, each at its place in the text."""
    found, at = [], 0
    for number, word in enumerate(heard.split("|")):
        at = text.index(word, at)
        found.append(Word(word, at, at + len(word), number * 0.4, number * 0.4 + 0.4))
        at += len(word)
    return found


MARKUP = {
    "pauses": ("Hello there. [pause:2s] Next one,[pause:1s] go [pause:1s]!", "Hello|there|Next|one|go"),
    "a pause without spaces": ("Wait[pause:500ms]here, 一［pause：2s］二", "Wait|here|一|二"),
    "emphasis": ("Now **Next** one, *today* ~~or~~ `never`.", "Now|Next|one|today|or|never"),
    "links": (
        "Use [this](https://a.b/c?d=[x]) or <https://e.f>: see[^1] ![it](g.png)!",
        "Use|this|or|https://e.f|see|it",
    ),
    "a table": ("| a | b |\n|---|---|\n| one | two |", "a|b|one|two"),
    "blocks": ("# Title\n\n- [x] first\n> second\n```python\nthird\n```", "Title|first|second|third"),
    "escapes": ("A \\# and 1\\. b", "A|and|b"),
    "tags": ("Oh [laughter] <strong>it</strong> <laughter>is</laughter> so [breath].", "Oh|it|is|so"),
    "a tag at both ends": ("[breath] Well [sigh]", "Well"),
    "pronunciations": ("I read[R][EH1][D] it, 爱好[h][ào]很多, 行[háng]", "I|read|it|爱好|很多|行"),
    "pronunciations that stand alone": ("Say [R][EH1][D] 报道[j][ǐ]予", "Say|[R][EH1][D]|报道|[j][ǐ]|予"),
    "brackets that are spoken": ("He [sic] said [see below] [B2] a [chapter]", "He|sic|said|see|below|B2|a|chapter"),
    "a pause in emphasis": ("**Bold [pause:100ms] words** here", "Bold|words|here"),
}
SHOWN = {
    "pauses": "Hello there.|Next one, go!",
    "a pause without spaces": "Wait here, 一二",
    "emphasis": "Now Next one, today or never.",
    "links": "Use this or https://e.f: see it!",
    "a table": "a, b|one, two",
    "blocks": "Title|first second|third",
    "escapes": "A # and 1.|b",
    "tags": "Oh it is so.",
    "a tag at both ends": "Well",
    "pronunciations": "I read it, 爱好很多, 行",
    "pronunciations that stand alone": "Say REH1D 报道jǐ予",
    "brackets that are spoken": "He [sic] said [see below] [B2] a [chapter]",
    "a pause in emphasis": "Bold words here",
}


@pytest.mark.parametrize("form", [srt, vtt])
@pytest.mark.parametrize("kind", MARKUP)
def test_what_is_not_said_is_not_shown(kind, form):
    text, heard = MARKUP[kind]
    blocks = form(cues(timed(text, heard), text)).removeprefix("WEBVTT\n\n").strip().split("\n\n")
    shown = [" ".join(block[block.index("-->") :].split("\n")[1:]) for block in blocks]
    assert "|".join(shown) == SHOWN[kind]


def test_parts_are_shown_without_markup_too():
    """An engine that knows no words tells where its pieces are."""
    text = "**One** read[R][EH1][D] [pause:1s] it. [breath] <strong>Two</strong> [sic] and [so](http://a.b)."
    at = [0, text.index(" [pause"), text.index("it."), text.index(" [breath]"), text.index("[breath]"), len(text)]
    words = [
        Word(text[start:end], start, end, number * 2, number * 2 + 1.0)
        for number, (start, end) in enumerate(zip(at[::2], at[1::2], strict=True))
    ]
    assert [cue.text for cue in cues(words, text)] == ["One read", "it.", "Two [sic] and so."]


def test_what_leaves_nothing_to_show_makes_no_cue():
    words = [Word("~~~ a", 0, 5, 0.0, 1.0)]
    assert cues(words, "~~~ a") == []


def test_webvtt_is_escaped_and_subrip_is_numbered():
    found = [Cue("a < b & c --> d", 0.0, 3661.2345), Cue("two", 3662.0, 3663.0)]
    assert vtt(found) == (
        "WEBVTT\n\n00:00:00.000 --> 01:01:01.234\na &lt; b &amp; c --&gt; d\n\n01:01:02.000 --> 01:01:03.000\ntwo\n\n"
    )
    assert srt(found).startswith("1\n00:00:00,000 --> 01:01:01,234\na < b & c → d\n\n2\n01:01:02,000 --> ")


def test_no_words_make_an_empty_file():
    assert vtt(cues([], "")) == "WEBVTT\n\n" and srt(cues([], "")) == ""

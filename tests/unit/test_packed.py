"""Dictionaries in little memory answer as the dicts that they were made from."""

import random
import string
import subprocess
import sys

import pytest

from engines.embedded.text.packed import Counts, Phrases, Readings, Weights, Words


@pytest.fixture
def words():
    chance = random.Random(0)
    letters = string.ascii_letters + "äß" + "".join(map(chr, range(0x4E00, 0x5500))) + "𠀀𠀁"
    return sorted({"".join(chance.choices(letters, k=chance.randint(1, 6))) for _ in range(20_000)})


def test_counts(words):
    known = {word: index for index, word in enumerate(words)}
    packed = Counts(known)
    assert len(packed) == len(known)
    assert all(word in packed and packed[word] == packed.get(word) == count for word, count in known.items())
    for word in ("", "no word", words[0] + "#"):
        assert word not in packed and packed.get(word) is None and packed.get(word, 7) == 7
        with pytest.raises(KeyError):
            packed[word]


def test_words_whose_strings_have_the_same_hash_stay_apart():
    """Python hashes a string's bytes in memory, which are the same for 偂 and BP, 偉 and IP."""
    assert hash("偂") == hash("BP")
    packed = Counts({"偂": 1, "BP": 2})
    assert packed["偂"] == 1 and packed["BP"] == 2
    assert "偉" not in Counts({"IP": 1})


def test_words_with_the_same_hash_are_refused(monkeypatch):
    monkeypatch.setattr("engines.embedded.text.packed._hash", len)
    with pytest.raises(ValueError, match="same hash"):
        Words({"one", "two"})


def test_readings_with_and_without_parts_of_speech(words):
    known: dict = {word: word[::-1] + "ˈæ" for word in words}
    known |= {"read": {"DEFAULT": "ɹˈid", "VBD": "ɹˈɛd", "NOUN": None}, "mute": ""}
    packed = Readings(known)
    assert all(packed.get(word) == reading for word, reading in known.items())
    assert packed.get("no word") is None and packed.get("no word", "x") == "x"


def test_weights_are_the_same_numbers_in_the_same_order(words):
    chance = random.Random(1)
    tags = ["NN", "VB", "JJ", "$"]
    known = {word: {tag: chance.gauss(0, 10) for tag in chance.sample(tags, 3)} for word in words[:3000]}
    packed = Weights(known)
    assert all(list(packed.get(word).items()) == list(row.items()) for word, row in known.items())
    assert packed.get("no word") is None


def test_phrases_and_their_prefixes():
    known = {"银行": [["yín"], ["háng"]], "那些": [["nà", "nèi"], ["xiē"]]}
    packed = Phrases(known)
    assert all(phrase in packed and packed[phrase] == readings for phrase, readings in known.items())
    assert len(packed) == 2 and "银" not in packed
    with pytest.raises(KeyError):
        packed["行人"]
    words = Words({"银", "银行"})
    assert "银" in words and "银行" in words and "行" not in words


def test_packing_changes_no_reading():
    """In a process of its own: whoever imports pypinyin first in this one may have packed it."""
    script = """
import random, pypinyin
from pypinyin.phrases_dict import phrases_dict
from engines.embedded.text import pinyin_dictionary
chance = random.Random(4)
phrases = sorted(phrases_dict)
texts = [chance.choice(phrases) for _ in range(2000)]
texts += ["".join(chance.sample(phrases, 3)) for _ in range(1000)]
texts += ["".join(chance.choice("".join(phrases[:9000])) for _ in range(6)) for _ in range(1000)]
def all_readings():
    style = pypinyin.Style.TONE3
    return [(pypinyin.lazy_pinyin(t, style=style), pypinyin.pinyin(t, style=style, heteronym=True)) for t in texts]
before = all_readings()
pinyin_dictionary.load()
assert type(pypinyin.constants.PHRASES_DICT).__name__ == "Phrases"
assert all_readings() == before
print("the same")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "the same\n", done.stderr

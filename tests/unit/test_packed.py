"""Dictionaries in little memory answer as the dicts that they were made from."""

import random
import string

import pytest

from engines.embedded.text.packed import Counts, Readings, Weights


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

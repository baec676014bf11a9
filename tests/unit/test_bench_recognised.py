"""Recognised again: one notation for text and transcript, and a run that was cut off goes on where it stopped."""

import json

import pytest

from bench import recognised
from bench.measuring.notation import characters, syllables


@pytest.mark.parametrize(
    "said, heard",
    [
        ("她把它放在桌子上。", "他把他放在桌子上"),
        ("我已经读了三遍。", "我已經讀了3遍"),
        ("他跑得快。", "他跑的快"),
    ],
)
def test_what_cannot_be_heard_is_no_error_in_mandarin(said, heard):
    assert characters(said, "zh") == characters(heard, "zh")


@pytest.mark.parametrize("said, heard", [("你好", "您好"), ("那里", "哪里"), ("四十", "十四"), ("买东西", "卖东西")])
def test_what_can_be_heard_stays_an_error_in_mandarin(said, heard):
    assert characters(said, "zh") != characters(heard, "zh")
    assert syllables(said) != syllables(heard)


def test_homophones_are_errors_of_characters_and_not_of_syllables():
    assert characters("请坐", "zh") != characters("请座", "zh")
    assert syllables("请坐") == syllables("请座")


@pytest.mark.parametrize(
    "said, heard",
    [
        ("毎朝六時に起きます。", "毎朝6時に起きます"),
        ("傘を忘れました。", "かさを忘れました"),
        ("映画を見ました。", "映画をみました"),
    ],
)
def test_kanji_digits_and_kana_are_one_notation_in_japanese(said, heard):
    assert characters(said, "ja") == characters(heard, "ja")


def test_another_sound_stays_an_error_in_japanese():
    assert characters("橋を渡る", "ja") != characters("足を渡る", "ja")


def test_there_are_fifty_different_sentences_of_each_language():
    for language in ("zh", "ja"):
        assert len(set(recognised.sentences(language))) == len(recognised.sentences(language)) == 50


def test_a_run_that_was_cut_off_goes_on_where_it_stopped(tmp_path):
    file, asked = tmp_path / "kept.jsonl", []
    wanted = [("zh", "stock", text) for text in ("一", "二", "三")]

    def heard(sentence, language, voice):
        if sentence == "三" and len(asked) < 3:
            asked.append("cut off")
            raise KeyboardInterrupt
        asked.append(sentence)
        return sentence * 2

    with pytest.raises(KeyboardInterrupt):
        list(recognised.transcripts(wanted, file, "1", heard))
    assert list(recognised.transcripts(wanted, file, "1", heard)) == [(key, key[2] * 2) for key in wanted]
    assert asked == ["一", "二", "cut off", "三"], "each sentence once"
    assert len(file.read_text(encoding="utf-8").splitlines()) == 3
    list(recognised.transcripts(wanted[:1], file, "2", heard))
    assert asked[-1] == "一", "another version of the engine is heard anew"


def test_the_summary_counts_characters_and_names_what_went_wrong():
    row = recognised.summary("zh", "stock", [("请坐下。", "请座下"), ("你好。", "你好")])
    assert row["characters"] == 5 and row["cer"] == 0.2 and row["syllable_error_rate"] == 0
    assert row["wrong"] == [{"said": "请坐下。", "heard": "请座下", "errors": 1, "of other sound": 0}]
    json.dumps(row)

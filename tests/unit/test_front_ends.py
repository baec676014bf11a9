"""The text front ends on real libraries: what is said, checked by phonemes that are linguistically right."""

import logging
import socket
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.embedded.text import MAX_IDS, check, load
from engines.embedded.text.pinyin import phonemes as sound
from engines.embedded.text.pinyin import syllable
from speech.errors import InvalidInput, SpeechError
from speech.text import check_text

DIALECTS = (("en", "en-US"), ("en", "en-GB"), ("zh", "zh-CN"), ("ja", "ja-JP"))


@pytest.fixture(scope="module")
def front_end():
    """Loaded and used without a network: a front end that wanted to download anything would fail here."""
    blocked = pytest.MonkeyPatch()

    def refuse(*_args, **_kwargs):
        raise AssertionError("a front end opened a network connection")

    blocked.setattr(socket.socket, "connect", refuse)
    blocked.setattr(socket, "getaddrinfo", refuse)
    yield load()
    blocked.undo()


@pytest.fixture
def us(front_end):
    return lambda text: front_end.phonemes(text, "en", "en-US")


@pytest.fixture
def gb(front_end):
    return lambda text: front_end.phonemes(text, "en", "en-GB")


@pytest.fixture
def zh(front_end):
    return lambda text: front_end.phonemes(text, "zh", "zh-CN")


@pytest.fixture
def ja(front_end):
    return lambda text: front_end.phonemes(text, "ja", "ja-JP")


def pinyin(text):
    """Kokoro phonemes of spaced pinyin: `ni2 hao3`; the words' own spacing is left to `said`."""
    return "".join(sound(reading) for reading in text.split())


def sounds(phonemes):
    """Without stress and full stops: "point" inside a number has none."""
    return phonemes.translate(str.maketrans("", "", "ˈˌ."))


def said(phonemes):
    return phonemes.replace(" ", "")


def refused(speak, text):
    with pytest.raises(InvalidInput) as caught:
        speak(text)
    assert caught.value.param == "text"
    return caught.value


# English


def test_homographs_follow_their_context(us):
    assert us("I read it yesterday.").split()[1] == "ɹˈɛd"
    assert us("I will read it.").split()[2] == "ɹˈid"
    assert us("The wind will wind.").split()[1::2] == ["wˈɪnd", "wˈInd."]


def test_british_english_is_another_reading_and_not_another_label(us, gb):
    assert us("tomato") == "təmˈATO" and gb("tomato") == "təmˈɑːtQ"
    assert us("car").endswith("ɹ") and not gb("car").endswith("ɹ")
    assert us("schedule").startswith("sk") and gb("schedule").startswith("ʃ")


@pytest.mark.parametrize(
    "written, spoken",
    [
        ("3.5 kg", "three point five kilograms"),
        ("1 m", "one meter"),
        ("5 m²", "five square meters"),
        ("1 m³", "one cubic meter"),
        ("-5 °C", "minus five degrees Celsius"),
        ("20%", "twenty percent"),
        ("$12.50", "twelve dollars and fifty cents"),
        ("2.4 GHz", "two point four gigahertz"),
        ("e.g. this", "for example this"),
        ("3:05 PM", "three oh five P.M."),
        ("21st", "twenty first"),
        ("Dr. Smith", "Doctor Smith"),
        ("１０", "ten"),
        ("ﬁne", "fine"),
        ("½ cup", "one half cup"),
        ("β = 2", "beta equals two"),
        ("①", "one"),
        ("the '90s", "the nineties"),
        ("the 1990s", "the nineteen nineties"),
        ("24/7", "twenty four seven"),
        ("me@x.org", "me at x dot org"),
        ("https://www.a-b.com/c", "W W W dot a dash b dot com slash c"),
        ("10 s", "ten seconds"),
        ("5 km³", "five cubic kilometers"),
        ("the U.S.A.", "the USA"),
        ("[see below]", "see below"),
    ],
)
def test_english_numbers_units_and_signs_are_words(us, written, spoken):
    assert sounds(us(written)) == sounds(us(spoken))


def test_a_british_date_has_its_day_first(us, gb):
    assert "mˈɑɹʧ fˈɔɹθ" in us("3/4/2026")
    assert gb("3/4/2026") == gb("the third of April 2026")


def test_a_long_code_is_read_digit_by_digit(us):
    assert us("1" * 40).split() == ["wˈʌn"] * 40


def test_cmu_phones_replace_the_word_before_them_or_stand_alone(us, gb):
    assert us("I read[R][IY1][D] it") == us("I read it").replace("ɹˈɛd", "ɹˈid")
    assert us("[T][AH0][M][AA1][T][OW0]") == "təmˈɑtO"
    assert gb("[G][OW1]") == "ɡˈQ"
    assert us("[G][OW]") == "ɡˈO"


# Mandarin


@pytest.mark.parametrize(
    "text, reading",
    [
        ("你好", "ni2 hao3"),
        ("不是", "bu2 shi4"),
        ("不好", "bu4 hao3"),
        ("一个", "yi2 ge5"),
        ("一天", "yi4 tian1"),
        ("一样", "yi2 yang4"),
        ("第一", "di4 yi1"),
        ("十一个", "shi2 yi1 ge5"),
        ("一月一号", "yi1 yue4 yi1 hao4"),
        ("星期一", "xing1 qi1 yi1"),
        ("看一看", "kan4 yi5 kan4"),
        ("看不懂", "kan4 bu5 dong3"),
        ("好不好", "hao3 bu5 hao3"),
        ("展览馆", "zhan2 lan2 guan3"),
        ("我很好", "wo3 hen2 hao3"),
        ("我很喜欢", "wo3 hen2 xi3 huan5"),
        ("老板有", "lao2 ban2 you3"),
        ("妈妈", "ma1 ma5"),
        ("朋友", "peng2 you5"),
        ("桌子", "zhuo1 zi5"),
        ("我们的", "wo3 men5 de5"),
    ],
)
def test_tone_sandhi_and_light_tones(zh, text, reading):
    assert said(zh(text)) == pinyin(reading)


@pytest.mark.parametrize(
    "text, reading",
    [
        ("讲过去的故事", "jiang3 guo4 qu4 de5 gu4 shi5"),
        ("在过去", "zai4 guo4 qu4"),
        ("过去他很穷", "guo4 qu4 ta1 hen3 qiong2"),
        ("忘记过去", "wang4 ji4 guo4 qu4"),
        ("走过去", "zou3 guo4 qu5"),
        ("走过去的人", "zou3 guo4 qu5 de5 ren2"),
        ("时间过去了", "shi2 jian1 guo4 qu5 le5"),
        ("你过去看看", "ni3 guo4 qu5 kan4 kan4"),
    ],
)
def test_the_past_has_a_full_tone_and_going_by_a_light_one(zh, text, reading):
    assert said(zh(text)) == pinyin(reading)


def test_a_pause_keeps_third_tones_apart(zh):
    assert said(zh("你, 好")) == pinyin("ni3") + "," + pinyin("hao3")


@pytest.mark.parametrize(
    "text, reading",
    [
        ("银行行长", "yin2 hang2 hang2 zhang3"),
        ("重庆很重要", "chong2 qing4 hen3 zhong4 yao4"),
        ("他还没还钱", "ta1 hai2 mei2 huan2 qian2"),
        ("还给你留了一份", "hai2 gei2 ni3 liu2 le5 yi2 fen4"),
        ("还给你", "huan2 gei2 ni3"),
        ("音乐快乐", "yin1 yue4 kuai4 le4"),
        ("他跑得快", "ta1 pao3 de5 kuai4"),
        ("我得走了", "wo3 dei2 zou3 le5"),
        ("觉得", "jue2 de5"),
        ("只有一只猫", "zhi2 you3 yi4 zhi1 mao1"),
        ("慢慢地走", "man4 man4 de5 zou3"),
        ("在地上", "zai4 di4 shang5"),
        ("头发发展", "tou2 fa5 fa1 zhan3"),
        ("他长得很高", "ta1 zhang3 de5 hen3 gao1"),
        ("这条路很长", "zhe4 tiao2 lu4 hen3 chang2"),
        ("睡觉", "shui4 jiao4"),
        ("处处处理", "chu4 chu4 chu2 li3"),
        ("銀行頭髮", "yin2 hang2 tou2 fa5"),
        ("女儿绿", "nv3 er2 lv4"),
        ("两只狗", "liang3 zhi1 gou3"),
        ("你得努力", "ni3 dei2 nu3 li4"),
        ("玩儿", "wan2 er5"),
        ("略", "lve4"),
    ],
)
def test_characters_with_several_readings(zh, text, reading):
    assert said(zh(text)) == pinyin(reading)


@pytest.mark.parametrize(
    "written, spoken",
    [
        ("2026年11月22日", "二零二六年十一月二十二日"),
        ("2026-11-22", "二零二六年十一月二十二日"),
        ("3.5 kg", "三点五千克"),
        ("3.5公斤", "三点五公斤"),
        ("2个人", "两个人"),
        ("2月2日", "二月二日"),
        ("22个", "二十二个"),
        ("第2个", "第二个"),
        ("2000人", "两千人"),
        ("12,345", "一万二千三百四十五"),
        ("10005", "一万零五"),
        ("15%", "百分之十五"),
        ("-3°C", "零下三摄氏度"),
        ("25℃", "二十五摄氏度"),
        ("¥12.5", "十二点五元"),
        ("$5万", "五万美元"),
        ("10:05", "十点零五分"),
        ("14:00", "十四点"),
        ("3/4", "四分之三"),
        ("3-5天", "三到五天"),
        ("100 m²", "一百平方米"),
        ("60km/h", "六十公里每小时"),
        ("13812345678", "幺三八幺二三四五六七八"),
        ("007", "零零七"),
        ("3+2=5", "三加二等于五"),
        ("第2", "第二"),
        ("３．５", "三点五"),
        ("1.2.3", "一点二点三"),
        ("3:2", "三比二"),
        ("2:30", "两点三十分"),
        ("20年", "二十年"),
        ("302室", "三零二室"),
        ("邮编100871", "邮编一零零八七一"),
        ("比分102-98", "比分一百零二比九十八"),
        ("拨打110", "拨打幺幺零"),
    ],
)
def test_chinese_numbers_units_and_signs_are_words(zh, written, spoken):
    assert said(zh(written)) == said(zh(spoken))


def test_pinyin_in_brackets_sets_the_reading_of_the_character_before(zh):
    assert said(zh("他好学")) != said(zh("他好[h][ǎo]学"))
    assert said(zh("爱好[h][ào]")) == pinyin("ai4 hao4")
    assert said(zh("爱好[h][ǎo]")) == pinyin("ai4 hao3")


def test_pinyin_in_brackets_stands_for_a_character_that_was_left_out(zh):
    assert said(zh("报道[j][ǐ]予好评")) == pinyin("bao4 dao4 ji3 yu2 hao3 ping2")


@pytest.mark.parametrize(
    "written, reading",
    [
        ("爱[ài]", "ai4"),
        ("吗[m][a]", "ma5"),
        ("绿[l][ǜ]", "lv4"),
        ("绿[l][v4]", "lv4"),
        ("我[w][ǒ]", "wo3"),
        ("我[uǒ]", "wo3"),
        ("好[hào]", "hao4"),
        ("好[hao4]", "hao4"),
        ("去[q][ù]", "qu4"),
        ("去[q][ǜ]", "qu4"),
        ("一[y][ì]", "yi4"),
        ("会[h][uèi]", "hui4"),
        ("[d][e]", "de5"),
    ],
)
def test_forms_of_pinyin(zh, written, reading):
    assert said(zh(written)) == pinyin(reading)


def test_a_given_reading_is_kept_and_its_neighbours_adapt(zh):
    assert said(zh("你好[h][ǎo]")) == pinyin("ni2 hao3")
    assert said(zh("你[n][ǐ]好")) == pinyin("ni3 hao3")


def test_every_syllable_of_mandarin_is_in_the_vocabulary(front_end):
    from pypinyin.constants import PINYIN_DICT

    from engines.embedded.text.pinyin import SYLLABLES, _untoned

    read = {_untoned(reading)[0] for readings in PINYIN_DICT.values() for reading in readings.split(",")}
    assert SYLLABLES == read - {""} and len(SYLLABLES) > 400
    for plain in SYLLABLES:
        for tone in "12345":
            assert set(sound(plain + tone)) <= set(front_end.vocabulary), plain


@pytest.mark.parametrize(
    "initial, final, expected",
    [
        ("h", "ào", "hao4"),
        ("", "a", "a5"),
        ("n", "ǚ", "nv3"),
        ("j", "ü", "ju5"),
        ("b", "ua", None),
        ("", "sic", None),
        ("", "", None),
        ("zh", "ī", "zhi1"),
    ],
)
def test_reading_pinyin(initial, final, expected):
    assert syllable(initial, final) == expected


# Japanese


@pytest.mark.parametrize(
    "text, phonemes",
    [
        ("こんにちは", "koɲɲiʨiβa"),
        ("東京", "toːkʲoː"),
        ("一人で", "çitoɾʲi de"),
        ("3本のペン", "saɴ boɴ no peɴ"),
        ("ｶﾞｯｺｳ", "ɡaʔkoː"),
        ("今日", "kʲoː"),
    ],
)
def test_japanese_words(ja, text, phonemes):
    assert ja(text) == phonemes


@pytest.mark.parametrize(
    "written, spoken",
    [
        ("3.5 kg", "三点五キログラム"),
        ("2026-11-22", "2026年11月22日"),
        ("10:30", "10時30分"),
        ("$5", "5ドル"),
        ("1,000円", "千円"),
        ("20%", "20パーセント"),
        ("-3℃", "マイナス3度"),
        ("100 m²", "百平方メートル"),
        ("007", "ゼロゼロナナ"),
        ("1/2", "二分の一"),
    ],
)
def test_japanese_numbers_units_and_signs_are_words(ja, written, spoken):
    assert said(ja(written)) == said(ja(spoken))


def test_kanji_are_read_in_the_language_of_the_request(ja, zh):
    assert said(ja("日本")) == "ɲihoɴ" and said(zh("日本")) == pinyin("ri4 ben3")


# Mixed


def test_latin_words_in_chinese_and_japanese_are_english(zh, ja, us):
    assert us("Python") in zh("我用Python写代码。") and us("Python") in ja("Pythonのコード")
    assert zh("A股").startswith("ˈA ")  # a letter, and no article
    assert zh("C919").split() == [us("C"), *zh("九 一 九").split()]
    assert us("New York") in zh("他在New York工作")


def test_chinese_and_japanese_in_english_are_spoken_as_such(us, zh, ja):
    assert zh("你好") in us("He said 你好 to me.")
    assert said(zh("2026年")) in said(us("in 2026年 there"))
    assert ja("さくら") in us("called さくら here")
    assert ja("日本語") in us("the 日本語の word")


def test_numbers_belong_to_the_language_of_the_request(zh, us):
    assert said(zh("三")) in said(zh("GPT 3")) and us("three") in us("GPT 3")


# Refusals


@pytest.mark.parametrize(
    "text",
    [
        "Hello [laughter] there",
        "[breath]",
        "a <strong>big</strong> one",
        "x <laughter>y</laughter>",
        "[Sigh] no",
        "</b>",
    ],
)
def test_tags_are_refused_and_never_read_aloud(us, zh, text):
    for speak in (us, zh):
        error = refused(speak, text)
        assert error.code == "text_tag_unsupported" and "爱好[h][ào]" in error.message


@pytest.mark.parametrize(
    "text, position",
    [
        ("好[h]", 2),
        ("好[h][xx]", 2),
        ("[Q][W]", 1),
        ("好[b][ua]", 2),
        ("[S][T]", 1),
        ("[h] [ào]", 1),
    ],
)
def test_a_malformed_pronunciation_says_where_and_how(zh, text, position):
    error = refused(zh, text)
    assert error.code == "text_pronunciation"
    assert f"character {position} " in error.message and "[R][EH1][D]" in error.message


@pytest.mark.parametrize(
    "written, spoken",
    [
        ("He said [sic] so.", "He said sic so."),
        ("Thus [Editor] says.", "Thus Editor says."),
        ("Then [she] left.", "Then she left."),
        ("Take option [B].", "Take option B."),
        ("As shown [1].", "As shown one."),
        ("As shown [1][2].", "As shown one two."),
    ],
)
def test_brackets_that_are_no_pronunciation_are_text(us, written, spoken):
    assert sounds(us(written)) == sounds(us(spoken))


@pytest.mark.parametrize("written, spoken", [("请看图[A]。", "请看图 A。"), ("他说[原文]如此。", "他说 原文 如此。")])
def test_brackets_in_chinese_that_are_no_pronunciation_are_text(zh, written, spoken):
    assert said(zh(written)) == said(zh(spoken))


@pytest.mark.parametrize("text", ["Привет", "Hello мир", "안녕하세요", "مرحبا", "สวัสดี", "ㄅㄆ"])
def test_other_scripts_are_refused_rather_than_left_out(us, text):
    assert refused(us, text).code == "text_script_unsupported"


@pytest.mark.parametrize("text", ["...", "😀", "—", "()", "?!", "\u0301", "“”"])
def test_nothing_speakable(us, zh, ja, text):
    for speak in (us, zh, ja):
        assert refused(speak, text).code == "text_not_speakable"


def test_a_character_without_a_known_reading_is_refused_unless_it_is_given(zh):
    assert refused(zh, "𠮷").code == "text_no_reading"
    assert said(zh("[j][í]野家")) == pinyin("ji2 ye3 jia1")


def test_a_script_of_a_language_that_is_not_loaded_is_refused():
    only_english = load(["en"])
    with pytest.raises(InvalidInput, match="Latin letters"):
        only_english.phonemes("He said 你好", "en", "en-US")
    with pytest.raises(ValueError, match="no front end"):
        only_english.phonemes("你好", "zh", "zh-CN")
    with pytest.raises(ValueError, match="no front end"):
        load(["ko"])


def test_japanese_alone_reads_its_kanji():
    assert said(load(["ja"]).phonemes("日本の言葉", "ja", "ja-JP")).startswith("ɲihoɴno")


# Ids and parts


def test_ids_are_those_of_the_vocabulary(front_end):
    assert front_end.ids("həlˈO.") == [50, 83, 54, 156, 31, 4]


def test_too_many_ids_are_refused_and_split_avoids_it(front_end, zh):
    phonemes = zh("今天的天气非常好，我们一起去公园散步吧。" * 9)
    assert refused(front_end.ids, phonemes).code == "text_too_long_spoken"
    parts = front_end.split(phonemes)
    assert all(0 < len(front_end.ids(part)) <= MAX_IDS for part in parts)
    assert all(part.endswith(".") for part in parts)
    assert " ".join(parts) == phonemes


@pytest.mark.parametrize(
    "limit, parts",
    [
        (100, ["ab, cd. ef gh! ij"]),
        (9, ["ab, cd.", "ef gh! ij"]),
        (7, ["ab, cd.", "ef gh!", "ij"]),
        (6, ["ab,", "cd.", "ef gh!", "ij"]),
        (2, ["ab", ",", "cd", ".", "ef", "gh", "!", "ij"]),
    ],
)
def test_parts_break_at_sentences_then_clauses_then_words(front_end, limit, parts):
    assert front_end.split("ab, cd. ef gh! ij", limit) == parts


def test_symbols_that_the_model_lacks_are_counted_in_the_log(front_end, caplog):
    with caplog.at_level(logging.WARNING):
        assert front_end._known("a\u4e00b\u4e00") == "ab"
    assert "2 phoneme symbols" in caplog.text and "U+4E00 x2" in caplog.text


@pytest.mark.parametrize(
    "text", ["a-" * 100, "1/" * 100, "a@" * 100, "aB" * 100, "a.b-c_d@" * 25, "1," * 100, "x" * 200, "的" * 200]
)
def test_no_text_takes_long(front_end, text):
    start = time.process_time()
    for language, dialect in DIALECTS:
        front_end.phonemes(text, language, dialect)
    assert time.process_time() - start < 4


# Anything a client may send

_TOKENS = st.sampled_from(
    [
        "[h][ào]",
        "[R][EH1][D]",
        "3.5 kg",
        "2026-11-22",
        "10:30",
        "1/2",
        "$5",
        "http://a.b",
        "a@b.c",
        "1.2.3",
        "007",
        "９",
        "㎏",
        "ㇷ゚",
        "的",
        "地",
        "得",
        "一",
        "不",
        "儿",
        "ー",
        "ゃ",
        "っ",
        "々",
        "IV",
        "don't",
        "(/a/)",
        "…",
        "½",
        "²",
        "-",
        "°",
        "《",
        "」",
        "[",
        "]",
    ]
)
_WORDS = st.text("你好一不了行長abcXYéあアッん09.,-%:/ ", max_size=8)
_ANYTHING = st.lists(st.one_of(_TOKENS, _WORDS, st.text(max_size=6)), max_size=12).map("".join)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=_ANYTHING)
def test_any_text_gives_phonemes_of_the_vocabulary_or_a_speech_error(front_end, text):
    for language, dialect in DIALECTS:
        try:
            phonemes = front_end.phonemes(check_text(text), language, dialect)
            for part in front_end.split(phonemes):
                assert 0 < len(front_end.ids(part)) <= MAX_IDS
        except SpeechError as error:
            assert error.status == 400 and error.param == "text"
        else:
            assert phonemes and set(phonemes) <= set(front_end.vocabulary)


@settings(max_examples=60, deadline=None)
@given(text=_ANYTHING)
def test_what_is_refused_while_it_is_read_was_refused_before(front_end, text):
    """`check` runs in the ingress, on the whole of a text, before its first piece is said."""
    for language, dialect in DIALECTS:
        try:
            text = check_text(text)
            before = refusal(check, text, language)
        except SpeechError:
            return
        reading = refusal(front_end.phonemes, text, language, dialect)
        if reading not in (None, "text_not_speakable") and not (language != "zh" and reading == "text_no_reading"):
            assert before == reading
        if before is not None:
            assert reading is not None


def refusal(call, *args) -> str | None:
    try:
        call(*args)
    except InvalidInput as error:
        return error.code
    return None


@pytest.mark.parametrize(
    "text, language, code",
    [
        ("One. Two [laughter]. Three.", "en", "text_tag_unsupported"),
        ("One. Двa.", "en", "text_script_unsupported"),
        ("好。好[h][xx]。", "zh", "text_pronunciation"),
        ("...", "en", "text_not_speakable"),
        ("你好𠮷", "zh", "text_no_reading"),
    ],
)
def test_a_text_is_refused_without_loading_a_front_end(text, language, code):
    assert refusal(check, text, language) == code


def test_a_long_text_is_checked_soon():
    start = time.process_time()
    check("我们今天去公园。" * 600, "zh")
    assert time.process_time() - start < 0.5

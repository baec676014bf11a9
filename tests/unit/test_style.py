"""Style instructions: what is understood, what it does, and that nothing is guessed."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.embedded.style import KNOWN, Delivery, interpret
from speech.errors import InvalidInput

PLAIN = Delivery()


def refused(instruction):
    with pytest.raises(InvalidInput) as caught:
        interpret(instruction)
    assert caught.value.param == "style_instruction"
    return caught.value


@pytest.mark.parametrize(
    "instruction", ["兴奋地说", "请兴奋地说。", "speak excitedly", "Say it with excitement!", "in an excited voice"]
)
def test_excitement_is_faster_higher_and_louder(instruction):
    delivery = interpret(instruction)
    assert delivery.speed > 1 and delivery.pitch_semitones > 0 and delivery.energy_db > 0


@pytest.mark.parametrize(
    "instruction", ["缓慢朗读", "慢慢地说", "语速慢一点", "speak slowly", "slower, please", "Read this slowly."]
)
def test_slow_is_only_slower(instruction):
    delivery = interpret(instruction)
    assert delivery.speed < 1 and (delivery.pitch_semitones, delivery.energy_db) == (0, 0)


@pytest.mark.parametrize("instruction", ["快速", "请用快语速读", "quickly", "Speak fast", "a faster pace"])
def test_fast_is_only_faster(instruction):
    delivery = interpret(instruction)
    assert delivery.speed > 1 and (delivery.pitch_semitones, delivery.energy_db) == (0, 0)


@pytest.mark.parametrize(
    "loud, soft",
    [("大声", "轻声"), ("loudly", "in a soft voice"), ("请大声说", "请小声一点"), ("声音大一点", "声音小一点")],
)
def test_loud_and_soft_change_the_gain(loud, soft):
    assert interpret(loud).energy_db > 0 > interpret(soft).energy_db
    assert interpret(loud).speed == interpret(soft).speed == 1


@pytest.mark.parametrize(
    "bright, dark",
    [("开心", "悲伤"), ("happily", "sadly"), ("高兴地说", "难过地说"), ("a cheerful tone", "a sorrowful tone")],
)
def test_moods_differ_in_every_dimension(bright, dark):
    high, low = interpret(bright), interpret(dark)
    assert high.speed > 1 > low.speed
    assert high.pitch_semitones > 0 > low.pitch_semitones and high.energy_db > 0 > low.energy_db


@pytest.mark.parametrize(
    "preset, direction",
    [
        ("Please say a sentence as loudly as possible.", interpret("loudly")),
        ("Please say a sentence in a very soft voice.", interpret("soft")),
        ("请用尽可能慢地语速说一句话。", interpret("缓慢")),
        ("请用尽可能快地语速说一句话。", interpret("快速")),
        ("请非常开心地说一句话。", interpret("开心")),
        ("请非常伤心地说一句话。", interpret("悲伤")),
        ("请非常生气地说一句话。", interpret("生气")),
    ],
)
def test_cosyvoice_presets_are_known_and_stronger_than_the_plain_word(preset, direction):
    delivery = interpret(preset)
    for name in ("speed", "pitch_semitones", "energy_db"):
        plain, strong, neutral = getattr(direction, name), getattr(delivery, name), getattr(PLAIN, name)
        assert strong == plain == neutral or abs(strong - neutral) > abs(plain - neutral)
        assert (strong - neutral) * (plain - neutral) >= 0


def test_degrees_are_ordered():
    speeds = [interpret(text).speed for text in ("稍微慢一点", "慢", "非常慢", "尽可能慢")]
    assert speeds == sorted(speeds, reverse=True) and len(set(speeds)) == 4
    assert interpret("slightly faster").speed < interpret("faster").speed < interpret("very fast").speed


def test_styles_add_up():
    both = interpret("slowly and sadly")
    assert both.speed < interpret("slowly").speed and both.pitch_semitones == interpret("sadly").pitch_semitones
    assert interpret("伤心地慢慢地说") == both
    assert interpret("大声、快速地读").energy_db > 0 and interpret("大声、快速地读").speed > 1


@pytest.mark.parametrize(
    "instruction",
    ["不要太快", "别太快", "语速不要太快", "not too fast", "Don't speak too fast.", "please, not so fast"],
)
def test_not_too_fast_is_a_little_slower_and_never_faster(instruction):
    assert interpret("slowly").speed < interpret(instruction).speed < 1


@pytest.mark.parametrize("instruction", ["不要太大声", "not too loud"])
def test_not_too_loud_is_a_little_softer(instruction):
    assert interpret("softly").energy_db < interpret(instruction).energy_db < 0


@pytest.mark.parametrize(
    "instruction",
    [
        "不开心",
        "不要开心",
        "not happy",
        "unhappy",
        "not fast",
        "don't be sad",
        "never loud",
        "breakfast",
        "steadfastly",
        "slowpoke",
        "like a robot",
        "学猫叫",
        "whisper",
        "ゆっくり話して",
        "",
        "   ",
        "please",
        "very",
        "不要",
        "!!!",
        "快活动物",
    ],
)
def test_what_is_not_understood_is_said_and_nothing_is_guessed(instruction):
    error = refused(instruction)
    assert error.code == "instruction_unknown"
    assert all(name in error.message for name in KNOWN)


@pytest.mark.parametrize("instruction", ["fast and slow", "快慢", "大声轻声", "high-pitched and deep"])
def test_contradictions_are_refused(instruction):
    assert refused(instruction).code == "instruction_contradiction"


@pytest.mark.parametrize(
    "instruction",
    ["请用四川话表达。", "请用广东话表达", "with a British accent", "用普通话说", "speak in a Sichuan dialect"],
)
def test_a_dialect_is_the_dialect_fields_business(instruction):
    assert refused(instruction).code == "instruction_dialect"


def test_messages_never_repeat_the_instruction():
    for instruction in ("Sekret", "not too Sekret", "fast slow Sekret", "Sekret accent"):
        assert "sekret" not in refused(instruction).message.lower()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [
                    "快",
                    "慢",
                    "very",
                    "not too ",
                    "不要太",
                    "slowly",
                    "大声",
                    "一点",
                    "and",
                    " ",
                    "开心",
                    "as possible",
                    "!",
                ]
            ),
            st.text(max_size=5),
        ),
        max_size=8,
    ).map("".join)
)
def test_any_instruction_is_a_bounded_delivery_or_refused(instruction):
    try:
        delivery = interpret(instruction)
    except InvalidInput:
        return
    assert 0.6 <= delivery.speed <= 1.6 and abs(delivery.pitch_semitones) <= 4 and abs(delivery.energy_db) <= 9


def test_the_ingress_pays_for_no_model_library():
    code = "import sys, engines.embedded.style; print(sorted({'torch', 'numpy', 'jieba', 'hibari'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() in ("[]", "['numpy']")  # numpy comes with the engine contract

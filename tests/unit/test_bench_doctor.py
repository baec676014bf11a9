"""What the bench of incidents takes for a right answer of the doctor's, and what not."""

import pytest

from bench.callers import Kind
from bench.doctor import (
    Report,
    change_of_batches,
    names_forgetful_caller,
    names_narrow_recordings,
    nothing_to_do,
    shows_fallback,
)

PHONE, SHOP = "3f9a0c1d2e4b5a69", "0123456789abcdef"
RIGHT = "88 % of the 400s (15 % of all requests) are 8 kHz audio from user 3f9a0c1d"


def report(kind, summary, *detail, severity="act", change=None):
    return Report(
        {
            "findings": [
                {"kind": kind, "severity": severity, "summary": summary, "detail": list(detail), "change": change}
            ]
        }
    )


def wrong(line, shares=(0.15, 0.88)):
    return names_narrow_recordings(report("errors", line), PHONE, [SHOP], shares)


def test_the_line_of_8_khz_has_the_rate_a_true_share_and_the_caller():
    assert wrong(RIGHT) == [] == wrong("15.2% of the requests: 8000 Hz, all from 3f9a")
    [said] = wrong(RIGHT.replace("8 kHz", "48 kHz"))
    assert "no line" in said
    [said] = wrong(RIGHT, shares=(0.3, 0.6))
    assert "none of the shares" in said
    for line, says in ((RIGHT.replace("3f9a", "3f9b"), "doesn't name"), (RIGHT + " and 0123456", "did nothing")):
        [said] = wrong(line)
        assert says in said
    [said] = names_narrow_recordings(report("queue", RIGHT), PHONE, [SHOP], (0.15,))
    assert "no line" in said, "it is an error's line or none"


def test_who_leaves_the_dialect_out_is_named_in_the_line_of_it():
    assert not names_forgetful_caller(report("errors", "12 refused", "9 name no dialect: user 3f9a0c1d"), PHONE)
    assert names_forgetful_caller(report("errors", "12 refused by 3f9a0c1d", "9 name no dialect"), PHONE)


@pytest.mark.parametrize(
    "line, shown",
    [
        ("about 80 requests took the dialect of their key", True),
        ("about 80 requests took the voice's dialect", False),
        ("1,200 took the key's dialect", False),
        ("5 took the key's dialect", False),
    ],
)
def test_a_fallback_is_shown_with_its_source_and_its_size(line, shown):
    assert (shows_fallback(report("fallback", line), 90) == []) == shown
    assert shows_fallback(report("errors", line), 90)


def test_what_asks_for_action_is_something_to_do():
    assert nothing_to_do(report("queue", "grows")) and not nothing_to_do(report("queue", "grows", severity="look"))
    change = {"deployment": "tts-service", "user_config": {"max_batch_size": 8}}
    assert change_of_batches(report("batching", "batches of 1", change=change)) == change
    assert change_of_batches(report("queue", "grows")) is None


def test_a_forgotten_dialect_is_refused_but_for_whose_key_has_one():
    assert [
        Kind(*kind).status
        for kind in (
            ("radio", "forgotten"),
            ("school", "forgotten"),
            ("phone", "narrow"),
            ("shop", "empty"),
            ("shop", "good"),
        )
    ] == [400, 200, 400, 400, 200]

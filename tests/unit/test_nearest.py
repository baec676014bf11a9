"""A slip is told from another word, and a name of megabytes costs nothing."""

import time

from config.nearest import nearest

KNOWN = ("dialect", "style_instruction", "text", "timestamps")


def test_a_slip_is_found_and_another_word_is_not():
    assert nearest("dilect", KNOWN) == ["dialect"] and nearest("style_instructions", KNOWN) == ["style_instruction"]
    assert nearest("colour", KNOWN) == []
    assert nearest("text", ("texts", "next", "text"), count=2) == ["text", "texts"]


def test_a_name_of_megabytes_costs_nothing():
    start = time.thread_time()
    assert nearest("dialect" * 3_000_000, KNOWN) == [] and time.thread_time() - start < 0.1

"""The bench of the acoustic model's integers: what it makes of pieces."""

from bench.int8 import figures


def piece(text: str, exact: dict, rounded: dict) -> dict:
    plain = {"dnsmos": 3.0, "errors": 0, "mel_s": 2.0, "cpu_s": 0.2, "pitch": 80.0, "spread": 4.0}
    return {"text": text, "float32": plain | exact, "int8": plain | rounded}


def test_pieces_are_compared_one_by_one():
    found = figures(
        [
            piece("one two", {"cpu_s": 0.4}, {"cpu_s": 0.1, "dnsmos": 2.6, "errors": 1}),
            piece("three", {}, {"cpu_s": 0.1, "dnsmos": 3.2, "mel_s": 2.1, "pitch": 79.0}),
            piece("four", {}, {"cpu_s": 0.1, "pitch": 81.0, "spread": 5.5}),
        ]
    )
    assert (found["pieces"], found["dnsmos_change"], found["dnsmos_worst"]) == (3, -0.067, -0.4)
    assert found["dnsmos_two_standard_errors"] == 0.288
    assert found["word_error_rate"] == {"float32": 0.0, "int8": 0.25}
    assert found["cpu_ms_p50"] == {"float32": 200.0, "int8": 100.0} and found["cpu_share_p50"] == 0.5
    assert found["length_off_share_p50"] == 0.0
    assert found["pitch_off_semitones_mean"] == 0.667, "moved in either direction"
    assert found["pitch_spread_semitones_mean"] == {"float32": 4.0, "int8": 4.5}

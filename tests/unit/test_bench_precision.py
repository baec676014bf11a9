"""The bench of the acoustic model's precision: what it makes of pieces."""

from bench.precision import figures


def piece(text: str, exact: dict, rounded: dict) -> dict:
    plain = {"dnsmos": 3.0, "errors": 0, "mel_s": 2.0, "cpu_s": 0.2, "pitch": 80.0, "spread": 4.0}
    return {"text": text, "float32": plain | exact, "int8": plain | rounded}


def test_pieces_are_compared_one_by_one():
    found = figures(
        [
            piece("one two", {"cpu_s": 0.4}, {"cpu_s": 0.1, "dnsmos": 2.6, "errors": 1}),
            piece("three", {}, {"cpu_s": 0.1, "dnsmos": 3.2, "mel_s": 2.1, "pitch": 79.0}),
            piece("four", {}, {"cpu_s": 0.1, "pitch": 81.0, "spread": 5.5}),
        ],
        ["float32", "int8"],
    )
    assert found == {
        "pieces": 3,
        "float32": {"dnsmos": 3.0, "word_error_rate": 0.0, "cpu_ms_p50": 200.0, "pitch_spread_semitones_mean": 4.0},
        "int8": {
            "dnsmos": 2.933,
            "word_error_rate": 0.25,
            "cpu_ms_p50": 100.0,
            "pitch_spread_semitones_mean": 4.5,
            "dnsmos_change": -0.067,
            "dnsmos_two_standard_errors": 0.288,
            "dnsmos_worst": -0.4,
            "cpu_share_p50": 0.5,
            "length_off_share_p50": 0.0,
            "pitch_off_semitones_mean": 0.667,  # moved in either direction
        },
    }

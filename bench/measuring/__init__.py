"""Instruments that benchmarks and tests share: load, private servers, speech recognition, speaker likeness."""

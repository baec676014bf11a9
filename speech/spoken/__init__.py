"""Writes text out as it is spoken: numbers, dates, money, units, addresses and Markdown in words.

Both engines' front ends begin here, so that every engine reads a text the same way. Each language has a module
(`english`, `mandarin`, `japanese`), and all share `markdown` and `addresses`. Each takes text and gives text; none
knows phonemes or models.

No library does this well enough. wetext 0.1.8, the official front end's own (44 MB), reads 126 of the 203 Mandarin and
123 of the 204 English sentences of `tests/unit/texts` as they are written out there, and fails on `+44 20 7946 0958`,
`±2` and `#3` with an AssertionError. The earlier rules of this package read 159 and 136, these all but one. In Japanese
wetext spells numbers before their counters are seen (3本), which OpenJTalk reads right.
"""

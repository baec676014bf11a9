"""Written text as it is spoken: numbers, dates, money, units, addresses and Markdown written out in words.

Both engines' front ends begin here, so that a text is read alike whichever engine speaks it. One module a language
(`english`, `mandarin`, `japanese`), and two that all share: `markdown` and `addresses`. Each takes text and gives text;
none knows phonemes or models.

Why no library does it: wetext 0.1.8, the official front end's own (44 MB), reads 126 of the 203 Mandarin and 123 of the
204 English sentences of `tests/unit/texts` as they are written out there, and fails on `+44 20 7946 0958`,
`±2` and `#3` with an AssertionError; the rules that stood here before read 159 and 136, these all but one. In Japanese
it spells numbers before their counters are seen (3本), which OpenJTalk reads right.
"""

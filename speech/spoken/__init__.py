"""What is written, as it is said: numbers, dates, money, units, addresses and Markdown written out in words.

Both engines' front ends begin here, so that a text is read alike whichever engine speaks it. One module a language
(`english`, `mandarin`, `japanese`), and two that all share: `markdown` and `addresses`. Each takes text and gives text;
none knows phonemes or models.
"""

"""Mixes a text that is still coming with the speech that is said meanwhile (bi-streaming).

A row reads five text tokens, says fifteen speech tokens, reads the next five, and so on. When the text is complete, it
reads the rest and the task token, and speaks to its end. The model was trained on this form as well as on the usual
one. A fill token stands where it would ask for text. It is picked and counted like a token, but never read.

A zero-shot prompt is mixed in the same way: its transcript and the text together are laid before the clip's speech
tokens, five for fifteen. So the row says nothing before it has text for all of the clip.

The turns follow from the text tokens alone, not from the times at which they came. More text adds turns, and changes no
turn before them. That is why a row that ran out of text can be given up, and another one can go on after its tokens.

    [sos][prefix] [5 text][15 said] [5 text][15 said] … [rest of the text][task][said to the end]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engines.cosyvoice3.speech_lm import SpeechLm

TEXT, SPEECH = 5, 15  #: text tokens, and the speech tokens that follow them


@dataclass(frozen=True)
class Live:
    """The form of a job whose text is said while it comes.

    Args:
        prefix: the first tokens of the job's text that come before all speech, the end of the prompt included.
        transcript: the number of tokens after them that say what the clip says.
        open: True: more text will come.
    """

    prefix: int
    transcript: int = 0
    open: bool = False


@dataclass(frozen=True)
class Turn:
    """A turn of a row: it reads ids, then says tokens.

    Attributes:
        ids: in the form of `SpeechLm.prompt_ids`.
        most: the number of tokens after which it ends by itself; the fill token counts.
        final: True: it ends with the speech. False: its last token is a fill token, and no other control token is
            picked.
        again: True: what the network took last is read a second time before the ids, as the official code does.
    """

    ids: tuple[int, ...]
    most: int
    final: bool
    again: bool = False


def turns(
    lm: SpeechLm, text: Sequence[int], clip: Sequence[int], most: int, live: Live | None, official: bool = False
) -> list[Turn]:
    """Lay out a row's turns; an open text that is too short for any gives none.

    Args:
        lm: the language model, for its ids.
        text: token ids, the prefix and the transcript first.
        clip: the clip's speech tokens; empty if the language model is given none.
        most: tokens of all turns together.
        live: the form of a text that is still coming; None: all text is read first.
        official: lay out as the official code does, with four errors. Without clip tokens it speaks before it has read
            any text. A clip of a multiple of 15 tokens gets 15 more before its next text. Clip tokens are lost if the
            text ends before they are read. What was read last is read again before the rest of the text.

    Raises:
        IndexError: an id is outside the vocabularies.
    """
    if live is None:
        return [Turn(tuple(lm.prompt_ids(text, clip)), most, final=True)]
    words, sounds = lm.text_ids(text), lm.sound_ids(clip)
    begin = live.prefix + live.transcript
    ids, waiting, more = [lm.sos, *words[: live.prefix]], words[live.prefix : begin], words[begin:]
    ahead = SPEECH - len(sounds) % SPEECH  # tokens that still belong to the text before them
    if not official and ahead == SPEECH:
        ahead = 0
    found: list[Turn] = []
    for word in more:
        waiting.append(word)
        while sounds and len(waiting) >= TEXT:
            ids += [*waiting[:TEXT], *sounds[:SPEECH]]
            waiting, sounds = waiting[TEXT:], sounds[SPEECH:]
        if sounds:
            continue
        count = SPEECH
        if not found and ahead:
            count = ahead
        elif len(waiting) >= TEXT:
            ids, waiting = ids + waiting[:TEXT], waiting[TEXT:]
        else:
            continue
        found.append(Turn(tuple(ids), count + 1, final=False))
        ids = []
    if not live.open:
        ids += [*waiting, lm.task, *(() if official else sounds)]
        left = max(1, most - sum(turn.most for turn in found))
        found.append(Turn(tuple(ids), left, final=True, again=official and bool(found)))
    return found


def wanted(text: int, clip: int, live: Live) -> int:
    """Return how many more text tokens an open job needs before it says more; at least 1.

    Args:
        text: tokens of the job's text, prefix and transcript included.
        clip: the clip's speech tokens.
        live: the job's form.
    """
    given = text - live.prefix
    laid = -(-clip // SPEECH) * TEXT  # text tokens that are read before the clip's tokens
    first = laid if clip % SPEECH else laid + TEXT
    return first - given if given < first else TEXT - (given - laid) % TEXT

"""pypinyin with its dictionary of phrases packed: 10 MB instead of 48 in each tts-service."""

from __future__ import annotations

import gc
from functools import cache
from types import ModuleType

from engines.embedded.text.packed import Phrases, Words


@cache
def load() -> ModuleType:
    """Import pypinyin and pack its phrases, and the prefixes by which it cuts a text into them.

    pypinyin keeps them as a dict and a set in its modules' globals and has no setting for another kind.
    """
    import pypinyin
    from pypinyin import constants, converter, core, phrases_dict
    from pypinyin.seg import mmseg, simpleseg

    phrases = Phrases(constants.PHRASES_DICT)
    prefixes = Words({phrase[:end] for phrase in constants.PHRASES_DICT for end in range(1, len(phrase) + 1)})
    for module in (constants, converter, core, mmseg, simpleseg):
        setattr(module, "PHRASES_DICT", phrases)  # noqa: B010  (it is annotated as a dict)
    setattr(phrases_dict, "phrases_dict", phrases)  # noqa: B010
    setattr(mmseg.p_set, "_set", prefixes)  # noqa: B010
    gc.collect()
    return pypinyin

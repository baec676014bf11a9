"""The limits of a request are defined here: lengths of texts, the clip's size and duration.

Checks, error messages, OpenAPI, the engines' defaults and the command line read them here.
"""

from __future__ import annotations

MAX_TEXT = 200  #: characters of one piece, and of a text without long_form
MAX_LONG_TEXT = 5_000  #: characters of a text with long_form
MAX_INSTRUCTION = 200  #: characters of a style instruction
MAX_TRANSCRIPT = 500  #: characters of a clip's transcript
MAX_CLIP_BYTES = 20 * 2**20
MIN_CLIP_RATE = 16_000  #: Hz
CLIP_SECONDS = (3.0, 15.0)  #: shortest and longest clip, unless the engine says otherwise

#: The same as texts show it.
CLIP_DURATION = f"{CLIP_SECONDS[0]:g} to {CLIP_SECONDS[1]:g} s"
CLIP_SIZE = f"{MAX_CLIP_BYTES // 2**20} MB"
CLIP_FORMATS = "wav, flac, ogg, mp3, m4a, mp4, webm or aac"

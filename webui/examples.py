"""Sentences for a first try, a line to read aloud while recording, and a clip that ships."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

from webui import folder

#: The project's own reference clip; cluster/assets/README.md names its origin and licence.
_SHIPPED = Path(__file__).resolve().parents[1] / "cluster" / "assets" / "reference.flac"

#: By code of the dialect. Buttons stand in this order, those of dialects that the engine speaks.
SENTENCES = {
    "zh-CN": "傍晚的港口很安静，远处传来几声汽笛。",
    "en-US": "The harbor was quiet that evening, and far away a ship was calling.",
    "ja-JP": "夕方の港はとても静かで、遠くから汽笛が聞こえました。",
    "zh-Cantonese": "今晚海边好静，我哋慢慢行返屋企啦。",
    "zh-Sichuan": "今天天气硬是好，我们一路去江边耍嘛。",
    "ko-KR": "저녁 항구는 아주 조용했고, 멀리서 뱃고동 소리가 들렸습니다.",
    "de-DE": "Der Hafen war an diesem Abend still, und in der Ferne rief ein Schiff.",
    "es-ES": "El puerto estaba tranquilo aquella tarde, y a lo lejos sonaba un barco.",
    "fr-FR": "Le port était calme ce soir-là, et au loin un navire appelait.",
    "it-IT": "Quella sera il porto era tranquillo, e da lontano chiamava una nave.",
    "ru-RU": "В тот вечер в порту было тихо, и вдали гудел корабль.",
}

#: About ten seconds of speech, by language of the page.
READ_ALOUD = {
    "zh": "每天早上我沿着河边散步，数一数来往的船，跟路过的人打个招呼。到了傍晚，我再沿着原路慢慢走回家。",
    "en": (
        "Every morning I walk along the river, count the boats, and say hello to whoever passes by. "
        "In the evening I take the same way home."
    ),
}


def sentence(dialect: str) -> str:
    """Return a sentence in this dialect, or in another one of its language, or in English."""
    same = (text for code, text in SENTENCES.items() if code.split("-")[0] == dialect.split("-")[0])
    return SENTENCES.get(dialect) or next(same, SENTENCES["en-US"])


@cache
def clip() -> Path:
    """Return the clip that ships, as a copy in this process's folder: Gradio serves no file from elsewhere."""
    return Path(shutil.copy(_SHIPPED, folder.own()))

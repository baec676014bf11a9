"""Reads the pinyin syllables that users write in brackets, and converts syllables to Kokoro's phonemes.

A syllable is kept as pinyin with a tone number, ü as v and the light tone as 5: `hao4`, `lv4`, `ma5`.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from engines.embedded.text import pinyin_dictionary

_MARKS = {"\u0304": "1", "\u0301": "2", "\u030c": "3", "\u0300": "4"}
_INITIALS = frozenset("b p m f d t n l g k h j q x zh ch sh r z c s y w".split())
#: finals without an initial, as linguists write them -> pinyin's spelling of that syllable
_WITHOUT_INITIAL = {
    "i": "yi",
    "ia": "ya",
    "ian": "yan",
    "iang": "yang",
    "iao": "yao",
    "ie": "ye",
    "in": "yin",
    "ing": "ying",
    "iong": "yong",
    "iou": "you",
    "u": "wu",
    "ua": "wa",
    "uai": "wai",
    "uan": "wan",
    "uang": "wang",
    "uei": "wei",
    "uen": "wen",
    "ueng": "weng",
    "uo": "wo",
    "v": "yu",
    "ve": "yue",
    "van": "yuan",
    "vn": "yun",
}
_SPELLED = {"iou": "iu", "uei": "ui", "uen": "un"}
#: All syllables of the dictionary of readings (pypinyin 0.55), for the ingress, which loads no dictionary.
SYLLABLES = frozenset(
    """
a ai an ang ao ba bai ban bang bao bei ben beng bi bian biang biao bie bin bing bo bong bu ca cai can cang cao
ce cei cen ceng cha chai chan chang chao che chen cheng chi chong chou chu chua chuai chuan chuang chui chun
chuo ci cong cou cu cuan cui cun cuo da dai dan dang dao de dei den deng di dia dian diao die din ding diu dong
dou du duan dui dun duo e ei en eng er fa fan fang fei fen feng fiao fo fou fu ga gai gan gang gao ge gei gen
geng gong gou gu gua guai guan guang gui gun guo ha hai han hang hao he hei hen heng hm hng hong hou hu hua huai
huan huang hui hun huo ji jia jian jiang jiao jie jin jing jiong jiu ju juan jue jun ka kai kan kang kao ke kei
ken keng kong kou ku kua kuai kuan kuang kui kun kuo la lai lan lang lao le lei len leng li lia lian liang liao
lie lin ling liu lo long lou lu luan lun luo lv lve m ma mai man mang mao me mei men meng mi mian miao mie min
ming miu mo mou mu n na nai nan nang nao ne nei nen neng ng ni nia nian niang niao nie nin ning niu nong nou nu
nuan nun nuo nv nve o ou pa pai pan pang pao pei pen peng pi pian piao pie pin ping po pou pu qi qia qian qiang
qiao qie qin qing qiong qiu qu quan que qun ran rang rao re ren reng ri rong rou ru rua ruan rui run ruo sa sai
san sang sao se sen seng sha shai shan shang shao she shei shen sheng shi shou shu shua shuai shuan shuang shui
shun shuo si song sou su suan sui sun suo ta tai tan tang tao te tei teng ti tian tiao tie ting tong tou tu tuan
tui tun tuo wa wai wan wang wei wen weng wo wong wu xi xia xian xiang xiao xie xin xing xiong xiu xu xuan xue
xun ya yan yang yao ye yi yin ying yo yong you yu yuan yue yun za zai zan zang zao ze zei zen zeng zha zhai zhan
zhang zhao zhe zhei zhen zheng zhi zhong zhou zhu zhua zhuai zhuan zhuang zhui zhun zhuo zi zong zou zu zuan zui
zun zuo
""".split()
)
_TONES = {"˧˩˧": "↓", "˧˥": "↗", "˥˩": "↘", "˥": "→"}
_SYLLABIC = {"ɻ̩": "ɨ", "ɹ̩": "ɨ"}
_NON_SYLLABIC = "\u032f"


def is_initial(text: str) -> bool:
    return text in _INITIALS


def is_syllable(reading: str) -> bool:
    """Tell if Mandarin has this syllable with its tone number: `hao4`."""
    return reading[-1:] in ("1", "2", "3", "4", "5") and reading[:-1] in SYLLABLES


def syllable(initial: str, final: str) -> str | None:
    """Join initial and final: `("h", "ào")` and `("", "hao4")` give `hao4`; None if Mandarin has no such syllable."""
    plain, tone = _untoned(final)
    if not plain:
        return None
    if not initial:
        plain = _WITHOUT_INITIAL.get(plain, plain)
    else:
        plain = initial + _SPELLED.get(plain, plain)
    if plain[0] in "jqxy":
        plain = plain.replace("v", "u")
    if plain in ("nue", "lue"):
        plain = plain.replace("u", "v")
    return plain + tone if plain in SYLLABLES else None


def _untoned(text: str) -> tuple[str, str]:
    """Split off the tone: `ào` -> (`ao`, `4`), `ǚ` -> (`v`, `3`). No mark means 5; the text is empty if invalid."""
    tone, plain = "5", ""
    if text.endswith(("1", "2", "3", "4", "5")):
        tone, text = text[-1], text[:-1]
    for char in unicodedata.normalize("NFD", text):
        if char in _MARKS:
            tone = _MARKS[char]
        elif char == "\u0308" and plain.endswith("u"):
            plain = plain[:-1] + "v"
        elif "a" <= char <= "z":
            plain += char
        else:
            return "", tone
    return plain, tone


def may_be_read(character: str, reading: str) -> bool:
    """Tell if the character has this syllable, in any tone, among its readings."""
    pypinyin = pinyin_dictionary.load()
    readings = pypinyin.pinyin(character, style=pypinyin.Style.NORMAL, heteronym=True, errors="ignore", v_to_u=False)
    return bool(readings) and reading[:-1] in {found.replace("ü", "v") for found in readings[0]}


@lru_cache(4096)
def phonemes(reading: str) -> str:
    """Convert a syllable to Kokoro phonemes, tone arrow after the vowel: `hao4` -> `xau↘`. The light tone has none.

    The sounds are misaki's table (pinyin-to-ipa), which Kokoro was trained with.
    """
    from misaki.transcription import pinyin_to_ipa

    sound = "".join(pinyin_to_ipa(reading)[0])
    for table in (_TONES, _SYLLABIC):
        for ipa, symbol in table.items():
            sound = sound.replace(ipa, symbol)
    return sound.replace(_NON_SYLLABIC, "")

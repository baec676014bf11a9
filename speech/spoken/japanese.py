"""Writes Japanese out as it is said: addresses, dates, money, units and signs in words.

Cardinals stay digits, because OpenJTalk reads them together with their counter. Words with several readings are decided
here by their context.
"""

from __future__ import annotations

import re

from speech.aligned_text import AlignedText
from speech.spoken import addresses, marks

_UNITS = {
    "km/h": "キロメートル毎時",
    "m/s": "メートル毎秒",
    "mmHg": "水銀柱ミリメートル",
    "mmol/L": "ミリモル毎リットル",
    "mg/dL": "ミリグラム毎デシリットル",
    "ms": "ミリ秒",
    "kcal": "キロカロリー",
    "mAh": "ミリアンペア時",
    "A": "アンペア",
    "kHz": "キロヘルツ",
    "hPa": "ヘクトパスカル",
    "Pa": "パスカル",
    "ha": "ヘクタール",
    "Mbps": "メガビーピーエス",
    "Gbps": "ギガビーピーエス",
    "km²": "平方キロメートル",
    "m²": "平方メートル",
    "m³": "立方メートル",
    "kWh": "キロワット時",
    "km": "キロメートル",
    "cm": "センチメートル",
    "mm": "ミリメートル",
    "m": "メートル",
    "kg": "キログラム",
    "mg": "ミリグラム",
    "g": "グラム",
    "t": "トン",
    "mL": "ミリリットル",
    "ml": "ミリリットル",
    "L": "リットル",
    "l": "リットル",
    "GHz": "ギガヘルツ",
    "MHz": "メガヘルツ",
    "Hz": "ヘルツ",
    "kW": "キロワット",
    "W": "ワット",
    "V": "ボルト",
    "dB": "デシベル",
    "GB": "ギガバイト",
    "MB": "メガバイト",
    "KB": "キロバイト",
    "TB": "テラバイト",
    "°C": "度",
    "°": "度",
    "%": "パーセント",
    "²": "の二乗",
    "³": "の三乗",
}
_UNIT = re.compile(
    rf"(?<=[\d万億])\s?({'|'.join(sorted(map(re.escape, _UNITS), key=len, reverse=True))})(?![A-Za-z²³])"
)
_CURRENCIES = {"$": "ドル", "€": "ユーロ", "£": "ポンド", "¥": "円", "₩": "ウォン"}
_MONEY = re.compile(r"([$€£¥₩])\s?(\d[\d,]*(?:\.\d+)?(?:(?:から|\s?[-–~]\s?)\d[\d,]*(?:\.\d+)?)?[万億千百]*)")
_DATE = re.compile(r"(?<!\d)(\d{4})[-/.](0?[1-9]|1[0-2])[-/.](0?[1-9]|[12]\d|3[01])(?![\d/-]|\.\d)")
_FRACTION = re.compile(r"(?<![\d/.])(\d{1,3})/(\d{1,4})(?![\d/]|\.\d)")
_CLOCK = re.compile(r"(?<![\d:])(\d{1,2}):(\d{2})(?!:?\d)")
_RATIO = re.compile(r"(?<![\d:.])(\d{1,3}):(\d)(?![\d:]|\.\d)")
_PHONE = re.compile(
    r"(?<![\d.-])\(0\d{1,4}\)\s?\d{1,4}-\d{3,4}(?![\d-])|(?<![\d.-])0[5-9]0\d{8}(?!\d)"
    r"|(?<![\d.-])(?:\+81[- ]?\d{1,4}|0\d{1,4})[- ]\d{1,4}[- ]\d{3,4}(?![\d-])"
)
_POSTCODE = re.compile(r"(?:〒\s?|(?<=郵便番号は)|(?<=郵便番号))(\d{3})-(\d{4})(?![\d-])")
_VERSION = re.compile(r"(?<![\d.])\d+(?:\.\d+){2,}(?!\.?\d)")
_CODE = re.compile(r"(?<![\d.,:/-])0\d+(?![\d時分]|[.:,/-]\d)|(?<![\d.,])\d{13,}(?![\d,]|\.\d)")
_NAMED_CODE = re.compile(
    r"((?:暗証番号|会員番号|注文番号|認証コード|確認コード|パスワード|口座番号|学籍番号|社員番号)[はがの:]?\s?)(\d{3,})(?!\d)"
)
_BLOCK = re.compile(r"(?<![\d.-])(\d{1,4})-(\d{1,4})-(\d{1,4})(?:-(\d{1,4}))?(?![\d-])")
_HOUSE = re.compile(r"(?<=[町村区市丁目内田原台丘条通])(\d{1,3})-(\d{1,3})(?![\d-]|\s?[円回人個歳年月%度枚本件点分時])")
_SUBTRACTION = re.compile(r"(?<=\d)\s?-\s?(?=\d+(?:\.\d+)?\s?=)")
_RANGE = re.compile(r"(?<=[\d%度円日月年時分秒人個回歳階点枚本件週間mglLCB万億])\s?[-–—~]\s?(?=[¥$€£]?\d)")
_MINUS = re.compile(r"(?<![A-Za-z0-9.)）])[-−](?=[¥$€£]?\d)")
_LETTER_DIGIT = re.compile(r"(?<![A-Za-z0-9])([A-Z])-?(?=\d)")
_DIGITS = dict(zip("0123456789", "ゼロ イチ ニー サン ヨン ゴー ロク ナナ ハチ キュー".split(), strict=True))
_LETTERS = dict(
    zip(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (
            "エー ビー シー ディー イー エフ ジー エイチ アイ ジェー ケー エル エム "
            "エヌ オー ピー キュー アール エス ティー ユー ブイ ダブリュー エックス ワイ ゼット"
        ).split(),
        strict=True,
    )
)
_ENGLISH = {
    re.compile(r"(?<![A-Za-z])G7(?!\d)"): "ジーセブン", re.compile(r"(?<![A-Za-z])G20(?!\d)"): "ジートゥエンティ",
    re.compile(r"(?<![\d.])3G(?![A-Za-z])"): "スリージー", re.compile(r"(?<![\d.])4G(?![A-Za-z])"): "フォージー",
    re.compile(r"(?<![\d.])5G(?![A-Za-z])"): "ファイブジー", re.compile(r"(?<![\d.])4K(?![A-Za-z])"): "ヨンケー",
    re.compile(r"(?<![\d.])3D(?![A-Za-z])"): "スリーディー", re.compile(r"(?<![\d.])2D(?![A-Za-z])"): "ツーディー",
}  # fmt: skip
_ADDRESS_SIGNS = {
    ".": " ドット ", "/": " スラッシュ ", "@": " アット ", "-": " ハイフン ", "_": " アンダーバー ",
    "?": " クエスチョン ", "=": " イコール ", "&": " アンド ", "#": " シャープ ", "%": " パーセント ",
    ":": " コロン ", "+": " プラス ", "~": " チルダ ",
}  # fmt: skip
_SYMBOLS = {
    "+": "プラス",
    "=": "イコール",
    "&": "アンド",
    "@": "アットマーク",
    "×": "かける",
    "÷": "わる",
    "±": "プラスマイナス",
    "≥": "以上",
    "≤": "以下",
    "≈": "ほぼ",
    "½": "2分の1",
    "¼": "4分の1",
    "¾": "4分の3",
}
_SMALL_KANA = dict(zip("ㇰㇱㇲㇳㇴㇵㇶㇷㇸㇹㇺㇻㇼㇽㇾㇿ", "クシストヌハヒフヘホムラリルレロ", strict=True))
_TASTE = (
    "味|料理|カレー|ラーメン|唐辛子|キムチ|麻婆|スパイス|食|ソース|スープ|鍋|わさび|ワサビ|からし|カラシ|マスタード|胡椒|コショウ|激|ピリ|甘|酸|菓子|スナック|"
    "飲|タレ|たれ|チゲ|タイ|韓国|インド|メキシコ|四川|うどん|そば|パスタ|ピザ|肉|魚|舌|ソーセージ|担々麺|坦々麺|山椒|塩|おでん|餃子|寿司|舌|口の中|口が"
)
_MARKET = "魚|野菜|果物|青果|花|肉|朝|露店|買い物|食べ|築地|豊洲|屋台|新鮮|港|売って|並ん|にぎ|賑|近所|商店|古着|骨董"
_SORROW = "泣|涙|別れ|気持|経験|思い|人生|失恋|仕事|毎日|悲し|病気|過去|練習|現実"


def _after(words: str) -> str:
    """Make a look-behind for any of the words, which may be of different lengths."""
    return "(?:" + "|".join(f"(?<={word})" for word in words.split()) + ")"


_SCHOOLS = "学校 大学 高校 中学 塾 病院 ジム 教室 会社 幼稚園 保育園 道場 図書館"
_HABITS = "仕事 会社 学校 たばこ タバコ 煙草 酒 お酒 習慣 けんか 喧嘩 練習 部活 バイト"
#: Words with several readings: (the written word, its reading, the context that must be in the text).
_HOMOGRAPHS: tuple[tuple[re.Pattern[str], str, re.Pattern[str] | None], ...] = (
    (re.compile("彼女(?=らし)"), "カノジョ", None),
    (re.compile("彼女(?=[らた])"), "カノジョ", None),
    (re.compile("辛(?=[いくかさけみ]|そう|すぎ|過ぎ)(?!抱)"), "カラ", re.compile(_TASTE)),
    (re.compile("辛(?=[いくかさ]|そう|すぎ|過ぎ)"), "ツラ", re.compile(_SORROW)),
    (
        re.compile("空(?=だ|です|だった|でし|っぽ|の(?:箱|瓶|缶|コップ|部屋|袋|皿))"),
        "カラ",
        re.compile("缶|瓶|箱|袋|コップ|財布|皿|冷蔵庫|タンク|部屋"),
    ),
    (re.compile(_after("腹が おなかが") + "空(?=[いくき])"), "ス", None),
    (
        re.compile(
            _after("この あの その どの 女性の 男性の 年配の")
            + "方(?=[がは](?:先生|社長|部長|店長|校長|担当|お客|医|奥|ご主人|誰|だれ|どなた))"
        ),
        "カタ",
        None,
    ),
    (re.compile("額(?=に(?:汗|しわ|皺|手|キス|傷)|の汗|を(?:拭|ぬぐ))"), "ヒタイ", None),
    (re.compile("見物(?=[にをすし客人で])"), "ケンブツ", None),
    (
        re.compile(
            _after(" ".join(f"{place}{particle}" for place in _SCHOOLS.split() for particle in "にへ"))
            + "通(?=[っいうえおわ])"
        ),
        "カヨ",
        None,
    ),
    (re.compile(_after("水を 油を 雨を") + "弾(?=[いくかきけ])"), "ハジ", None),
    (re.compile(_after("絵を 図を 線を 円を 似顔絵を 漫画を") + "描(?=[いくかきけ])"), "カ", None),
    (re.compile(_after(" ".join(f"{habit}を" for habit in _HABITS.split())) + "止め"), "ヤメ", None),
    (
        re.compile(
            _after("彼の 彼女の 先生の 監督の 社長の 上司の 部長の 指導の 管理の 条件の 名の 法の") + "下(?=[でに])"
        ),
        "モト",
        None,
    ),
    (re.compile(_after("昔 今 日本 江戸 西洋 現代 中華 欧米") + "風(?=[にな]|の(?!音))"), "フー", None),
    (
        re.compile(
            "(?<![\u4e00-\u9fff])金(?=の(?:指輪|ネックレス|時計|延べ|メダル|斧|卵|冠|糸|杯|像|鎖|ピアス|ブレス))"
        ),
        "キン",
        None,
    ),
    (
        re.compile("(?<![\u4e00-\u9fff])市場(?=[でにへのをはがもや]|$)"),
        "イチバ",
        re.compile(_MARKET),
    ),
    (
        re.compile(
            "(?:(?<=こんな)|(?<=そんな)|(?<=あんな)|(?<=どんな)|(?<=いう)|(?<=言う)|(?<=って)|(?<=いった)|(?<=ような))風(?=[にだなでのはも]|$)"
        ),
        "フー",
        None,
    ),
    (
        re.compile(
            "(?:(?<=ドアが)|(?<=扉が)|(?<=窓が)|(?<=門が)|(?<=蓋が)|(?<=ふたが)|(?<=席が)|(?<=穴が)|(?<=鍵が)|(?<=幕が)|(?<=戸が)|(?<=シャッターが)|(?<=ゲートが))開(?=[くいか])"
        ),
        "ア",
        None,
    ),
    (
        re.compile(
            "人気(?=の(?:ない|無い|少ない|多い|絶えた)(?:道|所|場|部屋|夜|街|町|路地|公園|森|山|建|通り|廊下|海|家|浜|駅))"
        ),
        "ヒトケ",
        None,
    ),
    (
        re.compile(
            "(?<![先学人一衛野平芸])生(?=で(?:食|飲|いただ|かじ)|の(?:魚|肉|野菜|まま)|(?:ビール|卵|魚|肉|野菜|クリーム|ハム))"
        ),
        "ナマ",
        None,
    ),
    (re.compile(r"(?<!\d)20歳(?=[^未以代前後]|$)"), "ハタチ", None),
    (re.compile(r"(?<![\d.,])7人"), "ナナニン", None),
    (re.compile(r"(?<![\d.,])8個"), "ハッコ", None),
    (re.compile(r"(?<![\d.,])8分(?!の|[咲丈目])"), "ハップン", None),
)


def written_out(text: str) -> AlignedText:
    """Write out everything that is no word; cardinals stay digits, kanji stay unless a reading is decided here.

    Args:
        text: plain punctuation, no Markdown.
    """
    text = marks.ascii_digits(AlignedText.of(text))
    for small, large in _SMALL_KANA.items():
        text = text.replace(small, large)
    text = addresses.written_out(text, _ADDRESS_SIGNS, _address_part, _ip)
    text = text.sub(r"(?<=\d),(?=\d{3}(?!\d))", "")
    text = text.sub(_DATE, lambda m: f"{m[1]}年{int(m[2])}月{int(m[3])}日")
    text = text.sub(r"(?<![\d.])(\d{1,2})/(\d{1,2})(?=[にはのがかま(（])", _month_day)
    text = text.sub("(?<=[月火水木金土日])[-~〜](?=[月火水木金土日](?![\\d年月]))", "から")
    text = text.sub(r"#(?=\d)", "ナンバー")
    text = text.sub(_PHONE, lambda m: _one_by_one(m[0]))
    text = text.sub(_POSTCODE, lambda m: ("郵便番号" if m[0][0] == "〒" else "") + _one_by_one(m[1] + m[2]))
    text = text.sub(_NAMED_CODE, lambda m: m[1] + _one_by_one(m[2]))
    text = text.sub(_BLOCK, lambda m: "の".join(filter(None, m.groups())))
    text = text.sub(_HOUSE, r"\1の\2")
    text = text.sub(_CLOCK, lambda m: f"{int(m[1])}時" + (f"{int(m[2])}分" if int(m[2]) else ""))
    text = text.sub(_RATIO, r"\1対\2")
    text = text.sub(_FRACTION, r"\2分の\1")
    text = text.sub(_SUBTRACTION, "マイナス")
    text = text.sub(_RANGE, "から")
    text = text.sub(_MINUS, "マイナス")
    text = text.sub(_MONEY, lambda m: m[2] + _CURRENCIES[m[1]])
    text = text.sub(_VERSION, lambda m: "点".join(map(_number, m[0].split("."))))
    text = text.sub(_CODE, lambda m: _one_by_one(m[0]))
    for pattern, word in _ENGLISH.items():
        text = text.sub(pattern, word)
    text = text.sub(_UNIT, lambda m: _UNITS[m[1]])
    text = text.sub(_LETTER_DIGIT, lambda m: _LETTERS[m[1]])
    text = text.sub(r"(?<=\d)\s?<\s?(?=\d)", "小なり").sub(r"(?<=\d)\s?>\s?(?=\d)", "大なり")
    for symbol, word in _SYMBOLS.items():
        text = text.replace(symbol, word)
    for pattern, reading, beside in _HOMOGRAPHS:
        if beside is None or beside.search(text):
            text = text.sub(pattern, reading)
    # A full stop inside a number is part of it, and must not be taken for the end of a sentence.
    return text.sub(r"(?<=\d)\.(?=\d)", "．")


def _month_day(match: re.Match[str]) -> str:
    """Read 11/28 as a day unless it is a usual fraction, as 2/3 is."""
    month, day = int(match[1]), int(match[2])
    return f"{month}月{day}日" if 1 < month <= 12 and 10 < day <= 31 else match[0]


def _one_by_one(digits: str) -> str:
    return "".join(_DIGITS.get(char, "プラス" if char == "+" else "") for char in digits)


def _number(digits: str) -> str:
    return {"2": "ニ", "5": "ゴ"}.get(digits) or (_DIGITS[digits] if len(digits) == 1 else digits)


def _address_part(part: str) -> str:
    return re.sub(r"\d", lambda digit: _DIGITS[digit[0]], part)


def _ip(match: re.Match[str]) -> str:
    said = "点".join(map(_one_by_one, match[1].split(".")))
    if match[2]:
        said += f"ポート{match[2]}"
    return said + (f"スラッシュ{match[3]}" if match[3] else "")

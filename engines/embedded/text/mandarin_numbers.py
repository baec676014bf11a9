"""Numbers, dates, times, money, units and symbols in Chinese text, as Chinese words.

Runs before the text is split by language, so that `3.5 kg` becomes 三点五千克 and not an English word. Cardinals are
cn2an's; what is read digit by digit (years, telephone numbers, codes) and where 2 is 两 is decided here.
"""

from __future__ import annotations

import re

_DIGIT = dict(zip("0123456789", "零一二三四五六七八九", strict=True))
_UNITS = {
    "km/h": "公里每小时",
    "m/s": "米每秒",
    "km²": "平方公里",
    "km2": "平方公里",
    "m²": "平方米",
    "m2": "平方米",
    "cm²": "平方厘米",
    "m³": "立方米",
    "m3": "立方米",
    "cm³": "立方厘米",
    "km": "公里",
    "cm": "厘米",
    "mm": "毫米",
    "nm": "纳米",
    "m": "米",
    "kg": "千克",
    "mg": "毫克",
    "g": "克",
    "t": "吨",
    "mL": "毫升",
    "ml": "毫升",
    "L": "升",
    "l": "升",
    "kHz": "千赫兹",
    "MHz": "兆赫兹",
    "GHz": "吉赫兹",
    "Hz": "赫兹",
    "kWh": "千瓦时",
    "kW": "千瓦",
    "MW": "兆瓦",
    "W": "瓦",
    "V": "伏",
    "dB": "分贝",
    "db": "分贝",
    "ms": "毫秒",
    "s": "秒",
    "min": "分钟",
    "h": "小时",
    "ha": "公顷",
    "°": "度",
}
_NUMBER = r"\d+(?:\.\d+)?"
_LONGEST_FIRST = "|".join(sorted(map(re.escape, _UNITS), key=len, reverse=True))
_UNIT = re.compile(rf"({_NUMBER})\s?({_LONGEST_FIRST})(?![A-Za-z²³\d])")
_THOUSANDS = re.compile(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?![\d,])")
_DATE = re.compile(r"(?<!\d)(\d{4})([-/.])(0?[1-9]|1[0-2])\2(0?[1-9]|[12]\d|3[01])(?![\d.])")
_YEAR = re.compile(r"(?<![\d.])(\d{4})(?=\s?年(?!前|后|间|来|的历史))")
_CLOCK = re.compile(r"(?<![\d:])([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?(?![\d:])")
_RATIO = re.compile(rf"({_NUMBER}):({_NUMBER})")
_MOBILE = re.compile(r"(?<![\d.])(?:\+?86[- ]?)?1[3-9]\d[- ]?\d{4}[- ]?\d{4}(?!\d)")
_PHONE = re.compile(r"(?<![\d.])(?:0\d{2,3}[- ])?\d{3,4}[- ]\d{4}(?!\d|年)|(?<![\d.])0\d{2,3}-\d{7,8}(?!\d)")
_HOTLINE = re.compile(r"(?<=[打拨])(\d{3,5})(?!\d)")
_TEMPERATURE = re.compile(rf"(-?)({_NUMBER})\s?°\s?([CF])(?![A-Za-z])")
_PERCENT = re.compile(rf"(-?)({_NUMBER})\s?([%‰])")
_CURRENCIES = {"¥": "元", "￥": "元", "$": "美元", "€": "欧元", "£": "英镑", "₩": "韩元", "₹": "卢比"}
_MONEY = re.compile(rf"([{''.join(_CURRENCIES)}])\s?({_NUMBER})\s?([万亿百千]*)")
_FRACTION = re.compile(r"(?<![\d/.])(\d+)/(\d+)(?![\d/.])")
_RANGE = re.compile(rf"({_NUMBER}[%℃°]?)\s?[-–~—]\s?(?={_NUMBER})")
_VERSION = re.compile(r"(?<![\d.])\d+(?:\.\d+){2,}(?![\d.])")
_COUNTED = (
    "个只条位本张台辆次种天周块元米公斤克倍名件杯瓶间座部份套双对"
    "场首句遍页段点岁人年分秒小层项家所棵朵頭头口把根片颗支艘架门层"
)
_TWO = re.compile(rf"(?<![\d.第])2(?=\s?(?:多|[{_COUNTED}万千亿](?![月日号])))")
_CODE = re.compile(r"(?<![\d.])(?:0\d+|\d{9,})(?![\d.])")
_SPELLED = re.compile(
    r"(?<=[A-Za-z])-?\d{3,}(?![\d.])|\d{3,}(?=室|号房)|"
    r"(?:(?<=邮编)|(?<=邮编是)|(?<=编号)|(?<=编号是)|(?<=密码)|(?<=密码是)|(?<=验证码)|(?<=验证码是)|(?<=尾号)|(?<=学号))"
    r"[:是]?\s?\d{3,}"
)
_SCORE = re.compile(r"(?<=比分)(\D{0,2}\d+)-(\d+)")
_ANY = re.compile(_NUMBER)
_SYMBOLS = (
    ("℃", "摄氏度"),
    ("%", "百分号"),
    ("+", "加"),
    ("=", "等于"),
    ("×", "乘以"),
    ("÷", "除以"),
    ("±", "正负"),
    ("≈", "约等于"),
    ("≥", "大于等于"),
    ("≤", "小于等于"),
    (">", "大于"),
    ("<", "小于"),
    ("&", "和"),
    ("~", "到"),
    ("½", "二分之一"),
    ("¼", "四分之一"),
    ("¾", "四分之三"),
    ("²", "平方"),
    ("³", "立方"),
    ("°", "度"),
)


def normalise(text: str) -> str:
    """The text with everything that is not a word written out in characters; Latin words stay."""
    if not re.search(r"[^\w\s.,!?;:…—“”()'-]|\d", text):
        return text
    text = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
    text = _DATE.sub(lambda m: f"{_digits(m[1])}年{cardinal(m[3])}月{cardinal(m[4])}日", text)
    text = _MOBILE.sub(lambda m: _digits(m[0], "幺"), text)
    text = _PHONE.sub(lambda m: _digits(m[0], "幺"), text)
    text = _HOTLINE.sub(lambda m: _digits(m[0], "幺"), text)
    text = _YEAR.sub(lambda m: _digits(m[1]), text)
    text = _CLOCK.sub(_clock, text)
    text = _SCORE.sub(r"\1:\2", text)
    text = _SPELLED.sub(lambda m: re.sub(r"\d", lambda digit: _DIGIT[digit[0]], m[0].lstrip("-")), text)
    text = _RATIO.sub(lambda m: f"{cardinal(m[1])}比{cardinal(m[2])}", text)
    text = _RANGE.sub(r"\1到", text)
    text = _TEMPERATURE.sub(
        lambda m: (
            ("零下" if m[1] else "")
            + ("华氏" if m[3] == "F" else "")
            + cardinal(m[2])
            + ("度" if m[3] == "F" else "摄氏度")
        ),
        text,
    )
    text = _PERCENT.sub(
        lambda m: ("负" if m[1] else "") + ("百" if m[3] == "%" else "千") + "分之" + cardinal(m[2]), text
    )
    text = _MONEY.sub(lambda m: _counted(m[2]) + m[3] + _CURRENCIES[m[1]], text)
    text = re.sub(r"(?<![\w.])-(?=\d)", "负", text)
    text = _UNIT.sub(lambda m: _counted(m[1]) + _UNITS[m[2]], text)
    text = _FRACTION.sub(lambda m: f"{cardinal(m[2])}分之{cardinal(m[1])}", text)
    text = _VERSION.sub(lambda m: "点".join(map(cardinal, m[0].split("."))), text)
    text = re.sub(r"#(?=\d)", "第", text)
    text = _TWO.sub("两", text)
    text = _CODE.sub(lambda m: _digits(m[0]), text)
    text = _ANY.sub(lambda m: cardinal(m[0]), text)
    for symbol, word in _SYMBOLS:
        text = text.replace(symbol, word)
    return text


def cardinal(number: str) -> str:
    """`"2026"` -> 两千零二十六, `"3.50"` -> 三点五零; more than sixteen digits are read one by one."""
    import cn2an

    whole, _, fraction = number.partition(".")
    if len(whole) > 16:
        spoken = _digits(whole)
    else:
        spoken = cn2an.an2cn(str(int(whole)), "low")
    if spoken.startswith("一十"):
        spoken = spoken[1:]
    if spoken.startswith(("二千", "二万", "二亿")):
        spoken = "两" + spoken[1:]
    return spoken + ("点" + _digits(fraction) if fraction else "")


def _counted(number: str) -> str:
    return "两" if number == "2" else cardinal(number)


def _digits(text: str, one: str = "一") -> str:
    spoken = "".join(_DIGIT[char] for char in text if char in _DIGIT)
    return spoken.replace("一", one)


def _clock(match: re.Match) -> str:
    hour, minute, second = match[1], match[2], match[3]
    spoken = _counted(str(int(hour))) + "点"
    if int(minute) or second:
        spoken += ("零" if minute[0] == "0" and int(minute) else "") + cardinal(minute) + "分"
    if second:
        spoken += ("零" if second[0] == "0" and int(second) else "") + cardinal(second) + "秒"
    return spoken

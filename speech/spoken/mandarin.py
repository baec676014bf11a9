"""Writes numbers, dates, times, money, units and symbols in Chinese text as Chinese words.

It runs before the text is split by language, so that `3.5 kg` becomes 三点五千克 and not an English word. cn2an makes
the cardinals. The rules here decide the numbers that are read digit by digit (years, telephone numbers, codes), and the
places of 两 for 2.
"""

from __future__ import annotations

import re

from speech.aligned_text import AlignedText
from speech.spoken import addresses, marks

_SIGNS = {
    ".": " dot ", "/": " slash ", "@": " at ", "-": " dash ", "_": " underscore ", "?": "问号", "=": "等于",
    "&": " and ", "#": "井号", "%": "百分号", ":": "冒号", "+": "加", "~": "波浪号",
}  # fmt: skip
_DIGIT = dict(zip("0123456789", "零一二三四五六七八九", strict=True))
_UNITS = {
    "km/h": "公里每小时",
    "mmHg": "毫米汞柱",
    "mmol/L": "毫摩尔每升",
    "μmol/L": "微摩尔每升",
    "umol/L": "微摩尔每升",
    "mg/dL": "毫克每分升",
    "g/L": "克每升",
    "mg/L": "毫克每升",
    "kg/m³": "千克每立方米",
    "g/cm³": "克每立方厘米",
    "kcal": "千卡",
    "cal": "卡",
    "kJ": "千焦",
    "kPa": "千帕",
    "MPa": "兆帕",
    "hPa": "百帕",
    "Pa": "帕",
    "mAh": "毫安时",
    "mA": "毫安",
    "A": "安",
    "kΩ": "千欧",
    "Ω": "欧",
    "GB": "吉字节",
    "MB": "兆字节",
    "KB": "千字节",
    "kB": "千字节",
    "TB": "太字节",
    "Gbps": "吉比特每秒",
    "Mbps": "兆比特每秒",
    "kbps": "千比特每秒",
    "MB/s": "兆字节每秒",
    "GB/s": "吉字节每秒",
    "bpm": "次每分",
    "rpm": "转每分",
    "m/s²": "米每二次方秒",
    "m/s2": "米每二次方秒",
    "μm": "微米",
    "um": "微米",
    "μg": "微克",
    "dm": "分米",
    "ft": "英尺",
    "lb": "磅",
    "oz": "盎司",
    "mph": "英里每小时",
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
_UNIT = re.compile(rf"({_NUMBER})\s?({_LONGEST_FIRST})(?![A-Za-z²³\d]|/[A-Za-z])")
#: `5元/kg`, `75次/分`: the stroke is followed by a unit
_PER = {
    **_UNITS, "d": "天", "day": "天", "hr": "小时", "sec": "秒", "mo": "月", "GB": "吉字节", "人": "人",
}  # fmt: skip
_PER_FIRST = "|".join(sorted(map(re.escape, _PER), key=len, reverse=True))
_CHINESE_PER = (
    "公斤|千克|斤|两|克|吨|升|毫升|米|平方米|平米|平|亩|公里|千米|小时|分钟|分|秒|天|日|周|月|季|年|次|人|个|件|位|户|台|套|晚|间|桌|"
    "箱|瓶|盒|包|袋|本|张|页|字|股|度|张"
)
_EACH = re.compile(rf"(?<=[\u4e00-\u9fff])/(?:({_CHINESE_PER})|({_PER_FIRST})(?![A-Za-z]))")
#: the same after a Latin unit or a number: `3kg/人`
_EACH_LATIN = re.compile(rf"({_NUMBER}(?:{_LONGEST_FIRST})?)/({_CHINESE_PER})(?![\u4e00-\u9fff]*/)")
_PRESSURE = re.compile(r"(\d{2,3})/(\d{2,3})\s?(?=mmHg|毫米汞柱)")
_THOUSANDS = re.compile(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?!,?\d)")
_DATE = re.compile(r"(?<!\d)(\d{4})([-/.])(0?[1-9]|1[0-2])\2(0?[1-9]|[12]\d|3[01])(?![\d/-]|\.\d)")
_MONTH = re.compile(r"(?<![\d/.-])((?:19|20)\d\d)[-/](0[1-9]|1[0-2])(?![\d/-]|\.\d)")
_YEARS = re.compile(r"(?<![\d.])((?:1\d|20)\d\d)\s?[-–—~至到]\s?((?:1\d|20)\d\d)(?=\s?(?:年|学年|赛季))")
_GENERATION = re.compile(r"(?<!\d)([0-9]0|[0-9]5)(?=[后後](?!\d|[天来续面]))")
_SPAN = re.compile(r"(?<=[日号号月点分时年度元%])\s?[-–—~]\s?(?=\d{1,4}(?:\s?[月日号点时年:元度%]|[-/]\d))")
_CLOCKS = re.compile(r"(?<=:\d\d)\s?[-–—~]+\s?(?=\d{1,2}:\d\d)")
_YEAR = re.compile(r"(?<![\d.])(\d{4})(?=\s?年(?!前|后|间|来|的历史))")
_CLOCK = re.compile(r"(?<![\d:])([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?(?!:?\d)")
_RATIO = re.compile(rf"({_NUMBER}):({_NUMBER})")
_MOBILE = re.compile(r"(?<![\d.])(?:\+?86[- ]?)?1[3-9]\d[- ]?\d{4}[- ]?\d{4}(?!\d)")
_PHONE = re.compile(r"(?<![\d.])(?:0\d{2,3}[- ])?\d{3,4}[- ]\d{4}(?!\d|年)|(?<![\d.])0\d{2,3}-\d{7,8}(?!\d)")
_SERVICE = re.compile(r"(?<![\d.-])([48]00)[- ](\d{3,4})[- ](\d{3,4})(?!\d)|(?<![\d.-])([48]00)[- ](\d{7})(?!\d)")
_FOREIGN = re.compile(r"(?<![A-Za-z0-9.])\+(\d{1,3})((?:[- ]?\d{2,5}){2,5})(?!\d)")
#: Telephone numbers: after a verb of calling or a noun of telephones, and well-known hotlines.
_HOTLINE = re.compile(
    r"((?:打|拨|拨打|致电|热线|电话|电话是|号码|号码是|客服|分机|转)[:是为]?\s?)(\d{3,12})(?!\d|\.\d|[个次人元块分秒小天年月份万千百多])"
)
_CALLED = re.compile("[打拨找]|电话|热线|客服|投诉|举报|咨询|联系|报警|报修|号码")
_KNOWN_HOTLINE = re.compile(
    r"(?<![A-Za-z\d.,])(95\d{3}|1(?:0000|0001|0010|0011|0086|2306|2315|2333|2345|2348|2366|2580|2119|0690))(?![\d年元人个万]|\.\d)"
)
_TEMPERATURE = re.compile(rf"(-?)({_NUMBER})\s?°\s?([CF])(?![A-Za-z])")
_PERCENT = re.compile(rf"(-?)({_NUMBER})\s?([%‰])")
_CURRENCIES = {
    "HK$": "港元",
    "US$": "美元",
    "A$": "澳元",
    "C$": "加元",
    "NT$": "新台币",
    "USD": "美元",
    "RMB": "元",
    "CNY": "元",
    "EUR": "欧元",
    "GBP": "英镑",
    "JPY": "日元",
    "HKD": "港元",
    "¥": "元",
    "￥": "元",
    "$": "美元",
    "€": "欧元",
    "£": "英镑",
    "₩": "韩元",
    "₹": "卢比",
}
_MONEY = re.compile(
    rf"(?<![A-Za-z])({'|'.join(map(re.escape, _CURRENCIES))})\s?({_NUMBER})(?:\s?[-–—~]\s?({_NUMBER}))?\s?([万亿百千]*)"
)
_FRACTION = re.compile(r"(?<![\d/.])(\d+)/(\d+)(?![\d/]|\.\d)")
_RANGE = re.compile(rf"({_NUMBER}[%℃°]?)\s?[-–~—]\s?(?={_NUMBER})")
_VERSION = re.compile(r"(?<![\d.])\d+(?:\.\d+){2,}(?!\.?\d)")
_COUNTED = (
    "个只条位本张台辆次种天周块元米公斤克倍名件杯瓶间座部份套双对场首句遍页段点岁人年分秒小层项家所棵朵頭头口把根片颗支艘"
    "架门"
)
_TWO = re.compile(rf"(?<![\d.第])2(?=\s?(?:多|[{_COUNTED}万千亿](?![月日号])))")
_CODE = re.compile(r"(?<![\d.])(?:0\d+|\d{9,})(?!\.?\d)")
_SPELLED = re.compile(
    r"(?<=[A-Za-z])-?\d{3,}(?!\.?\d)|\d{3,}(?=室|号房|房间|号楼|路(?:公|到|车|电|站))|(?<=[大街路道巷])\d{4,}(?=号)"
)
_NAMED_CODE = re.compile(
    r"((?:邮编|编号|编码|密码|验证码|校验码|尾号|学号|工号|单号|订单号|序列号|证号|账号|帐号|卡号|房号|车牌号?|代码|邮政编码|口令|后[三四六]位)"
    r"(?:[:是为]|是:)?\s?)(\d{3,})(?!\d|\.\d)"
)
_SCORE = re.compile(r"(?<=比分)(\D{0,2}\d+)-(\d+)")
_ANY = re.compile(_NUMBER)
_PERCENTS = re.compile(rf"(?<![\d.-])({_NUMBER})\s?[-–—~]\s?({_NUMBER})%")
_MIXED = re.compile(r"(?<![\d.])(\d+) (\d{1,2})/(\d{1,3})(?![\d/]|\.\d)")
_COMPOUND = re.compile(rf"({_NUMBER})\s?({_LONGEST_FIRST})/({_LONGEST_FIRST})(?![A-Za-z²³\d])")
_EVENT = re.compile(
    r"(?<![\d.])(19[4-9]\d|20[0-3]\d)(?=北京|上海|东京|巴黎|杭州|奥运|世界杯|亚运|春晚|春节|[春夏秋冬]季|年度|新款|款|版|届|赛季|财年|高考|中国|全国|全球)"
)
_NICKNAMED = re.compile(r"(?<!\d)(985|211|618|996|520|315|911|404|360)(?=[高大院工晚事购促错作制]|$)(?!小时)")
_FEAST = re.compile(r"(?<![\d.])(\d{1,2})[.·](\d{1,2})(?=儿童节|劳动节|国庆|妇女节|青年节)")
_SUBTRACTION = re.compile(rf"(?<=\d)\s?[-−]\s?(?={_NUMBER}\s?=)")
_DEGREES = re.compile(
    r"(?<![A-Za-z0-9.)）])[-−](?=\d+(?:\.\d+)?(?:\s?(?:到|至|~|-)\s?-?\d+(?:\.\d+)?)?\s?(?:度|℃|摄氏度|°))"
)
_MINUS = re.compile(r"(?<![A-Za-z0-9.)）])[-−](?=[¥￥$€£]?\d)")
_MINUS_MONEY = re.compile(r"(?<![A-Za-z0-9.)）])[-−](?=[¥￥$€£]\d)")
_NUMERO = re.compile(r"\b[Nn][Oo]\.\s?(?=\d)")
_RESOLUTION = re.compile(r"(?<=\d)\s?[xX*]\s?(?=\d)")
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


def written_out(text: str) -> AlignedText:
    """Write out everything that is not a word in characters; Latin words stay."""
    text = marks.ascii_digits(AlignedText.of(text))
    if not re.search(r"[^\w\s.,!?;:…—“”()'-]|[\d½¼¾²³]", text):
        return text
    text = addresses.written_out(text, _SIGNS, _address_part, _ip)
    text = text.sub("(?<=\\d)(?=[½¼¾])", " ").replace("½", "1/2").replace("¼", "1/4").replace("¾", "3/4")
    text = text.replace("−", "-")
    if _CALLED.search(text):
        text = text.sub(_KNOWN_HOTLINE, lambda m: _digits(m[0], "幺"))
    text = text.sub(_THOUSANDS, lambda m: m[0].replace(",", ""))
    text = text.sub(_EVENT, lambda m: _digits(m[0]))
    text = text.sub(_NICKNAMED, lambda m: _digits(m[0]))
    text = text.sub(_FEAST, lambda m: cardinal(m[1]) + cardinal(m[2]))
    text = text.sub(r"(?<=零下)\s?[-−](?=\d)", "")
    text = text.sub(_YEARS, lambda m: f"{_digits(m[1])}到{_digits(m[2])}")
    text = text.sub(_GENERATION, lambda m: _digits(m[1]))
    text = text.sub(_DATE, lambda m: f"{_digits(m[1])}年{cardinal(m[3])}月{cardinal(m[4])}日")
    text = text.sub(_MONTH, lambda m: f"{_digits(m[1])}年{cardinal(m[2])}月")
    text = text.sub(_SPAN, "到")
    text = text.sub(_CLOCKS, "到")
    text = text.sub(_FOREIGN, lambda m: f"加{_digits(m[1])}{_digits(m[2], '幺')}")
    text = text.sub(_MOBILE, lambda m: _digits(m[0], "幺"))
    text = text.sub(_SERVICE, lambda m: _digits(m[0], "幺"))
    text = text.sub(_PHONE, lambda m: _digits(m[0], "幺"))
    text = text.sub(_HOTLINE, lambda m: m[1] + _digits(m[2], "幺"))
    text = text.sub(_YEAR, lambda m: _digits(m[1]))
    text = text.sub(_CLOCK, _clock)
    text = text.sub(_SCORE, r"\1:\2")
    text = text.sub(_NUMERO, "number ")
    text = text.sub(_NAMED_CODE, lambda m: m[1] + _digits(m[2]))
    text = text.sub(_SPELLED, lambda m: re.sub(r"\d", lambda digit: _DIGIT[digit[0]], m[0].lstrip("-")))
    text = text.sub(_RATIO, lambda m: f"{cardinal(m[1])}比{cardinal(m[2])}")
    text = text.sub(_SUBTRACTION, "减")
    text = text.sub(_MINUS_MONEY, "负")
    text = text.sub(_MONEY, _money)
    text = text.sub(_PERCENTS, r"\1%到\2%")
    text = text.sub(_MIXED, lambda m: f"{cardinal(m[1])}又{_parts(m[3])}分之{cardinal(m[2])}")
    text = text.sub(_COMPOUND, lambda m: f"{m[1]}{_UNITS[m[2]]}每{_UNITS[m[3]]}")
    text = text.sub(_PRESSURE, lambda m: cardinal(m[1]) + m[2])
    text = text.sub(_EACH, lambda m: "每" + (m[1] or _PER[m[2]]))
    text = text.sub(_EACH_LATIN, r"\1每\2")
    text = text.sub(_DEGREES, "零下")
    text = text.sub(_RANGE, r"\1到")
    text = text.sub(_RESOLUTION, "乘以")
    text = text.sub(
        _TEMPERATURE,
        lambda m: (
            ("零下" if m[1] else "")
            + ("华氏" if m[3] == "F" else "")
            + cardinal(m[2])
            + ("度" if m[3] == "F" else "摄氏度")
        ),
    )
    text = text.sub(
        _PERCENT, lambda m: ("负" if m[1] else "") + ("百" if m[3] == "%" else "千") + "分之" + cardinal(m[2])
    )
    text = text.sub(_MINUS, "负")
    text = text.sub(_UNIT, lambda m: _counted(m[1]) + _UNITS[m[2]])
    text = text.sub(_FRACTION, lambda m: f"{_parts(m[2])}分之{cardinal(m[1])}")
    text = text.sub(_VERSION, lambda m: "点".join(map(cardinal, m[0].split("."))))
    text = text.sub(r"#(?=\d)", "第")
    text = text.sub(_TWO, "两")
    text = text.sub(_CODE, lambda m: _digits(m[0]))
    text = text.sub(_ANY, lambda m: cardinal(m[0]))
    for symbol, word in _SYMBOLS:
        text = text.replace(symbol, word)
    return text


def _money(match: re.Match[str]) -> str:
    sign, number, to, size = match.groups()
    return _counted(number) + (f"到{_counted(to)}" if to else "") + size + _CURRENCIES[sign]


def _address_part(part: str) -> str:
    """Read digits one by one and `www` by its letters; other Latin words stay."""
    if part.lower() in ("www", "http", "https", "ftp", "api"):
        return " ".join(part.upper())
    return re.sub(r"\d", lambda digit: _DIGIT[digit[0]], part)


def _ip(match: re.Match[str]) -> str:
    said = "点".join(map(_digits, match[1].split(".")))
    if match[2]:
        said += f"端口{cardinal(match[2])}"
    return said + (f"斜杠{cardinal(match[3])}" if match[3] else "")


def cardinal(number: str) -> str:
    """Read a cardinal: `"2026"` -> 两千零二十六, `"3.50"` -> 三点五零; over sixteen digits are read one by one."""
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


def _parts(number: str) -> str:
    """Return the parts of a fraction: 百分之一, though 100 by itself is 一百."""
    said = cardinal(number)
    return said[1:] if number in ("100", "1000", "10000") and said[0] == "一" else said


def _digits(text: str, one: str = "一") -> str:
    spoken = "".join(_DIGIT[char] for char in text if char in _DIGIT)
    return spoken.replace("一", one)


def _clock(match: re.Match[str]) -> str:
    hour, minute, second = match[1], match[2], match[3]
    spoken = _counted(str(int(hour))) + "点"
    if int(minute) or second:
        spoken += ("零" if minute[0] == "0" and int(minute) else "") + cardinal(minute) + "分"
    if second:
        spoken += ("零" if second[0] == "0" and int(second) else "") + cardinal(second) + "秒"
    return spoken

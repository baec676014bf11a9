"""Writes English out as it is said: by rules for cases that hibari leaves out or misreads, then by hibari's rules.

hibari expands dates, clocks, most units, titles and Roman numerals; cardinals stay digits, which its readers and
`engines.cosyvoice3.spelling` know.
"""

from __future__ import annotations

import re
import unicodedata

from speech.aligned_text import AlignedText
from speech.spoken import addresses, marks

_DIGITS = dict(zip("0123456789", "zero one two three four five six seven eight nine".split(), strict=True))
_ORDINALS = dict(
    zip(
        range(2, 21),
        (
            "half third quarter fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
            "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
        ).split(),
        strict=True,
    )
) | {32: "thirty-second", 50: "fiftieth", 64: "sixty-fourth", 100: "hundredth", 1000: "thousandth"}
_LENGTHS = {"km": "kilometers", "m": "meters", "cm": "centimeters", "mm": "millimeters", "ft": "feet"}
_POWERS = {"²": "square ", "³": "cubic "}
#: units that hibari does not write out; a bare letter counts only after a space (the 1990s are no seconds)
_UNITS = {
    "km/h": "kilometers per hour", "m/s": "meters per second", "m/s²": "meters per second squared",
    "mmol/L": "millimoles per liter", "mg/dL": "milligrams per deciliter", "kg/m³": "kilograms per cubic meter",
    "mmHg": "millimeters of mercury", "bpm": "beats per minute", "rpm": "revolutions per minute",
    "m": "meters", "g": "grams", "l": "liters", "L": "liters", "mL": "milliliters", "t": "tons", "W": "watts",
    "V": "volts", "A": "amperes", "mAh": "milliampere hours", "kWh": "kilowatt hours", "Wh": "watt hours",
    "dB": "decibels", "s": "seconds", "h": "hours", "µs": "microseconds", "μs": "microseconds", "tbsp": "tablespoons",
    "tsp": "teaspoons", "lbs": "pounds", "Mbps": "megabits per second", "Gbps": "gigabits per second",
    "kbps": "kilobits per second", "px": "pixels", "ha": "hectares", "psi": "pounds per square inch",
}  # fmt: skip
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_QUANTITY = rf"(?<![\w.])({_NUMBER})"
_AREA = re.compile(rf"{_QUANTITY}\s?(km|mm|cm|ft|m)([²³])")
_LONGEST_FIRST = "|".join(sorted(map(re.escape, _UNITS), key=len, reverse=True))
_UNIT = re.compile(rf"{_QUANTITY}(?: |(?=[A-Zµμgl]|[a-z]{{2}}|m/|[hV](?!\w)))({_LONGEST_FIRST})(?![\w/²³']|\.[A-Za-z])")
_SIGNS = {
    ".": " dot ", "/": " slash ", "@": " at ", "-": " dash ", "_": " underscore ", "?": " question mark ",
    "=": " equals ", "&": " and ", "#": " hash ", "%": " percent ", ":": " colon ", "+": " plus ", "~": " tilde ",
}  # fmt: skip
_LETTERS = frozenset("www uk us eu tv io ai jp cn de fr kr hk tw id api http https ftp".split())
_IDIOMS = {
    r"24/7": "twenty four seven", r"50/50": "fifty fifty", r"9/11": "nine eleven", r"and/or": "and or",
    r"he/she": "he or she", r"w/o": "without", r"C\+\+": "C plus plus", r"C#": "C sharp", r"F#": "F sharp",
    r"ASAP": "A S A P", r"FYI": "F Y I", r"FAQ": "F A Q", r"P\.S\.": "P S", r"R&D": "R and D", r"Q&A": "Q and A",
}  # fmt: skip
_IDIOM = {re.compile(rf"(?<![\w/.]){written}(?![\w/+#])"): spoken for written, spoken in _IDIOMS.items()}
_INITIALISMS = {"e.g.": "for example", "i.e.": "that is"}
_MAGNITUDES = {
    "k": "thousand", "K": "thousand", "m": "million", "M": "million", "mn": "million", "mio": "million",
    "b": "billion", "B": "billion", "bn": "billion", "tn": "trillion", "T": "trillion",
} | {word: word for word in ("hundred", "thousand", "million", "billion", "trillion")}  # fmt: skip
#: sign -> its unit, plural, and its hundredths
_CURRENCIES = {
    "$": ("dollar", "dollars", "cent"), "€": ("euro", "euros", "cent"), "£": ("pound", "pounds", "p"),
    "¥": ("yen", "yen", ""), "₹": ("rupee", "rupees", ""), "₩": ("won", "won", ""),
    "US$": ("US dollar", "US dollars", "cent"), "A$": ("Australian dollar", "Australian dollars", "cent"),
    "C$": ("Canadian dollar", "Canadian dollars", "cent"), "HK$": ("Hong Kong dollar", "Hong Kong dollars", "cent"),
}  # fmt: skip
_SIGN = "|".join(map(re.escape, sorted(_CURRENCIES, key=len, reverse=True)))
_MONEY = re.compile(
    rf"(?<![\w$])([-−]\s?)?({_SIGN})\s?([-−])?({_NUMBER})(?:\s?[-–—]\s?(?:{_SIGN})?({_NUMBER}))?"
    r"(?:\s?(bn|tn|mn|mio|[kKmMbBT]|hundred|thousand|million|billion|trillion)(?![\w]))?"
)
#: too long to be a quantity (hibari's words end at decillions): said digit by digit
_CODE = re.compile(r"\d[\d,]{15,}\d|(?<![\d.,])\d{8,}(?![\d,]|\.\d)")
_LEADING_ZERO = re.compile(r"(?<![\w.,:/-])0\d+(?!\w|[.,:/-]\d)")
_PHONES = (
    re.compile(r"(?<![\w.])00\d{1,3}(?:[ -]\d{2,5}){2,5}(?!\w|-\d)"),
    re.compile(r"(?<![\w.])\+\d{1,3}(?:[ .-]?\(?\d{1,5}\)?){2,6}(?!\d)"),
    re.compile(r"(?<![\w.-])(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[.-]\d{4}(?!\w)"),
    re.compile(r"(?<![\w.-])(?:\d{3}-)?\d{3}-\d{4}(?!\w|-\d)"),
    re.compile(r"(?<![\w.-])\(?0\d{2,4}\)?(?:[ -]\d{3,4}){1,3}(?!\w|-\d)"),
)
_DIALLED = re.compile(r"\b([Cc]all|[Dd]ial|[Rr]ing) (\d{3,6})(?![\w:]|[.,]\d)(?! (?:times|people|of|more|customers))")
_VERSION = re.compile(r"(?<![\w.])([vV])?(\d+(?:\.\d+){2,})(?![\w]|\.\d)")
_RELEASE = re.compile(
    r"\b(version|release|python|node|java|ubuntu|ios|android|macos|windows|ruby|go|rust|php|chrome|firefox|kernel|"
    r"cuda|pytorch|django|section|figure|chapter)( )(\d+)\.(\d+)(?!\w|\.\d)",
    re.IGNORECASE,
)
_V = re.compile(r"(?<!\w)[vV](?=\d)")
_MIXED = re.compile(r"(?<![\w./])(\d+) (\d{1,2})/(\d{1,3})(?![\w/]|\.\d)")
_FRACTION = re.compile(r"(?<![\w./])(\d{1,3})/(\d{1,4})(?![\w/]|\.\d)")
_RATIO = re.compile(r"(?<![\w.:])(\d{1,4}):(\d)(?![\w:]|\.\d)|(?<=ratio of )(\d+):(\d+)")
_RANGE = re.compile(
    rf"(?<![\w.,/-])(-?(?:{_NUMBER}))(%?)\s?[-–—~]\s?((?:{_NUMBER}))(?![\d/-]|[.,]\d|[-–]\d|\s?=)(?!-[a-z])"
)
_HOURS = re.compile(r"(?<=\d|m)\s?[-–—~]\s?(?=\d{1,2}(?::\d\d|\s?[ap]\.?m\b))", re.IGNORECASE)
_HOUR = re.compile(r"(?<![\d.:])(\d{1,2})((?::\d\d)?)\s?([AaPp])\.?[Mm]\b\.?(?!\w)")
_MINUS = re.compile(r"(?<![\w.)\]])[-−](?=\d)")
_TAKEN = re.compile(r"(?<=\d)\s[-−–]\s(?=\d+\s?=)|(?<=\d)[-−](?=\d+\s?=)")
_HEIGHT = re.compile(r"(?<![\w'])(\d)'\s?(\d{1,2})(?:\"|''|”)")
_INCHES = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)(?:-inch|[\"”](?= (?:screen|display|monitor|tv|TV|disk|pipe)))")
_THOUSANDS = re.compile(r"(?<![\w.,$€£])(\d+(?:\.\d+)?)[kK](?!\w)")
_NAMED = re.compile(
    r"\b(room|flight|highway|route|boeing|airbus|suite|bus|interstate|gate|apartment|model|extension)( )"
    r"([1-9]\d\d)(?!\w|[.,]\d)",
    re.IGNORECASE,
)
_HOUSE = re.compile(r"(?<![\w.,])([1-9]\d\d)([A-Z])(?!\w)")
_LETTERS_DIGITS = re.compile(r"(?<![\w.-])([A-Z]{1,3})-?(\d{3,5})(?!\w|\.\d)")
_LIST = re.compile(r"(?<![\d,.])\d{1,2}(?:,\d{1,2})+(?![\d,]|\.\d)")
_SLASH = re.compile(r"(?<=[A-Za-z])/(?=[A-Za-z])")
_DAY_MONTH = re.compile(r"(?<![\d/])(\d{1,2})/(\d{1,2})/(\d{4})(?![\d/])")
_MONTHS = ("January February March April May June July August September October November December").split()
_SPELLED = {"meter": "metre", "liter": "litre"}
#: Words that hibari would take for abbreviations at the end of a sentence: `no.` means number only before a number.
_NO_ABBREVIATION = re.compile(
    r"(?<![\w.])(?:[Nn]o|NO|fig|gal|art|sun|sat|wed|mar|in|may|nos|ft)(?=\.(?!\s?\d))"
    r"|(?<![\w.])(?:dec|sec|gen|rep|sen|col|max|min|pop|est|gov)(?=\.\s*$)"
)
_ET_CETERA = re.compile(r"(?<!\w)etc(?:\.(?=\s*[,;:)])|\.|(?!\w))(\s+[A-Z]|\s*$)?")
_STREET = re.compile(r"(?<=[a-z\d] )(St|Ave|Rd|Blvd|Dr|Ln)\.?(?=[\s,.;]*$|[,;.]|\s+(?:[A-Z]|and|is|in|near|at))")
_STREETS = {"St": "Street", "Ave": "Avenue", "Rd": "Road", "Blvd": "Boulevard", "Dr": "Drive", "Ln": "Lane"}
_APARTMENT = re.compile(r"\b[Aa]pt\.?(?=\s?#?\d)")
_LINK = str.maketrans({"[": " ", "]": " "})
_VULGAR = {"½": "a half", "¼": "a quarter", "¾": "three quarters"}
_CODES = {"USD": "US dollars", "EUR": "euros", "GBP": "pounds", "JPY": "yen", "CNY": "yuan"}
_COMPARISONS = {
    "≥": "at least",
    "≤": "at most",
    "≈": "about",
    "≠": "not",
    "(?<!\\w)<": "less than",
    "(?<!\\w)>": "more than",
}


def written_out(text: str, british: bool = False) -> AlignedText:
    """Write out everything that a reader of words can't read; cardinals stay digits.

    Args:
        text: plain punctuation, no Markdown.
        british: days before months, metres and litres.
    """
    from hibari.g2p import normalize

    prepared = _prepared(marks.ascii_digits(AlignedText.of(text)), british)
    ends = [0, *(match.end() for match in _NO_ABBREVIATION.finditer(prepared)), len(prepared)]
    parts = [prepared[start:end] for start, end in zip(ends, ends[1:], strict=False)]
    return AlignedText.joined(part.changed_to(normalize(part).join(_outer_spaces(part))) for part in parts)


def _outer_spaces(text: str) -> tuple[str, str]:
    return " " if text[:1].isspace() else "", " " if text[1:] and text[-1:].isspace() else ""


def _prepared(text: AlignedText, british: bool) -> AlignedText:
    text = text.translate(_LINK).mapped(_plain_letter)
    text = _quiet(text)
    text = text.sub(r"(?<=[a-z] )Am\b", "am")  # Pan Am: hibari would spell it
    text = text.sub(r"(?<!\w)'(?=\d\ds)", "")  # '90s: no quotation begins here
    text = addresses.written_out(text, _SIGNS, _address_part, _ip)
    for idiom, spoken in _IDIOM.items():
        text = text.sub(idiom, spoken)
    for written, spoken in _INITIALISMS.items():
        text = text.sub(re.compile(rf"(?<!\w){re.escape(written)}", re.IGNORECASE), spoken)
    text = text.sub(_ET_CETERA, lambda m: "et cetera" + ("." + (m[1] or "") if m[1] is not None else ""))
    text = text.sub(_STREET, lambda m: _STREETS[m[1]])
    text = text.sub(_APARTMENT, "Apartment")
    text = text.sub(r"\b[Aa]pprox\.", "approximately")
    text = text.sub(r"(?<![\d/.-])(\d{4})/(\d{1,2})/(\d{1,2})(?![\d/]|\.\d)", _year_first)
    text = text.sub(r"(\d)\s?ft\.?\s(\d+(?:\.\d+)?)\s?in\b\.?(?!\w)", r"\1 feet \2 inches")
    text = text.sub(r"(?<=\d)\s?([½¼¾])", lambda m: f" and {_VULGAR[m[1]]}")
    text = text.sub(
        r"(?<![\w.])([248])K(?= (?:TV|video|monitor|display|screen|resolution|movie|camera|content))", r"\1 K"
    )
    text = text.sub(rf"(?<![\w.])({_NUMBER})\s?(bn|mn|tn)(?!\w)", lambda m: f"{m[1]} {_MAGNITUDES[m[2]]}")
    text = text.sub(rf"(?<![\w.])({_NUMBER}) (USD|EUR|GBP|JPY|CNY)(?!\w)", lambda m: f"{m[1]} {_CODES[m[2]]}")
    for pattern in _PHONES:
        text = text.sub(pattern, _phone)
    text = text.sub(_DIALLED, lambda m: f"{m[1]} {_one_by_one(m[2])}")
    if british:
        text = text.sub(_DAY_MONTH, _british_date)
    text = text.sub(_MONEY, _money)
    text = text.sub(_VERSION, lambda m: ("version " if m[1] else "") + m[2].replace(".", " point "))
    text = text.sub(_RELEASE, r"\1\2\3 point \4")
    text = text.sub(r"(?<!\w)[vV](\d+)\.(\d+)(?!\w|\.\d)", r"version \1 point \2")
    text = text.sub(_V, "version ")
    text = text.sub(_HEIGHT, r"\1 foot \2")
    text = text.sub(_INCHES, r"\1 inch")
    text = text.sub(_LIST, lambda m: m[0].replace(",", ", "))
    text = text.sub(_MIXED, lambda m: f"{m[1]} and {_fraction(m[2], m[3], 'a')}")
    text = text.sub(_FRACTION, lambda m: _fraction(m[1], m[2], "one") or m[0])
    text = text.sub(_HOURS, " to ")
    text = text.sub(
        _HOUR,
        lambda m: f"{m[1]}{m[2]} {m[3].upper()}M" + ("." if m[0][-1] == "." and not text[m.end() :].strip() else ""),
    )
    text = text.sub(_RATIO, lambda m: f"{m[1] or m[3]} to {m[2] or m[4]}")
    text = text.sub(_TAKEN, " minus ")
    text = text.sub(_RANGE, lambda m: _range(m))
    text = text.sub(_MINUS, "minus ")
    text = text.sub(_CODE, lambda m: " ".join(m[0].replace(",", "")))
    text = text.sub(_LEADING_ZERO, lambda m: _one_by_one(m[0]))
    text = text.sub(_NAMED, lambda m: m[1] + m[2] + _in_pairs(m[3]))
    text = text.sub(_HOUSE, lambda m: f"{_in_pairs(m[1])} {m[2]}")
    text = text.sub(_LETTERS_DIGITS, lambda m: f"{' '.join(m[1])} {_one_by_one(m[2])}")
    text = text.sub(_AREA, lambda m: f"{m[1]} {_number_of(_POWERS[m[3]] + _LENGTHS[m[2]], m[1])}")
    text = text.sub(_UNIT, lambda m: f"{m[1]} {_number_of(_UNITS[m[2]], m[1])}")
    text = text.sub(_THOUSANDS, r"\1 thousand")
    text = text.sub(r"(?<=\d)\s?%", " percent")
    text = text.sub(r"(?<=\w) < (?=\w)", " less than ").sub(r"(?<=\w) > (?=\w)", " greater than ")
    text = text.sub(r"±\s?", "plus or minus ")
    for sign, word in _COMPARISONS.items():
        text = text.sub(rf"\s?{sign}\s?(?=\d)", f" {word} ")
    text = text.sub(r"(?<=\d)(?:x| x )(?=\d)", " by ").sub(r"(?<=\d)\s?\*\s?(?=\d)", " times ")
    for sign, word in ((r"\+", "plus"), ("&", "and"), ("@", "at")):
        text = text.sub(rf"(?<=\w) {sign} (?=\w)", f" {word} ")
    text = text.sub(_SLASH, " slash ")
    if british:
        for american, spelled in _SPELLED.items():
            text = text.replace(american, spelled)
    return text


def _quiet(text: AlignedText) -> AlignedText:
    """Write a sentence in capitals in lower case: readers would spell its words."""
    words = re.findall(r"[A-Za-z']+", text)
    if len([word for word in words if len(word) > 1]) < 3 or re.search(r"[a-z]", text):
        return text
    return text.lower().sub(r"\bi\b", "I")


def _address_part(part: str) -> str:
    return " ".join(part.upper()) if part.lower() in _LETTERS else part


def _ip(match: re.Match[str]) -> str:
    said = " dot ".join(map(_one_by_one, match[1].split(".")))
    if match[2]:
        said += f" port {match[2]}"
    return said + (f" slash {match[3]}" if match[3] else "")


def _one_by_one(digits: str) -> str:
    return " ".join(_DIGITS[digit] for digit in digits)


def _dialled(group: str) -> str:
    """Read a group of a telephone number: 555 digit by digit, 800 and 0800 with their hundred."""
    if re.fullmatch("0?[1-9]00", group):
        return f"{_one_by_one(group[:-2])} hundred"
    return _one_by_one(group)


def _phone(match: re.Match[str]) -> str:
    groups = re.findall(r"\d+", match[0])
    return ("plus " if match[0].startswith("+") else "") + ", ".join(map(_dialled, groups))


def _in_pairs(number: str) -> str:
    """Read a number in pairs: 747 as seven forty-seven, 302 as three oh two, 100 as it is."""
    first, rest = number[0], number[1:]
    if rest == "00":
        return number
    return f"{first} oh {rest[1]}" if rest[0] == "0" else f"{first} {rest}"


def _money(match: re.Match[str]) -> str:
    before, sign, inside, number, to, magnitude = match.groups()
    one, many, hundredth = _CURRENCIES[sign]
    said = "minus " if before or inside else ""
    if before and not re.match(r"[-−]\d|[-−][^\d\s]", match[0]):
        said = "- "
    if to:
        size = f" {_MAGNITUDES[magnitude]}" if magnitude else ""
        return f"{said}{number} to {to}{size} {many}"
    if magnitude:
        return f"{said}{number} {_MAGNITUDES[magnitude]} {many}"
    whole, _, cents = number.partition(".")
    if len(cents) != 2 or not hundredth:
        return f"{said}{number} {one if number == '1' else many}"
    cent = f"{int(cents)} {hundredth}{'' if int(cents) == 1 or hundredth == 'p' else 's'}" if int(cents) else ""
    if int(whole.replace(",", "")) == 0 and cent:
        return said + cent
    return f"{said}{whole} {one if whole == '1' else many}" + (f" and {cent}" if cent else "")


def _fraction(over: str, under: str, single: str) -> str:
    name = _ORDINALS.get(int(under))
    if name is None or int(over) >= int(under) * 10 or int(over) == 0:
        return ""
    if int(over) == 1:
        return f"{single} {name}"
    return f"{over} {'halves' if name == 'half' else name + 's'}"


def _range(match: re.Match[str]) -> str:
    first, percent, last = match.groups()
    return f"{first}{percent} to {last}"


def _number_of(plural: str, number: str) -> str:
    if number != "1":
        return plural
    return plural.replace("feet", "foot") if "feet" in plural else re.sub(r"s\b", "", plural, count=1)


def _year_first(match: re.Match[str]) -> str:
    return f"{match[1]}-{int(match[2]):02}-{int(match[3]):02}"


def _british_date(match: re.Match[str]) -> str:
    day, month = int(match[1]), int(match[2])
    return f"{day} {_MONTHS[month - 1]} {match[3]}" if 1 <= month <= 12 and 1 <= day <= 31 else match[0]


def _plain_letter(char: str) -> str:
    """Remove the marks of letters beyond Latin-1, which the lexicon doesn't know: ř -> r. é and ü stay."""
    if char < "Ā" or not char.isalpha():
        return char
    return "".join(part for part in unicodedata.normalize("NFKD", char) if not unicodedata.combining(part))

"""The registry of dialects: the codes that clients send, names for people, and values for traces.

The Chinese dialects are the seventeen that Fun-CosyVoice3's code names beside Mandarin (FunAudioLLM/CosyVoice, its
instruction list), the other languages are the ones its model card lists. Operators may add more by configuration
(`Registry.extended`). The engine, not the registry, says if it can *speak* a dialect.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

from config.nearest import nearest
from speech.errors import InvalidInput


@dataclass(frozen=True)
class Dialect:
    """One dialect or language."""

    code: str  #: as requested: `zh-Sichuan`
    name: str  #: as its speakers write it: 四川话
    english_name: str
    language: str  #: ISO 639-1: `zh`
    tag: str  #: value of `request.dialect` in traces: `sichuan`


def _chinese(place: str, name: str, english: str | None = None) -> Dialect:
    return Dialect(f"zh-{place}", name, english or f"{place} dialect", "zh", place.lower())


_BUILT_IN = (
    Dialect("zh-CN", "普通话", "Mandarin", "zh", "mandarin"),
    _chinese("Cantonese", "广东话", "Cantonese"),
    _chinese("Dongbei", "东北话", "Northeastern Mandarin"),
    _chinese("Gansu", "甘肃话"),
    _chinese("Guizhou", "贵州话"),
    _chinese("Henan", "河南话"),
    _chinese("Hubei", "湖北话"),
    _chinese("Hunan", "湖南话"),
    _chinese("Jiangxi", "江西话"),
    _chinese("Minnan", "闽南话", "Hokkien"),
    _chinese("Ningxia", "宁夏话"),
    # Shanxi 山西 and Shaanxi 陕西 differ by one tone; the doubled a is the official romanisation.
    _chinese("Shanxi", "山西话"),
    _chinese("Shaanxi", "陕西话"),
    _chinese("Shandong", "山东话"),
    _chinese("Shanghai", "上海话", "Shanghainese"),
    _chinese("Sichuan", "四川话", "Sichuanese"),
    _chinese("Tianjin", "天津话"),
    _chinese("Yunnan", "云南话"),
    Dialect("en-US", "English (US)", "American English", "en", "english-us"),
    Dialect("en-GB", "English (UK)", "British English", "en", "english-gb"),
    Dialect("ja-JP", "日本語", "Japanese", "ja", "japanese"),
    Dialect("ko-KR", "한국어", "Korean", "ko", "korean"),
    Dialect("de-DE", "Deutsch", "German", "de", "german"),
    Dialect("es-ES", "Español", "Spanish", "es", "spanish"),
    Dialect("fr-FR", "Français", "French", "fr", "french"),
    Dialect("it-IT", "Italiano", "Italian", "it", "italian"),
    Dialect("ru-RU", "Русский", "Russian", "ru", "russian"),
)


class Registry:
    """Dialects by code. Case does not matter, and `zh_sichuan` is read as `zh-Sichuan`.

    Raises:
        ValueError: two dialects have the same code or tag.
    """

    def __init__(self, dialects: Iterable[Dialect] = _BUILT_IN) -> None:
        self._by_key: dict[str, Dialect] = {}
        tags: dict[str, str] = {}
        for dialect in dialects:
            key = self._key(dialect.code)
            if key in self._by_key or tags.setdefault(dialect.tag, key) != key:
                raise ValueError(f"dialect {dialect.code!r} or its tag {dialect.tag!r} is registered twice")
            self._by_key[key] = dialect

    @staticmethod
    def _key(code: str) -> str:
        return code.strip().replace("_", "-").lower()

    def __iter__(self) -> Iterator[Dialect]:
        return iter(self._by_key.values())

    def __contains__(self, code: str) -> bool:
        return self._key(code) in self._by_key

    def extended(self, more: Iterable[Mapping[str, str]]) -> Registry:
        """Return a registry with more dialects, each a mapping with the fields of `Dialect`.

        Raises:
            ValueError: a code or a tag is registered already.
        """
        return Registry([*self, *(Dialect(**entry) for entry in more)])

    def find(self, code: str | None) -> Dialect:
        """Return the dialect with this code.

        Raises:
            InvalidInput: `code` is missing or unknown; the message has the nearest codes.
        """
        if code is None or not code.strip():
            raise InvalidInput(
                "The field 'dialect' is required, for example en-US, zh-CN or zh-Sichuan; "
                "GET /api/dialects lists them all. Nothing is assumed where it is missing.",
                param="dialect",
                code="dialect_missing",
            )
        found = self._by_key.get(self._key(code))
        if found is None:
            near = nearest(self._key(code), self._by_key, count=3, cutoff=0.5)
            hint = f"Did you mean {' or '.join(self._by_key[key].code for key in near)}? " if near else ""
            raise InvalidInput(
                f"The dialect asked for is not known. {hint}GET /api/dialects lists them all.",
                param="dialect",
                code="dialect_unknown",
            )
        return found

    def public(self, spoken: frozenset[str]) -> list[dict[str, str | bool]]:
        """Return all dialects as `/api/dialects` shows them.

        Args:
            spoken: the codes that the running engine can speak; they are `supported`.
        """
        return [asdict(dialect) | {"supported": dialect.code in spoken} for dialect in self]


DIALECTS = Registry()

"""Lists words with a full stop after which a sentence goes on, by language.

A sentence that is not ended at `etc.` is only longer; a sentence that is ended at `Dr.` has a pause in a name. So the
list holds every word that is written with a full stop more often inside a sentence than at its end.
"""

from __future__ import annotations

import re

_WORDS = {
    "en": """adm al apr approx apt assn assoc asst aug ave bldg blvd brig bros ca capt cf ch cmdr co col corp cpl dec
          dept dist div dr ed eds eq est etc ext feb fig figs fr ft gen gov hon hwy inc intl jan jr jul jun lb lbs
          lt ltd maj mar mfg min mr mrs ms mt mts nov oct op oz pl pp ph.d pres prof pt rd rep rev sen sep sept sgt
          sr st ste univ vol vols vs""",
    "de": """abb abs abt allg anm aufl bd bearb begr bes betr bez bspw bzgl bzw ca dipl dr ebd ehem einschl entspr erw
          etc evtl exkl ff fr frl geb gegr gem ggf griech hl hr hrn hrsg inkl ing insb jh jhd kap lt mind mio mrd
          mwst nr inkl od phil prof rd sog st std str tel tsd usf usw vgl vol wg zit ztr zzgl""",
    "es": """aprox arq art av avda cap cía dept depto dña dr dra drs etc fig gral hno ing izq lic máx mín núm pág págs
          párr prof profa prov ref sr sra sres srta sto sta tel vol ud uds vd vds""",
    "fr": """al apr av bd boul cf chap ch col dép dr éd env etc ex fig hab ill inc max mgr min mlle mlles mm mme mmes
          obs p.ex par pp prof rés réf sect st ste sté suiv tél vol""",
    "it": """art arch avv cap cav cfr co dott dr ecc ed es fig geom gent ill ing lett max min mons nr num pag pagg par
          prof profssa rag sez sig sigg sigra spett ss tab tel vol dott.ssa prof.ssa sig.ra sig.na""",
    "ru": """акад без букв бул вв гл гос гр гражд губ деп дер доц долл др зав зам им инж ин илл исп кап кв корп лат млн
          млрд напр нач обл оз отв пер пл пос пр проф просп разд рус руб сб см соч ср ст стр сокр табл тел тыс ул
          урожд франц чел шт экз яз""",
}
_LISTS = {language: frozenset(words.split()) for language, words in _WORDS.items()}
_BEFORE_A_NUMBER = frozenset("no nos nr art fig ch p pp s vol n núm pag стр рис гл".split())
_SHORT_WITH_STOPS = re.compile(r"[^\W\d_]{1,2}(?:\.[^\W\d_]{1,2})+")


def is_abbreviation(word: str, language: str, following: str) -> bool:
    """Return True if `word` and its full stop are inside a sentence.

    Args:
        word: the word before the full stop, without spaces: `Dr`, `U.S`, `Hauptstr`.
        language: ISO 639-1; English is used for a language without a list.
        following: the next character that is written, or "".
    """
    lower = word.lower()
    if lower == word.upper():
        return False  # a script without capitals has no initials
    if len(word) == 1 or _SHORT_WITH_STOPS.fullmatch(word):
        return True  # an initial, `U.S.`, `e.g.`, `z.B.`, `т.е.`
    if lower in _LISTS.get(language, _LISTS["en"]):
        return True
    if language == "de" and lower.endswith("str"):
        return True
    return following.isdigit() and lower in _BEFORE_A_NUMBER

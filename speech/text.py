"""Rules for text that hold for every engine."""

from speech.errors import InvalidInput


def check_text(text: str) -> str:
    if not text.strip():
        raise InvalidInput("The field 'text' is empty.", param="text", code="text_empty")
    return text.strip()


check_instruction = check_transcript = check_text

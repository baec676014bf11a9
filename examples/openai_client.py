"""Speak with a stored voice through the `openai` package.

pip install openai
python examples/openai_client.py anna 'Good morning.' out.wav
"""

import os
import sys

import openai


def main(voice: str, text: str, path: str) -> None:
    """Write `text`, spoken by the stored voice `voice`, to `path` as WAV."""
    client = openai.OpenAI(
        base_url=os.environ.get("COSYGRAPH_URL", "http://127.0.0.1:8000") + "/v1",
        api_key=os.environ.get("COSYGRAPH_KEY", "none"),  # the package wants one, even where the server asks for none
    )
    try:
        with client.audio.speech.with_streaming_response.create(
            model="cosygraph", voice=voice, input=text, response_format="wav"
        ) as response:
            response.stream_to_file(path)
            print(f"{path}, trace {response.headers['x-trace-id']}")
    except openai.APIStatusError as error:
        sys.exit(f"HTTP {error.status_code}, trace {error.response.headers.get('x-trace-id')}: {error.message}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])

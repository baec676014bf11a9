"""Receive speech while it is made, with the standard library alone.

    python examples/stream.py anna 'One sentence. And another one.' out.wav

The server sends 16-bit mono PCM at 24 kHz in chunks. A player would write each chunk to the sound card as it comes.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
import wave

RATE = 24_000  #: Hz
CHUNK = 4_800  #: bytes, a tenth of a second


def main(voice: str, text: str, path: str) -> None:
    """Write `text`, spoken by the stored voice `voice`, to `path`, and print when the first audio came."""
    body = {"model": "cosygraph", "voice": voice, "input": text, "response_format": "pcm", "stream_format": "audio"}
    request = urllib.request.Request(
        os.environ.get("COSYGRAPH_URL", "http://127.0.0.1:8000") + "/v1/audio/speech",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    if key := os.environ.get("COSYGRAPH_KEY"):
        request.add_header("Authorization", f"Bearer {key}")
    started, first = time.monotonic(), None
    try:
        with urllib.request.urlopen(request) as response, wave.open(path, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            while chunk := response.read1(CHUNK):
                first = first or time.monotonic() - started
                file.writeframesraw(chunk)
            print(f"{path}, first audio after {first or 0:.2f} s, trace {response.headers['X-Trace-Id']}")
    except urllib.error.HTTPError as error:
        sys.exit(f"HTTP {error.code}, trace {error.headers.get('X-Trace-Id')}: {error.read().decode()}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])

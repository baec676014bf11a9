"""Receive speech while it is made, with the standard library alone.

    python examples/stream.py anna 'One sentence. And another one.' out.mp3

The server sends the file in chunks, in the format of its name: mp3, opus, aac, flac or wav. A player would take each
chunk as it comes. The file says that its speech is synthetic; with "pcm", bare samples, only the header X-AIGC does.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

CHUNK = 4_800  #: bytes to wait for at most


def main(voice: str, text: str, path: str) -> None:
    """Write `text`, spoken by the stored voice `voice`, to `path`, and print when the first audio came."""
    body = {"model": "cosygraph", "voice": voice, "input": text, "stream_format": "audio"}
    body["response_format"] = Path(path).suffix.removeprefix(".")
    request = urllib.request.Request(
        os.environ.get("COSYGRAPH_URL", "http://127.0.0.1:8000") + "/v1/audio/speech",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    if key := os.environ.get("COSYGRAPH_KEY"):
        request.add_header("Authorization", f"Bearer {key}")
    started, first = time.monotonic(), None
    try:
        with urllib.request.urlopen(request) as response, open(path, "wb") as file:
            while chunk := response.read1(CHUNK):
                first = first or time.monotonic() - started
                file.write(chunk)
            print(f"{path}, first audio after {first or 0:.2f} s, trace {response.headers['X-Trace-Id']}")
    except urllib.error.HTTPError as error:
        sys.exit(f"HTTP {error.code}, trace {error.headers.get('X-Trace-Id')}: {error.read().decode()}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])

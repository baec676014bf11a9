"""Speak a text while it is written: read standard input as it comes, and write WAV.

    pip install websockets
    some-language-model | python examples/live.py anna out.wav

The audio of a clause comes while the next one is written. A player would take each part at once.
"""

import asyncio
import codecs
import json
import os
import sys
import time
import wave

import websockets

URL = os.environ.get("COSYGRAPH_URL", "http://127.0.0.1:8000").replace("http", "ws", 1) + "/v1/audio/speech/stream"
KEY = os.environ.get("COSYGRAPH_KEY")


async def write(ws: websockets.ClientConnection) -> None:
    """Send standard input as it comes, and end the utterance with it."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    # A character may be cut in two. Bytes that are no UTF-8 become U+FFFD, as everywhere.
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    ended = False
    while not ended:
        data = await reader.read(4096)
        ended = not data
        if text := decoder.decode(data, final=ended):
            await ws.send(json.dumps({"type": "input.text", "text": text}))
    await ws.send(json.dumps({"type": "input.done"}))


async def main(voice: str, path: str) -> None:
    """Speak standard input with the stored voice `voice`, into `path`."""
    headers = {"Authorization": f"Bearer {KEY}"} if KEY else {}
    started, first = time.monotonic(), None
    async with websockets.connect(URL, additional_headers=headers) as ws:
        config = {"type": "session.config", "voice": voice, "response_format": "pcm"}
        await ws.send(json.dumps({**config, "split_granularity": "clause", "stream_audio": True}))
        event = json.loads(await ws.recv())
        if event["type"] == "error":
            sys.exit(f"{event['code']}: {event['message']}")
        with wave.open(path, "wb") as file:
            file.setparams((event["channels"], 2, event["sample_rate"], 0, "NONE", ""))
            writing = asyncio.create_task(write(ws))
            async for message in ws:
                if isinstance(message, bytes):
                    first = first or time.monotonic() - started
                    file.writeframes(message)
                    continue
                event = json.loads(message)
                if event["type"] == "audio.start":
                    print(event["sentence_text"])
                elif event["type"] == "error":
                    print(f"{event['code']}: {event['message']}", file=sys.stderr)
                elif event["type"] == "session.done" and "trace_id" not in event:
                    sys.exit("Nothing came from standard input that could be spoken.")
                elif event["type"] == "session.done":
                    print(f"{path}, first audio after {first or 0:.2f} s, trace {event['trace_id']}")
                    await ws.send(json.dumps({"type": "session.close"}))
            await writing


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    asyncio.run(main(*sys.argv[1:]))

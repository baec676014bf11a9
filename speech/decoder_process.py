"""Decodes phones' and browsers' audio with FFmpeg, in a process that `speech.decoder` starts; it is never imported.

A demuxer is a large parser that reads untrusted files. Here it can't crash the replica: the address space is limited,
the caller ends the process at a deadline, and no module of the project is loaded. It imports PyAV alone, so it starts
fast.

A job on standard input is a line of JSON (`size`, `container`, `keep_s`, `keep_values`, `count_values`, `tag`) and the
file; the answer on standard output is a line of JSON and interleaved float32 samples. The process ends when its input
ends, or after a minute without a job.
"""

import io
import json
import resource
import select
import sys
from collections.abc import Iterable, Mapping
from typing import Any

MEMORY = 1 << 30  #: bytes of address space; FFmpeg's libraries alone take a fifth of it
IDLE_S = 60.0
STREAMS = 16  #: more than any recorder writes; each costs memory before its first packet
READS = 40  #: times that the file may be read over: indexes at the end need a few, a loop in an index more
TAG_CHARACTERS = 8192  #: of a tag's value that is returned
CODECS = frozenset(
    ("aac", "aac_latm", "alac", "flac", "mp3", "mp3float", "mp2", "mp2float", "opus", "libopus", "vorbis")
)


class Refused(Exception):
    """The error of a file that can't be decoded; the first argument is the reason, in one word."""


class File(io.BytesIO):
    """The file, with a limit on how often it is read over: a loop in an index would otherwise never end."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = READS * (len(data) + 65536)

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self._left -= len(data) + 64
        if self._left < 0:
            raise OSError("read too often")
        return data


def decode(job: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytearray]:
    import av

    try:
        # A file can't make FFmpeg open another: references to files are off in mov, and no protocol is allowed.
        options = {"max_streams": str(STREAMS), "protocol_whitelist": "pipe", "probesize": "1000000"}
        container = av.open(File(data), format=job["container"], options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise Refused("unreadable") from error
    with container:
        if len(container.streams) > STREAMS:
            raise Refused("streams")
        if not container.streams.audio:
            raise Refused("no_track")
        stream = container.streams.audio[0]
        codec = stream.codec_context.name
        if codec not in CODECS and not codec.startswith("pcm_"):
            raise Refused("codec")
        stream.codec_context.thread_count = 1
        tag = _tag((container.metadata, stream.metadata), job["tag"])  # Ogg has its tags with the stream
        about, samples = _samples(av, container, stream, job)
        return {**about, "tag": tag}, samples


def _tag(places: Iterable[Mapping[str, str]], name: str | None) -> str | None:
    for place in places:
        for key, value in place.items():
            if name is not None and key.lower() == name.lower():
                return value[:TAG_CHARACTERS]
    return None


def _samples(av: Any, container: Any, stream: Any, job: dict[str, Any]) -> tuple[dict[str, Any], bytearray]:
    rate = channels = frames = 0
    whole, kept = True, bytearray()
    resampler = None
    try:
        for frame in container.decode(stream):
            if resampler is None:
                rate, channels = frame.sample_rate, frame.layout.nb_channels
                resampler = av.AudioResampler(format="flt", layout=frame.layout, rate=rate)
                keep = min(int(job["keep_s"] * rate) + 1, job["keep_values"] // max(1, channels))
            elif (frame.sample_rate, frame.layout.nb_channels) != (rate, channels):
                raise Refused("changes")
            frames += frame.samples
            if frames * channels > job["count_values"]:
                whole = False
                break
            room = keep - len(kept) // (4 * channels)
            if room > 0:
                frame.pts = None
                for plain in resampler.resample(frame):
                    kept += bytes(plain.planes[0])[: min(plain.samples, room) * 4 * channels]
    except (av.FFmpegError, OSError):
        pass  # samples up to the damage count; the caller decides if they are enough
    if not frames:
        raise Refused("no_frames")
    announced = stream.duration and float(stream.duration * stream.time_base)
    about = {"rate": rate, "channels": channels, "frames": frames, "whole": whole, "announced_s": announced}
    return about, kept


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    import av

    av.logging.set_level(None)  # damaged files are usual in uploads and don't belong in the log
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while select.select([source], [], [], IDLE_S)[0] and (line := source.readline()):
        job = json.loads(line)
        data = source.read(job["size"])
        try:
            about, samples = decode(job, data)
        except Refused as refusal:
            about, samples = {"refused": refusal.args[0]}, bytearray()
        except MemoryError:
            about, samples = {"refused": "memory"}, bytearray()
        sink.write(json.dumps({**about, "size": len(samples)}).encode() + b"\n")
        sink.write(samples)
        sink.flush()


if __name__ == "__main__":
    main()

"""Decodes phones' and browsers' audio (m4a, mp4, webm, aac) and mp3 by FFmpeg in a process beside this one.

A single process serves all threads, a job at a time. It starts with the first job and ends after a minute without any.
A file that takes longer than `DEADLINE_S`, or more memory than the process may have, costs that process and not the
replica: it is ended, and the next job starts another.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DEADLINE_S = 8.0  #: deadline of a job; 20 MB of any usual recording take a tenth of it
_PROGRAM = Path(__file__).with_name("decoder_process.py")


class DecoderFailed(Exception):
    """The file can't be decoded: `reason` is a word of `decoder_process`, or `killed` (time or memory ran out)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Decoded:
    """The audio that was decoded.

    Attributes:
        samples: the first of them, float32 (n, channels) in ±1.
        rate: Hz.
        frames: number of samples; a lower bound if `whole` is False.
        whole: True if the file was read to its end.
        announced_s: length in seconds by the file's header; None if it has none.
        tag: the text in the file's metadata that was asked for; None if there is none.
    """

    samples: np.ndarray
    rate: int
    frames: int
    whole: bool
    announced_s: float | None
    tag: str | None = None


class Decoder:
    """The decoding process, and the lock that gives it one job at a time."""

    def __init__(self, deadline_s: float = DEADLINE_S) -> None:
        self.deadline_s = deadline_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def decode(
        self,
        data: bytes,
        container: str,
        *,
        keep_s: float,
        keep_values: int,
        count_values: int,
        tag: str | None = None,
    ) -> Decoded:
        """Decode the first audio stream of a file.

        Args:
            data: the file.
            container: FFmpeg's name of the demuxer: `mov`, `matroska`, `mp3`, `aac` …; no other is tried.
            keep_s: the most seconds of samples to return; there may be one sample more.
            keep_values: the most values (samples times channels) to return.
            count_values: number of values after which counting ends.
            tag: name of a text in the file's metadata to return, in any case of its letters.

        Raises:
            DecoderFailed: nothing could be decoded, or not within the limits of time and memory.
        """
        job = {"size": len(data), "container": container, "keep_s": keep_s}
        job |= {"keep_values": keep_values, "count_values": count_values, "tag": tag}
        with self._lock:
            for again in (False, True):
                idle = self._process is not None and not again
                process = self._running()
                timer = threading.Timer(self.deadline_s, process.kill)
                timer.start()
                try:
                    about, samples = _asked(process, job, data)
                except (OSError, ValueError) as error:
                    in_time = timer.is_alive()
                    self._end()
                    if not (idle and in_time):  # a process that ended for lack of work tells nothing about the file
                        raise DecoderFailed("killed") from error
                else:
                    break
                finally:
                    timer.cancel()
        if refused := about.get("refused"):
            raise DecoderFailed(refused)
        values = np.frombuffer(samples, np.float32).reshape(-1, about["channels"])
        return Decoded(values, about["rate"], about["frames"], about["whole"], about["announced_s"], about["tag"])

    def close(self) -> None:
        """End the process. The next job starts another."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            # -I: neither the environment nor the working folder can change the imports.
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(_PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in filter(None, (process.stdin, process.stdout)):
            try:
                pipe.close()
            except OSError:
                pass  # its input was not flushed, and it is not needed any more
        process.wait()


def _asked(process: subprocess.Popen[bytes], job: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the answer of the process. OSError or ValueError if it ends before it has answered."""
    if process.stdin is None or process.stdout is None:
        raise ValueError("the process has no pipes")
    process.stdin.write(json.dumps(job).encode() + b"\n" + data)
    process.stdin.flush()
    about = json.loads(process.stdout.readline())
    samples = process.stdout.read(about["size"])
    if len(samples) < about["size"]:
        raise ValueError("the answer is cut off")
    return about, samples


DECODER = Decoder()

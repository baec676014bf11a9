"""The tags that may leave, each with the whole shape of its value. `redaction.py` applies the list."""

from __future__ import annotations

import re

from tracing.vocabulary import (
    AUDIO_CLIPPING,
    AUDIO_DURATION,
    AUDIO_FORMAT,
    AUDIO_SAMPLE_RATE,
    BATCH_ID,
    BATCH_SIZE,
    BATCH_WAIT_MS,
    CANARY_TRACE_ID,
    COMPUTE_MS,
    DEVICE,
    ERROR_CODE,
    ERROR_SERVICE,
    ERROR_TYPE,
    FALLBACK,
    FLOW_FRAMES,
    FLOW_STEPS,
    GPU_UTILIZATION,
    HTTP_METHOD,
    HTTP_STATUS_CODE,
    K8S_POD_NAME,
    LM_STEPS,
    LM_TOKENS_PER_SECOND,
    METHODS,
    MODEL_NAME,
    MODEL_VERSION,
    NODE_ID,
    PIECE,
    PIECES,
    PRIMARY,
    QUEUE_WAIT_MS,
    REPLICA_ID,
    REQUEST_DIALECT,
    REQUEST_DIALECT_CODE,
    REQUEST_DIALECT_SOURCE,
    REQUEST_FALLBACK,
    REQUEST_LANGUAGE,
    REQUEST_MODE,
    SAMPLING_ADJUSTED_COUNT,
    SAMPLING_REASON,
    SERVICES,
    STAGE,
    STAGES,
    STREAM_CHUNKS,
    TEXT_LENGTH,
    TEXT_SCRIPT,
    USER_HASH,
    VOICE_CACHE,
    WATCHDOG_CAUSE,
    WATCHDOG_FAILURES,
    WATCHDOG_LINE,
    WATCHDOG_SERVICE,
)

# The shapes of values. An identifier is one lower-case machine word, never free text.
_IDENTIFIER = re.compile(r"[a-z][a-z0-9_\-]{0,39}")
_NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,6})?")
_COUNT = re.compile(r"\d{1,15}")
_FLAG = re.compile(r"true|false")
_STATUS = re.compile(r"[1-5]\d\d")
_HEX = re.compile(r"[0-9a-f]{8,64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+\-]{0,63}")  # model names, versions, replica ids
_POD = re.compile(r"[a-z0-9]([a-z0-9.\-]{0,61}[a-z0-9])?")  # a host name (RFC 1123)
_STAGE = re.compile("|".join(STAGES))
_SERVICE = re.compile("|".join(sorted(SERVICES)))
_DIALECT_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_\-]{0,39}")

# Tags that may leave, each with the whole shape of its value. tracing/redaction.py checks `error` and `http.route`
# by rules of their own.
TAG_SHAPES: dict[str, re.Pattern[str]] = {
    STAGE: _STAGE,
    REQUEST_DIALECT: _IDENTIFIER,
    REQUEST_DIALECT_CODE: _DIALECT_CODE,
    REQUEST_DIALECT_SOURCE: re.compile("request|voice|key|config"),
    REQUEST_LANGUAGE: _IDENTIFIER,
    REQUEST_MODE: re.compile("fast|instruct"),
    REQUEST_FALLBACK: _FLAG,
    TEXT_LENGTH: _COUNT,
    TEXT_SCRIPT: re.compile("latin|han|kana|hangul|cyrillic|greek|other|mixed|none"),
    AUDIO_SAMPLE_RATE: _COUNT,
    AUDIO_DURATION: _NUMBER,
    AUDIO_FORMAT: re.compile(r"[A-Za-z0-9_]{1,12}"),
    AUDIO_CLIPPING: re.compile(_FLAG.pattern + "|" + _NUMBER.pattern),
    MODEL_NAME: _NAME,
    MODEL_VERSION: _NAME,
    VOICE_CACHE: re.compile("hit|stored|miss"),
    QUEUE_WAIT_MS: _NUMBER,
    BATCH_ID: _HEX,
    BATCH_SIZE: _COUNT,
    BATCH_WAIT_MS: _NUMBER,
    COMPUTE_MS: _NUMBER,
    LM_STEPS: _COUNT,
    LM_TOKENS_PER_SECOND: _NUMBER,
    STREAM_CHUNKS: _COUNT,
    PIECE: _COUNT,
    PIECES: _COUNT,
    FLOW_STEPS: _COUNT,
    FLOW_FRAMES: _COUNT,
    DEVICE: re.compile(r"cpu|(cuda|mps|xpu|npu)(:\d{1,3})?"),
    GPU_UTILIZATION: _NUMBER,
    REPLICA_ID: _NAME,
    NODE_ID: _HEX,
    K8S_POD_NAME: _POD,
    HTTP_METHOD: re.compile("|".join(sorted(METHODS))),
    HTTP_STATUS_CODE: _STATUS,
    ERROR_TYPE: _IDENTIFIER,
    ERROR_CODE: _IDENTIFIER,
    ERROR_SERVICE: _SERVICE,
    USER_HASH: _HEX,
    WATCHDOG_CAUSE: _IDENTIFIER,
    WATCHDOG_SERVICE: _IDENTIFIER,
    WATCHDOG_FAILURES: _COUNT,
    WATCHDOG_LINE: re.compile(f"{PRIMARY}|{FALLBACK}"),
    CANARY_TRACE_ID: _HEX,
    SAMPLING_REASON: _IDENTIFIER,
    SAMPLING_ADJUSTED_COUNT: _NUMBER,
}

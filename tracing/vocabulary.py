"""Every word that a span may hold: services, stages, span names, tag keys, annotations, and the shape of tag values.

This file is the allow-list behind `tracing.redaction`. A word that is missing here never leaves the machine, so a new
tag starts with a line here. Shapes are narrow on purpose: none of them can hold a sentence.
"""

from __future__ import annotations

import re

from config import routes

# Services, as Serve deployments and as Zipkin's service names.
INGRESS = "cosyvoice3-api"
AUDIO = "audio-service"
EMBEDDING = "embedding-service"
TTS = "tts-service"
VOCODER = "vocoder-service"
WATCHDOG = "watchdog"
SERVICES = frozenset({INGRESS, AUDIO, EMBEDDING, TTS, VOCODER, WATCHDOG})

# Stages: the names of the SERVER spans below the root.
PREPROCESS_AUDIO = "PREPROCESS_AUDIO"
EXTRACT_SPEAKER = "EXTRACT_SPEAKER"
GENERATE_MEL = "GENERATE_MEL"
VOCODE_WAV = "VOCODE_WAV"
STAGES = (PREPROCESS_AUDIO, EXTRACT_SPEAKER, GENERATE_MEL, VOCODE_WAV)
STAGE_SERVICE = {PREPROCESS_AUDIO: AUDIO, EXTRACT_SPEAKER: EMBEDDING, GENERATE_MEL: TTS, VOCODE_WAV: VOCODER}

# Phases inside a stage, timed by an engine: the names of INTERNAL spans. Another engine's phases are added by
# configuration (`Allow.span_names` in tracing/settings.py).
PHASES = frozenset(
    {
        "TEXT_FRONTEND",
        "ACOUSTIC_MODEL",
        "VOCODER",
        "DECODE_AUDIO",
        "RESAMPLE",
        "SPEECH_TOKENS",
        "SPEAKER_EMBEDDING",
        "LM_PREFILL",
        "LM_DECODE",
        "FLOW_MATCHING",
    }
)

# Actions of the watchdog: the names of its spans, each a trace of its own.
ACTIONS = frozenset({"CHECK_FAILED", "REPLICA_REPLACED", "REPLICA_RESTARTED", "RESTART_WITHHELD", "TRAFFIC_SWITCHED"})

# The routes of the ingress (config/routes.py). The part in braces is the caller's text. A root span's name is a method
# and one of these; any other path is the caller's text as a whole.
ROUTES = routes.PATHS
# The two backends between which the watchdog switches traffic: values of `watchdog.line`. FALLBACK is also the name of
# the Serve deployment in which the second engine runs.
PRIMARY, FALLBACK = "primary", "fallback"

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNKNOWN_ROUTE = "unknown route"

# Tag keys.
STAGE = "stage"
REQUEST_DIALECT = "request.dialect"  #: the dialect's lower-case name: `sichuan`
REQUEST_DIALECT_CODE = "request.dialect.code"  #: as people send it: `zh-Sichuan`
REQUEST_DIALECT_SOURCE = "request.dialect.source"
REQUEST_LANGUAGE = "request.language"
REQUEST_MODE = "request.mode"
REQUEST_FALLBACK = "request.fallback"
TEXT_LENGTH = "text.length"
TEXT_SCRIPT = "text.script"
AUDIO_SAMPLE_RATE = "audio.sample_rate"
AUDIO_DURATION = "audio.duration"
AUDIO_FORMAT = "audio.format"
AUDIO_CLIPPING = "audio.clipping"
MODEL_NAME = "model.name"
MODEL_VERSION = "model.version"
VOICE_CACHE = "voice.cache"
QUEUE_WAIT_MS = "queue.wait_ms"
BATCH_ID = "batch.id"
BATCH_SIZE = "batch.size"
BATCH_WAIT_MS = "batch.wait_ms"
COMPUTE_MS = "compute_ms"
LM_STEPS = "lm.steps"
LM_TOKENS_PER_SECOND = "lm.tokens_per_second"
STREAM_CHUNKS = "stream.chunks"
PIECE = "piece"
PIECES = "pieces"
FLOW_STEPS = "flow.steps"
FLOW_FRAMES = "flow.frames"
DEVICE = "device"
GPU_UTILIZATION = "gpu.utilization"
REPLICA_ID = "replica.id"
HTTP_METHOD = "http.method"
HTTP_ROUTE = "http.route"
HTTP_STATUS_CODE = "http.status_code"
ERROR = "error"
ERROR_TYPE = "error.type"
ERROR_CODE = "error.code"
ERROR_SERVICE = "error.service"  #: the service at fault, on its own span and on the root
USER_HASH = "user.hash"
WATCHDOG_CAUSE = "watchdog.cause"
WATCHDOG_SERVICE = "watchdog.service"
WATCHDOG_FAILURES = "watchdog.failures"
WATCHDOG_LINE = "watchdog.line"
CANARY_TRACE_ID = "canary.trace_id"
SAMPLING_REASON = "sampling.reason"
SAMPLING_ADJUSTED_COUNT = "sampling.adjusted_count"

# Moments inside a span, as Zipkin annotations.
DEQUEUED = "dequeued"
BATCH_STARTED = "batch started"
FIRST_CHUNK = "first chunk"
ANNOTATIONS = frozenset({DEQUEUED, BATCH_STARTED, FIRST_CHUNK})

# The shapes of values. An identifier is one lower-case machine word, never free text.
_IDENTIFIER = re.compile(r"[a-z][a-z0-9_\-]{0,39}")
_NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,6})?")
_COUNT = re.compile(r"\d{1,15}")
_FLAG = re.compile(r"true|false")
_STATUS = re.compile(r"[1-5]\d\d")
_HEX = re.compile(r"[0-9a-f]{8,64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+\-]{0,63}")  # model names, versions, replica ids
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

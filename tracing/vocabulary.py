"""Every word that a span may hold: services, stages, span names, tag keys, annotations, and the shape of tag values.

This file is the allow-list behind `tracing.redaction`. A word that is missing here never leaves the machine, so a new
tag starts with a line here. Shapes are narrow on purpose: none of them can hold a sentence.
"""

from __future__ import annotations

from config import routes

# Services, as Serve deployments and as Zipkin's service names.
INGRESS = "cosyvoice3-api"
AUDIO = "audio-service"
EMBEDDING = "embedding-service"
TTS = "tts-service"
VOCODER = "vocoder-service"
FITTING = "fitting-service"
WATCHDOG = "watchdog"
SERVICES = frozenset({INGRESS, AUDIO, EMBEDDING, TTS, VOCODER, FITTING, WATCHDOG})

# Stages: the names of the SERVER spans below the root.
PREPROCESS_AUDIO = "PREPROCESS_AUDIO"
EXTRACT_SPEAKER = "EXTRACT_SPEAKER"
GENERATE_MEL = "GENERATE_MEL"
VOCODE_WAV = "VOCODE_WAV"
STAGES = (PREPROCESS_AUDIO, EXTRACT_SPEAKER, GENERATE_MEL, VOCODE_WAV)
STAGE_SERVICE = {PREPROCESS_AUDIO: AUDIO, EXTRACT_SPEAKER: EMBEDDING, GENERATE_MEL: TTS, VOCODE_WAV: VOCODER}

# Phases inside a stage, timed by an engine: the names of INTERNAL spans. Another engine's phases are added by
# configuration (`Allow.span_names` in tracing/export_settings.py).
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

# Work in the background: names of spans, each a trace of its own.
FIT_VOICE = "FIT_VOICE"
BACKGROUND = frozenset({FIT_VOICE})

# What a service does for a request beside speech: names of SERVER spans.
FIND_WATERMARK = "FIND_WATERMARK"
ASIDE = frozenset({FIND_WATERMARK})

# A request that came inside another one: the INTERNAL span below the outer one's root, which names the inner trace.
SUBREQUEST = "SUBREQUEST"
INNER = frozenset({SUBREQUEST})

# Actions of the watchdog: the names of its spans, each a trace of its own.
ACTIONS = frozenset(
    {
        "CHECK_FAILED",
        "REPLICA_REPLACED",
        "REPLICA_RESTARTED",
        "RESTART_WITHHELD",
        "TRAFFIC_SWITCHED",
        "NODE_LOST",
        "CAPACITY_RESTORED",
        "SCALED_UP",
        "SCALED_DOWN",
    }
)

# The routes of the ingress (config/routes.py). The part in braces is the caller's text. A root span's name is a method
# and one of these; any other path is the caller's text as a whole.
ROUTES = routes.PATHS
# The two backends between which the watchdog switches traffic: values of `watchdog.line`. FALLBACK is also the name of
# the Serve deployment in which the second engine runs.
PRIMARY, FALLBACK = "primary", "fallback"

#: `WS`: an utterance of a WebSocket session, or a handshake that was refused.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WS"})
UNKNOWN_ROUTE = "unknown route"

# Tag keys.
STAGE = "stage"
REQUEST_DIALECT = "request.dialect"  #: the dialect's lower-case name: `sichuan`
REQUEST_DIALECT_CODE = "request.dialect.code"  #: as people send it: `zh-Sichuan`
REQUEST_DIALECT_SOURCE = "request.dialect.source"
REQUEST_LANGUAGE = "request.language"
REQUEST_MODE = "request.mode"
REQUEST_FALLBACK = "request.fallback"
REQUEST_PARENT = "request.parent"  #: trace id of the request that this one came in
REQUEST_ITEM = "request.item"  #: an item's place in its batch, from 0
REQUEST_ITEMS = "request.items"  #: of a batch
REQUEST_ITEMS_FAILED = "request.items_failed"
SUBREQUEST_TRACE_ID = "subrequest.trace_id"
TEXT_LENGTH = "text.length"
TEXT_PAUSE_S = "text.pause_s"  #: seconds of all pauses that the text asks for
TEXT_SCRIPT = "text.script"
AUDIO_SAMPLE_RATE = "audio.sample_rate"
AUDIO_DURATION = "audio.duration"
AUDIO_FORMAT = "audio.format"
AUDIO_CLIPPING = "audio.clipping"
AUDIO_WATERMARK = "audio.watermark"  #: how sure the detector is of one, 0 to 1
MODEL_NAME = "model.name"
MODEL_VERSION = "model.version"
VOICE_CACHE = "voice.cache"
VOICE_MIX = "voice.mix"  #: members of a mix of stored voices
VOICE_FIT = "voice.fit"  #: the stored voice that a request used: fitted or steered
FIT_STEPS = "fit.steps"  #: made so far
FIT_TAKEN_UP_AT = "fit.taken_up_at"  #: the step that this service began at, where another one made those before
FIT_LOSS_BEFORE = "fit.loss.before"
FIT_LOSS_AFTER = "fit.loss.after"
FIT_SECONDS = "fit.seconds"  #: of computing, in all services that worked on it
FIT_STOPPED = "fit.stopped"  #: the reason to stop
FIT_KEPT = "fit.kept"
FIT_WHY = "fit.why"  #: the reason to keep the steered voice, its words joined
FIT_WAIT_MS = "fit.wait_ms"  #: of a request with fit=wait
FIT_ASKED_BY = "fit.asked_by"  #: trace id of the request that asked for the fit
QUEUE_WAIT_MS = "queue.wait_ms"
PROXY_WAIT_MS = "proxy.wait_ms"  #: from the arrival at Serve's proxy to that at the ingress
BATCH_ID = "batch.id"
BATCH_SIZE = "batch.size"
BATCH_WAIT_MS = "batch.wait_ms"
COMPUTE_MS = "compute_ms"
LM_STEPS = "lm.steps"
LM_TOKENS_PER_SECOND = "lm.tokens_per_second"
STREAM_CHUNKS = "stream.chunks"
STREAM_CONTINUOUS = "stream.continuous"  #: false: a listener who began at the first chunk ran dry
STREAM_UNDERRUN_MS = "stream.underrun_ms"  #: all gaps together
STREAM_SECONDS = "stream.seconds"  #: of audio handed over
STREAM_HOLD_MS = "stream.hold_ms"  #: for which the first chunk was held back
PIECE = "piece"
PIECES = "pieces"
FLOW_STEPS = "flow.steps"
FLOW_FRAMES = "flow.frames"
SESSION_ID = "session.id"  #: joins the utterances of one WebSocket session, each of which is a trace
SESSION_EVENT = "session.event"  #: what of a session the trace tells: utterance, config, refused or lost
UTTERANCE_INDEX = "utterance.index"  #: counts from 0 in its session
UTTERANCE_CANCELLED = "utterance.cancelled"  #: the client has broken it off, which is no error
DEVICE = "device"
GPU_UTILIZATION = "gpu.utilization"
REPLICA_ID = "replica.id"
NODE_ID = "node.id"  #: Ray's, as `ray list nodes` has it
K8S_POD_NAME = "k8s.pod.name"
CLOCK_SKEW_MS = "clock.skew_ms"  #: how far the node's clock is ahead of the ingress's; negative: behind
HTTP_METHOD = "http.method"
HTTP_ROUTE = "http.route"
HTTP_STATUS_CODE = "http.status_code"
ERROR = "error"
ERROR_TYPE = "error.type"
ERROR_CODE = "error.code"
ERROR_SERVICE = "error.service"  #: the service at fault, on its own span and on the root
ERROR_NODE = "error.node"  #: Ray's id of the node that a lost replica is on, where it is known
USER_HASH = "user.hash"
WATCHDOG_CAUSE = "watchdog.cause"
WATCHDOG_SERVICE = "watchdog.service"
WATCHDOG_FAILURES = "watchdog.failures"
WATCHDOG_LINE = "watchdog.line"
WATCHDOG_NODE = "watchdog.node"  #: Ray's id of the node that an action is about; `node.id` is the watchdog's own
WATCHDOG_NODE_ADDRESS = "watchdog.node.address"
SCALING_FROM = "scaling.from"  #: replicas wanted before
SCALING_TO = "scaling.to"
SCALING_RATE = "scaling.rate"  #: requests a second that the service was sized for
SCALING_QUEUE = "scaling.queue"  #: requests that waited at it
SCALING_WAIT_MS = "scaling.wait_ms"  #: predicted for all services together
SCALING_REACHED = "scaling.reached"  #: false: another change came first, or the replicas never did
CANARY_TRACE_ID = "canary.trace_id"
SAMPLING_REASON = "sampling.reason"
SAMPLING_ADJUSTED_COUNT = "sampling.adjusted_count"

# Moments inside a span, as Zipkin annotations.
DEQUEUED = "dequeued"
BATCH_STARTED = "batch started"
FIRST_CHUNK = "first chunk"
FIRST_PIECE = "first piece known"  #: of a text that is still being written
GAP_BEGAN = "gap began"
TEXT_RAN_OUT = "text ran out"
ANNOTATIONS = frozenset({DEQUEUED, BATCH_STARTED, FIRST_CHUNK, FIRST_PIECE, GAP_BEGAN, TEXT_RAN_OUT})

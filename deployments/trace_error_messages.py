"""Lists the error messages that may stand in a trace's `error` tag; `{}` is a number or a lower-case word.

The list is fail-closed: of any other message, the trace carries type and code alone. A message belongs here if an
operator should read it off a list of failed traces without opening one.
"""

LOST_REPLICA = "the replica died"
LOST_ARRAY = "an earlier stage died with the array it had made"
NO_ANSWER = "no answer within the deadline"
CLIENT_LEFT = "the client left"
STREAM_BROKEN = "the stream ended before its last chunk"
LOST_INGRESS = "cosyvoice3-api was lost or can't be reached; it is being restarted, try again shortly."
LATE_INGRESS = "cosyvoice3-api gave no answer within the request's deadline; try again shortly."

IN_TRACES = (
    LOST_REPLICA,
    LOST_ARRAY,
    NO_ANSWER,
    CLIENT_LEFT,
    STREAM_BROKEN,
    LOST_INGRESS,
    LATE_INGRESS,
    "Audio sample rate {}Hz, minimum required {}Hz. Record or export the clip again at {}Hz or more.",
    "The reference clip is {} s long; it must be {} to {} s.",
    "The reference clip is longer than {} s; cut it to its clearest part.",
    "The reference clip holds {} s of sound above silence; at least {} s of speech is needed. Record again, closer to "
    "the microphone.",
    "The field 'dialect' is required, for example en-US, zh-CN or zh-Sichuan; GET /api/dialects lists them all. "
    "Nothing is assumed where it is missing.",
    "The service is at its limit of {} requests in flight; try again after the time in Retry-After.",
    "This caller's limit of {} requests a minute is reached; try again after the time in Retry-After.",
    "This caller's limit of {} requests at a time is reached; wait for one of them to end.",
)

"""The table from the tags of our spans to OpenTelemetry's attributes; docs/otlp.md shows it.

Three rules make it:

- A tag for which OpenTelemetry's semantic conventions have a name gets that name (`SEMANTIC`).
- Any other tag keeps its own name, so that one name finds a trace in Zipkin and in every receiver of OTLP. The names in
  Zipkin stay as they are: stored traces, alerts and the doctor know them.
- A tag that is the same on all spans of a replica goes to the resource (`OF_RESOURCE`).

A value has the type that the allow-list's shape tells: a count is an integer, a number a double, a flag a boolean.

The names are written out here, because half of them are in a private module of `opentelemetry-semantic-conventions`.
`tests/unit/test_otlp_attributes.py` compares them with that package.
"""

from __future__ import annotations

from tracing import vocabulary
from tracing.allow_list import COUNT, FLAG, NUMBER, STATUS, TAG_SHAPES

#: The version of the semantic conventions that the names below are from.
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

#: Tags that have a name in the semantic conventions.
SEMANTIC: dict[str, str] = {
    vocabulary.HTTP_METHOD: "http.request.method",
    vocabulary.HTTP_STATUS_CODE: "http.response.status_code",
    vocabulary.HTTP_ROUTE: "http.route",
    vocabulary.ERROR_TYPE: "error.type",
    vocabulary.USER_HASH: "user.hash",
    vocabulary.SESSION_ID: "session.id",
    vocabulary.REPLICA_ID: "service.instance.id",
    vocabulary.K8S_POD_NAME: "k8s.pod.name",
}

#: Tags that describe the replica, and not the request.
OF_RESOURCE = (vocabulary.REPLICA_ID, vocabulary.NODE_ID, vocabulary.K8S_POD_NAME)

# What is no tag in Zipkin, and an attribute in OTLP.
SERVICE_NAME = "service.name"  #: the local endpoint's service; on the resource
SERVICE_VERSION = "service.version"  #: the project's; on the resource
LOCAL_ADDRESS = "network.local.address"  #: the local endpoint's address; Zipkin's own OTLP module reads it back
#: The remote endpoint's service: the older name is what Zipkin's module and Tempo read, the newer one is its successor.
PEER_NAMES = ("peer.service", "service.peer.name")

Value = str | int | float | bool


def name_of(tag: str) -> str:
    """Return the attribute's name for a tag."""
    return SEMANTIC.get(tag, tag)


def value_of(tag: str, text: str) -> Value:
    """Return a tag's value with its type.

    Args:
        tag: A key of the vocabulary.
        text: The value as Zipkin has it. Redaction has checked its shape.

    Returns:
        The text itself where the shape is none of a number or a flag.
    """
    shape = TAG_SHAPES.get(tag)
    try:
        if shape is COUNT or shape is STATUS:
            return int(text)
        if shape is NUMBER:
            return float(text)
    except ValueError:  # no span of ours; a spool of another version
        return text
    if shape is FLAG and text in ("true", "false"):
        return text == "true"
    return text

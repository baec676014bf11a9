"""The table from tags to OpenTelemetry's attributes, against OpenTelemetry's own package of names."""

import importlib
import pkgutil

import pytest
from opentelemetry.semconv import _incubating, attributes
from opentelemetry.semconv.schemas import Schemas

from tracing import otlp_attributes, vocabulary
from tracing.allow_list import TAG_SHAPES

TAGS = {*TAG_SHAPES, vocabulary.HTTP_ROUTE}  #: `error` is the span's status


def conventions() -> set[str]:
    """All names of attributes in the installed semantic conventions, but deprecated ones."""
    names = set()
    for package in (attributes, importlib.import_module("opentelemetry.semconv._incubating.attributes")):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            names |= {
                value
                for name, value in vars(importlib.import_module(module.name)).items()
                if name.isupper() and isinstance(value, str)
            }
    assert _incubating and len(names) > 500
    return names


def test_every_name_that_is_said_to_be_openTelemetrys_is():
    ours = {*otlp_attributes.SEMANTIC.values(), otlp_attributes.SERVICE_NAME, otlp_attributes.SERVICE_VERSION}
    ours |= {otlp_attributes.LOCAL_ADDRESS, *otlp_attributes.PEER_NAMES}
    assert ours - conventions() == set()


def test_a_tag_that_the_conventions_know_is_in_the_table():
    """Fails for a new tag whose name means something else, or the same, to every other tool."""
    http = {vocabulary.HTTP_METHOD, vocabulary.HTTP_STATUS_CODE}  # names of the conventions before 1.23
    assert TAGS & conventions() <= otlp_attributes.SEMANTIC.keys()
    assert http <= otlp_attributes.SEMANTIC.keys() <= TAGS


def test_the_schema_is_one_that_is_published():
    assert otlp_attributes.SCHEMA_URL in {schema.value for schema in Schemas}


def test_no_two_tags_become_one_attribute():
    names = [otlp_attributes.name_of(tag) for tag in TAGS]
    own = [otlp_attributes.LOCAL_ADDRESS, *otlp_attributes.PEER_NAMES, vocabulary.ERROR]
    assert len({*names, *own}) == len(names) + len(own)


@pytest.mark.parametrize(
    "tag, text, value",
    [
        (vocabulary.HTTP_STATUS_CODE, "503", 503),
        (vocabulary.BATCH_SIZE, "3", 3),
        (vocabulary.COMPUTE_MS, "12.5", 12.5),
        (vocabulary.SAMPLING_ADJUSTED_COUNT, "10", 10.0),
        (vocabulary.REQUEST_FALLBACK, "true", True),
        (vocabulary.FIT_KEPT, "false", False),
        (vocabulary.AUDIO_CLIPPING, "0.5", "0.5"),  # a flag or a number: one attribute has one type
        (vocabulary.DEVICE, "cpu", "cpu"),
        (vocabulary.REPLICA_ID, "7", "7"),
        (vocabulary.BATCH_SIZE, "many", "many"),  # a spool of another version
        (vocabulary.REQUEST_FALLBACK, "yes", "yes"),
        ("hum", "1", "1"),
    ],
)
def test_a_value_has_the_type_of_its_shape(tag, text, value):
    found = otlp_attributes.value_of(tag, text)
    assert found == value and type(found) is type(value)

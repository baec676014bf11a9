"""Errors as they travel: from a replica by pickle, to the client as status, headers and body."""

import pickle

import pytest

from speech.errors import SpeechError, internal_error, path_not_found, stage_unavailable


@pytest.mark.parametrize(
    "error",
    [
        SpeechError("It broke.", param="text", code="broken", retry_after_s=2.4, service="tts-service"),
        internal_error("vocoder-service"),
        internal_error(),
        stage_unavailable("audio-service"),
        path_not_found(),
    ],
)
def test_an_error_survives_pickling_whole(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and vars(copy) == vars(error) and str(copy) == str(error)


def test_the_service_at_fault_is_named_in_a_header_and_the_body_keeps_its_shape():
    error = stage_unavailable("tts-service")
    assert error.headers() == {"Retry-After": "5", "X-Error-Service": "tts-service"}
    assert error.body()["error"].keys() == {"message", "type", "param", "code"}
    assert "X-Error-Service" not in internal_error().headers()


def test_a_defect_names_the_stage_that_failed_or_the_service_as_a_whole():
    assert internal_error("tts-service").message.startswith("tts-service failed")
    assert internal_error().message.startswith("The service failed") and internal_error().service is None

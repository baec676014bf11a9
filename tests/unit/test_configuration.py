"""docs/configuration.md is current, and every settings model is strict, at every level."""

import math
from importlib import import_module

import pytest
from pydantic import BaseModel, ValidationError

from config import document
from config.strict import StrictModel
from deployments.settings import BATCHING, VOCODER_BATCHING, BatchSettings, FallbackEngine, GraphConfig, Tracing
from speech.limits import MAX_TEXT
from tracing.export_settings import Allow, ExportSettings
from watchdog.settings import WatchdogSettings


def models() -> list[type[BaseModel]]:
    """Every settings model of docs/configuration.md, with those inside it."""
    found: list[type[BaseModel]] = []
    waiting: list[type[BaseModel]] = [ExportSettings]
    for _, _, name in document.SECTIONS:
        module, _, attribute = name.partition(":")
        waiting.append(getattr(import_module(module), attribute))
    while waiting:
        model = waiting.pop()
        if model not in found:
            found.append(model)
            waiting += [inner for field in model.model_fields.values() for inner in document._models(field)]
    return found


def test_the_document_is_current(capsys):
    assert document.main(["--check"]) == 0, capsys.readouterr().err


def test_a_document_that_is_not_current_is_an_error(tmp_path, monkeypatch, capsys):
    file = tmp_path / "configuration.md"
    monkeypatch.setattr(document, "FILE", file)
    assert document.main(["--check"]) == 1 and "run `python -m config.document`" in capsys.readouterr().err
    assert document.main([]) == 0 and document.main(["--check"]) == 0
    file.write_text(file.read_text().replace("| `64` |", "| `65` |"))
    assert document.main(["--check"]) == 1


@pytest.mark.parametrize("model", models(), ids=lambda model: model.__name__)
def test_every_setting_has_a_description(model):
    assert model.__doc__
    assert [name for name, field in model.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("model", models(), ids=lambda model: model.__name__)
def test_every_model_is_strict_and_names_the_nearest_key(model):
    assert issubclass(model, StrictModel)
    name = max(model.model_fields, key=len)
    with pytest.raises(ValidationError, match=f"unknown key '{name}x' in {model.__name__}; did you mean '{name}'?"):
        model.model_validate({f"{name}x": 1})


@pytest.mark.parametrize(
    "wrong, place",
    [
        ({"tracing": {"sampling": {"ratioo": 1}}}, "'ratioo' in SamplingSettings; did you mean 'ratio'"),
        ({"tracing": {"sampling": {"slow": [{"dialekt": "x"}]}}}, "'dialekt' in Slow; did you mean 'dialect'"),
        ({"voices": {"uri": "x"}}, "'uri' in VoiceSettings; did you mean 'url'"),
        ({"access": {"default_limits": {"concurrents": 1}}}, "'concurrents' in CallerLimits; did you mean"),
        ({"dialects": [{"codes": "x"}]}, "'codes' in DialectSettings; did you mean 'code'"),
        ({"tts": {"thread": 1}}, "'thread' in StageOptions; did you mean 'threads'"),
        ({"zzz": 1}, "'zzz' in GraphConfig; known keys: tracing, access, engine"),
    ],
)
def test_the_graphs_settings_name_the_nearest_key_at_every_level(wrong, place):
    with pytest.raises(ValidationError, match=place):
        GraphConfig(**wrong)


def test_no_number_may_be_infinite():
    for wrong in ({"limits": {"deadline_s": math.inf}}, {"tracing": {"retry_most_s": math.inf}}):
        with pytest.raises(ValidationError, match="finite"):
            GraphConfig(**wrong)


def test_an_error_quotes_no_value():
    secret = "hunter2"
    for wrong in (
        {"tracing": {"sampling": {"salt": secret * 20}}},
        {"tracing": {"kafka": secret, "kafka_option": {"sasl.password": secret}}},
        {"voices": {"url": f"ftp://me:{secret}@host"}},
    ):
        with pytest.raises(ValidationError) as refused:
            GraphConfig(**wrong)
        assert secret not in str(refused.value)


def test_the_ingress_gets_every_setting_of_its_own_and_no_stage_option():
    config = GraphConfig(engine="simulated", limits={"max_in_flight": 3}, voice_cache_mb=2, tts={"threads": 7})
    api = config.api()
    assert (api.engine, api.limits.max_in_flight, api.voice_cache_mb) == ("simulated", 3, 2)
    assert not hasattr(api, "tts")
    stage = config.stage(config.tts)
    assert (stage.engine, stage.threads, stage.device) == ("simulated", 7, "auto")
    assert FallbackEngine(engine="simulated").threads == 1


def test_every_setting_of_the_export_reaches_the_exporter(tmp_path):
    tracing = Tracing(
        zipkin_url="http://127.0.0.1:9411/",
        protocol="grpc",
        spans_file=tmp_path / "file",
        spool_dir=tmp_path,
        spool_limit_mb=3,
        retry_most_s=7,
        kafka_options={"a": "b"},
    )
    export = tracing.export_settings(Allow(span_names={"HUM"}))
    assert (export.zipkin_url, export.protocol) == ("http://127.0.0.1:9411", "grpc")
    assert (export.file, export.spool_dir, export.spool_limit_bytes) == (tmp_path / "file", tmp_path, 3_000_000)
    assert (export.retry_most_s, export.kafka_options, export.allow.span_names) == (7, {"a": "b"}, {"HUM"})
    assert Tracing().export_settings(Allow()) == ExportSettings()
    with pytest.raises(ValidationError, match="two ways to the same place"):
        Tracing(zipkin_url="http://127.0.0.1:9411", kafka="broker:9092")
    assert Tracing.model_validate_json(tracing.model_dump_json()) == tracing, "it travels to Serve's proxy as JSON"


def test_a_dialect_of_your_own_is_in_the_ingresss_registry():
    own = {"code": "zh-Wenzhou", "name": "温州话", "english_name": "Wenzhounese", "language": "zh", "tag": "wenzhou"}
    assert GraphConfig(dialects=[own]).api().registry.find("zh-wenzhou").tag == "wenzhou"


def test_a_batching_service_starts_with_its_values_and_changes_what_is_given_alone():
    assert (BATCHING.max_batch_size, BATCHING.batch_wait_ms) == (8, 200)
    assert (VOCODER_BATCHING.max_batch_size, VOCODER_BATCHING.batch_wait_ms) == (1, 0)
    assert BatchSettings(max_batch_size=8).given() == {"max_batch_size": 8}
    assert BatchSettings().given() == {}


def test_settings_that_follow_from_others_do():
    assert WatchdogSettings().canary_within_s > GraphConfig().limits.deadline_s
    with pytest.raises(ValidationError, match=f"at most {MAX_TEXT} characters"):
        WatchdogSettings(canary_text="x" * (MAX_TEXT + 1))

"""Every row of docs/b3.md, run."""

import itertools
import re
from pathlib import Path

import pytest
from opentelemetry.trace import SpanContext

from tracing import SamplingState, extract, inject
from tracing.sampling import FinishedTrace, Sampler, SamplingSettings

DOC = (Path(__file__).parents[2] / "docs" / "b3.md").read_text(encoding="utf-8")
IDS = {
    "T64": "48485a3953bb6124",
    "T^": "463AC35C9F6413AD48485A3953BB6124",
    "S^": "A2FB4A1D1A96D312",
    "T1": "463ac35c9f6413ad48485a3953bb61240",
    "T": "463ac35c9f6413ad48485a3953bb6124",
    "S": "a2fb4a1d1a96d312",
    "U": "11111111111111112222222222222222",
    "V": "3333333333333333",
}


def table(heading: str) -> list[list[str]]:
    """The rows of the table whose header line begins so; backticks and blanks inside them are kept."""
    lines = DOC.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(heading)) + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def ids_in(text: str) -> str:
    return re.sub(r"(?<![A-Za-z0-9])(T64|T\^|S\^|T1|T|S|U|V)(?![A-Za-z0-9])", lambda m: IDS[m[1]], text)


def headers_in(cell: str) -> list[tuple[str, str]]:
    pairs = []
    for header in re.findall(r"`([^`]+)`", cell):
        name, _, value = header.partition(":")
        pairs.append((name, ids_in(value)))
    return pairs


ROWS = table("| Case |")


def test_the_table_is_read_whole():
    assert len(ROWS) >= 50
    assert len({row[0] for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_row(row):
    _, headers, parent, decision, used = row
    incoming = extract(headers_in(headers))

    if parent == "new":
        assert incoming.parent is None
    else:
        trace, span = (name.strip() for name in parent.split(","))
        expected = "0" * 16 + IDS["T64"] if trace == "0T64" else IDS[trace]
        assert f"{incoming.parent.trace_id:032x}" == expected
        assert f"{incoming.parent.span_id:016x}" == IDS[span]
        assert incoming.parent.is_remote
    word, _, advice = decision.partition(", ")
    assert incoming.decision is SamplingState[word]
    assert incoming.format == (used or None)
    if advice:
        assert incoming.w3c_unsampled
    elif word == "DEFER":
        assert not incoming.w3c_unsampled


def test_a_mapping_is_read_like_a_list():
    assert extract({"B3": ids_in("T-S-1")}) == extract([("b3", ids_in("T-S-1"))])


@pytest.mark.parametrize("value", ["\x00", "é" * 40, "-" * 1000, "1" * 100_000, "٣" * 32 + "-" + "٣" * 16])
@pytest.mark.parametrize("name", ["b3", "X-B3-TraceId", "X-B3-Sampled", "traceparent"])
def test_nothing_a_client_sends_raises(name, value):
    assert extract([(name, value)]).parent is None


@pytest.mark.parametrize("row", table("| Decision | `b3`"), ids=lambda row: row[0])
def test_what_goes_out(row):
    decision, single, multi, traceparent = (cell.strip("`") for cell in row)
    context = SpanContext(int(IDS["T"], 16), int(IDS["S"], 16), is_remote=False)
    out = inject(context, SamplingState[decision])
    assert out["b3"] == ids_in(single)
    assert out["traceparent"] == ids_in(traceparent)
    assert out["X-B3-TraceId"] == IDS["T"] and out["X-B3-SpanId"] == IDS["S"]
    words = {f"{name}: {value}" for name, value in out.items() if name in ("X-B3-Sampled", "X-B3-Flags")}
    assert words == ({multi} if ":" in multi else set())


@pytest.mark.parametrize("decision", list(SamplingState))
@pytest.mark.parametrize("left", [{"b3"}, {"X-B3-TraceId", "X-B3-SpanId", "X-B3-Sampled", "X-B3-Flags"}])
def test_what_goes_out_comes_in_again_by_each_b3_family_alone(decision, left):
    context = SpanContext(int(IDS["T"], 16), int(IDS["S"], 16), is_remote=False)
    incoming = extract({name: value for name, value in inject(context, decision).items() if name in left})
    assert incoming.decision is decision
    assert (incoming.parent.trace_id, incoming.parent.span_id) == (context.trace_id, context.span_id)


@pytest.mark.parametrize("row", table("| Decision | From"), ids=lambda row: row[0])
def test_what_a_decision_does(row):
    decision, *columns = row
    examples = {
        "DENY": [{"b3": "0"}],
        "DEBUG, ACCEPT": [{"b3": "d"}, {"b3": "1"}, {"traceparent": ids_in("00-T-S-01")}],
        "DEFER": [{}],
        "DEFER, advised against (`traceparent …-00`)": [{"traceparent": ids_in("00-T-S-00")}],
    }[decision]
    trusted, anyone = columns
    cases = [(trusted, True), (trusted if anyone == "the same" else anyone, False)]
    for incoming, (meant, is_trusted) in itertools.product(map(extract, examples), cases):
        plain, failed = (_kept(incoming, is_trusted, failed) for failed in (False, True))
        if meant.startswith("nothing is exported"):
            assert (plain, failed) == ("never", "never")
        elif meant == "kept":
            assert (plain, failed) == ("always", "always")
        elif meant.startswith("the ratio decides"):
            assert (plain, failed) == ("by ratio", "always")
        else:
            assert meant.startswith("not part of the ratio")
            assert (plain, failed) == ("never", "always")


def _kept(incoming, trusted: bool, failed: bool) -> str:
    kept = [
        Sampler(SamplingSettings(ratio=ratio))
        .decide(FinishedTrace(IDS["T"], failed=failed, incoming=incoming, trusted=trusted))
        .keep
        for ratio in (0.0, 1.0)
    ]
    return {(False, False): "never", (True, True): "always", (False, True): "by ratio"}[tuple(kept)]

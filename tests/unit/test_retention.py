"""Old days of traces: which indices go, which stay, and what is said about it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import httpx
import pytest

from cluster import cli, retention
from cluster.cli_error import CliError
from cluster.storage_elasticsearch import Server

TODAY = date(2026, 3, 14)


class Search:
    """As much of Elasticsearch as is asked for: a list of indices, and their end."""

    def __init__(self, *names: str, status: int = 200) -> None:
        self.sizes: dict[str, str | None] = dict.fromkeys(names, "1000")
        self.status = status
        self.paths: list[str] = []

    def client(self) -> httpx.Client:
        return httpx.Client(base_url="http://search", transport=httpx.MockTransport(self.answer))

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if request.method == "GET" and path == "/":
            return httpx.Response(200, json={"version": {"number": "2.19.3", "distribution": "opensearch"}})
        if request.method == "DELETE":
            self.paths.append(path)
            if self.status != 200:
                return httpx.Response(self.status, text="read-only")
            for name in path[1:].split(","):
                del self.sizes[name]
            return httpx.Response(200, json={"acknowledged": True})
        return httpx.Response(200, json=[{"index": name, "store.size": size} for name, size in self.sizes.items()])


@pytest.fixture
def serves(monkeypatch):
    """Lets a `Search` answer in the server's place."""

    def serve(search: Search) -> Server:
        monkeypatch.setattr(Server, "client", lambda self: search.client())
        return Server.of("http://search:9200")

    return serve


def names(*days: date, prefix: str = "zipkin") -> list[str]:
    return [f"{prefix}-{kind}-{day}" for day in days for kind in retention.KINDS]


def test_whole_days_go_and_the_last_ones_stay(serves):
    days = [TODAY - timedelta(days=number) for number in range(4)]
    search = Search(*names(*days))
    found = retention.delete_old(serves(search), 2, TODAY)
    assert sorted(search.sizes) == sorted(names(*days[:3])), "today and two whole days"
    assert sorted(found.indices) == sorted(names(days[3])) and found.bytes == 3000


def test_what_is_no_day_of_this_zipkin_stays(serves):
    others = ["zipkin-span-2026-13-40", "zipkin-span-2001-01-01-old", "zipkin-other-2001-01-01", "zipkin-span"]
    others += names(date(2001, 1, 1), prefix="zipkin-test")
    search = Search(*others, *names(date(2001, 1, 1)))
    retention.delete_old(serves(search), 7, TODAY)
    assert sorted(search.sizes) == sorted(others)


def test_another_prefix_is_no_pattern(serves):
    search = Search(*names(date(2001, 1, 1), prefix="a.b"), *names(date(2001, 1, 1), prefix="aXb"))
    retention.delete_old(serves(search), 7, TODAY, prefix="a.b")
    assert sorted(search.sizes) == sorted(names(date(2001, 1, 1), prefix="aXb"))


def test_years_go_in_calls_that_a_server_takes(serves):
    search = Search(*names(*(TODAY - timedelta(days=number) for number in range(8, 700))))
    retention.delete_old(serves(search), 7, TODAY)
    assert search.sizes == {} and max(map(len, search.paths)) < 4000


def test_an_index_that_is_closed_has_no_size_and_goes_too(serves):
    search = Search("zipkin-span-2001-01-01")
    search.sizes["zipkin-span-2001-01-01"] = None
    assert retention.delete_old(serves(search), 7, TODAY).bytes == 0
    assert search.sizes == {}


def test_a_dry_run_deletes_nothing(serves):
    search = Search(*names(date(2001, 1, 1)))
    assert len(retention.delete_old(serves(search), 7, TODAY, dry_run=True).indices) == 3
    assert len(search.sizes) == 3 and search.paths == []


def test_a_storage_that_refuses_is_told(serves):
    with pytest.raises(CliError, match="answers 403 to DELETE /zipkin-span-2001-01-01: read-only"):
        retention.delete_old(serves(Search("zipkin-span-2001-01-01", status=403)), 7, TODAY)


def test_the_command_counts_from_today(serves, capsys):
    today = datetime.now(UTC).date()
    search = Search(*names(today, today - timedelta(days=1), today - timedelta(days=9)))
    serves(search)
    command = ["retention", "--storage-url", "http://search:9200", "--keep-days", "7"]
    assert cli.main([*command, "--dry-run"]) == 0
    assert "3 indices would be deleted" in "".join(capsys.readouterr())
    assert cli.main(command) == 0
    told = "".join(capsys.readouterr())
    assert f"zipkin-span-{today - timedelta(days=9)}" in told and "3 indices deleted, 0.0 MB" in told
    assert len(search.sizes) == 6


@pytest.mark.parametrize("days", ["0", "-1", "a week", "4000"])
def test_a_wrong_number_of_days_is_refused(days, capsys):
    with pytest.raises(SystemExit):
        cli.main(["retention", "--storage-url", "http://search:9200", "--keep-days", days])
    assert "is no number of days (1 to 3650)" in capsys.readouterr().err

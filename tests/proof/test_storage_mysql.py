"""Zipkin's MySQL storage on a real MariaDB: ours in the run folder, and somebody else's by its address."""

from __future__ import annotations

import re
import time
from pathlib import Path

import psutil
import pytest

from cluster import ports, processes, stack, storage_mariadb, storage_mysql, zipkin, zipkin_jar
from cluster.cli_error import CliError
from cluster.ray_head import ROOT
from cluster.state import State, StateFile, boot_id
from cluster.storage import PASSWORD, Storage, prepare
from cluster.storage_mysql import Address
from tests.helpers import keeping
from tracing import Exporter, ExportSettings

pytestmark = pytest.mark.proof


@pytest.fixture(scope="module", autouse=True)
def mariadb_is_here():
    try:
        storage_mariadb.find("mariadbd")
        storage_mariadb.find("mariadb-install-db")
    except CliError as problem:
        pytest.skip(str(problem))


class Place:
    """A run folder of the launcher, of which only Zipkin and its database are started."""

    def __init__(self, run_dir: Path) -> None:
        self.said: list[str] = []
        self.stack = stack.Stack(run_dir, self.said.append)
        self.options = stack.Options(run_dir=run_dir, zipkin_port=ports.any_free(), storage=Storage.of("mysql"))
        self.state: State | None = None

    def start(self) -> str:
        self.state = State("2030-01-01T00:00:00+00:00", boot_id(), http_port=1)
        self.stack._start_zipkin(self.options, self.state)
        assert self.state.zipkin is not None, self.said
        return self.state.zipkin.url

    def stop(self) -> None:
        if self.state is not None:
            self.stack.stop(self.state)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.delenv("ZIPKIN_URL", raising=False)
    place = Place(tmp_path / "run")
    yield place
    place.stop()


def test_traces_outlive_zipkin_and_its_database(place, tmp_path):
    traces = keeping.requests(200)
    url = place.start()
    keeping.export(ExportSettings(zipkin_url=url, spool_dir=tmp_path / "spool"), traces)
    keeping.assert_kept(url, traces)
    assert keeping.Reader(url).links() == keeping.expected_links(traces)
    saved = StateFile(place.stack.run_dir).load()
    assert saved.database == place.state.database and saved.zipkin.storage == "mysql"
    started = saved.started
    assert len(started) == 2 and all(process.alive for process in started)
    assert ports.open_to_the_network({process.pid for process in started}) == []
    assert_the_password_is_nowhere_to_be_read(place)
    place.stop()
    assert not any(process.alive for process in started)

    url = place.start()
    keeping.assert_kept(url, traces)
    assert keeping.Reader(url).links() == keeping.expected_links(traces)
    more = keeping.requests(20, first=1001)
    keeping.export(ExportSettings(zipkin_url=url, spool_dir=tmp_path / "spool"), more)
    keeping.assert_kept(url, traces + more)
    psutil.Process(place.state.database.process.pid).kill()
    place.stop()
    keeping.assert_kept(place.start(), traces + more)


def test_a_database_that_is_gone_for_a_while_behind_a_living_zipkin_costs_no_trace(place, tmp_path):
    url = place.start()
    exporter = Exporter(ExportSettings(zipkin_url=url, spool_dir=tmp_path / "spool", linger_s=0, retry_most_s=1))
    before, during = keeping.requests(20), keeping.requests(60, first=1001)
    for spans in before:
        exporter.submit(spans)
    keeping.eventually(exporter.counters, lambda counts: counts["sent"] == len(before))
    database = psutil.Process(place.state.database.process.pid)
    # Its password is set by a file that is there for the first start only.
    command = [part for part in database.cmdline() if not part.startswith("--init-file")]
    database.kill()
    for spans in during:  # for longer than it takes to look after the storage
        exporter.submit(spans)
        time.sleep(0.2)
    counts = keeping.eventually(exporter.counters, lambda counts: counts["retries"] > 0)
    assert counts["waiting"] > 0 and counts["sent"] > len(before), "Zipkin took some that it could not store"
    again = processes.start("mariadb", command, tmp_path / "mariadb.log")
    try:
        keeping.eventually(exporter.counters, lambda counts: counts["waiting"] == 0, within_s=60)
        keeping.assert_kept(url, before + during)
        exporter.close(10)
        assert exporter.counters()["dropped"] == 0
    finally:
        processes.stop(again)


def assert_the_password_is_nowhere_to_be_read(place) -> None:
    password = psutil.Process(place.state.zipkin.process.pid).environ()["MYSQL_PASS"]
    assert len(password) > 20
    shown = ["\n".join(place.said)]
    shown += [str(psutil.Process(process.pid).cmdline()) for process in place.state.started]
    # All files: the state, the logs, and the database itself, which knows it only hashed.
    shown += [path.read_text(errors="replace") for path in place.stack.run_dir.rglob("*") if path.is_file()]
    assert len(shown) > 20 and not any(password in text for text in shown)


@pytest.fixture
def theirs(tmp_path):
    """A MariaDB as somebody else runs it: (its address, the password)."""
    started = []
    address, password = storage_mariadb.start(
        tmp_path / "theirs", tmp_path / "theirs.log", lambda text: None, started.append
    )
    yield address, password
    started[0].stop()


def test_somebody_elses_server_is_used_and_left_running(theirs, tmp_path):
    address, password = theirs
    env = {PASSWORD: password}
    storage, servers, said = Storage.of("mysql", str(address), env), [], []
    assert PASSWORD not in env, "nothing else that is started may inherit it"
    assert password not in repr(storage)
    traces = keeping.requests(40)
    try:
        server, missing = zipkin.find_or_start(
            ports.any_free(),
            tmp_path / "zipkin.log",
            said.append,
            keeping.environment(),
            remember=servers.append,
            storage=lambda: prepare(storage, tmp_path, said.append),
        )
        assert server is not None, missing
        keeping.export(ExportSettings(zipkin_url=server.url, spool_dir=tmp_path / "spool"), traces)
        keeping.assert_kept(server.url, traces)
    finally:
        for server in servers:
            keeping.stop(server)
    prepare(storage, tmp_path, said.append)  # a second start finds the tables
    assert any("tables were made" in text for text in said) and "has Zipkin's tables" in said[-1]
    with storage_mysql.connected(address, password) as connection, connection.cursor() as cursor:
        assert rows(cursor) == sum(len(spans) for spans in traces)
        # The recipe of docs/storage.md: nothing here is seven days old, and everything is older than no time at all.
        recipe = re.search(r"```sql\n(.+?)```", (ROOT / "docs" / "storage.md").read_text(), re.DOTALL)[1]
        for days, left in ((7, sum(len(spans) for spans in traces)), (0, 0)):
            cursor.execute(recipe.replace("7 * 86400", f"{days} * 86400"))
            while cursor.nextset():
                pass
            assert rows(cursor) == left
        cursor.execute("SELECT COUNT(*) FROM zipkin_annotations")
        assert cursor.fetchone()[0] == 0


def rows(cursor) -> int:
    cursor.execute("SELECT COUNT(*) FROM zipkin_spans")
    return cursor.fetchone()[0]


def test_what_is_wrong_with_a_server_is_said(theirs, tmp_path):
    address, password = theirs
    schema = zipkin_jar.mysql_schema(zipkin_jar.obtain(lambda text: None))

    def problem(address: Address, password: str) -> str:
        with pytest.raises(CliError) as caught:
            storage_mysql.ensure_schema(address, password, schema, tmp_path)
        assert password not in str(caught.value)
        return str(caught.value)

    assert PASSWORD in problem(address, "wrong-password")
    # Root has no password here, and yet nobody comes in over TCP: only this user, through the socket.
    assert "refuses the user root" in problem(Address(address.host, address.port, "root", "mysql"), "nothing")
    assert "refuses" in problem(Address(address.host, address.port, address.user, "other"), password)
    assert "answers" in problem(Address(address.host, ports.any_free(), address.user, address.database), password)
    with storage_mysql.connected(address, password) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE somebodys (id INT)")
    message = problem(address, password)
    assert "not all of Zipkin's" in message and "zipkin-mysql.sql" in message
    assert (tmp_path / "zipkin-mysql.sql").read_text() == schema

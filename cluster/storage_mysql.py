"""Zipkin's MySQL storage: does the server answer, are the tables there, what has Zipkin to be told.

The tables are made with the SQL that Zipkin's own jar brings, and only in a database that has no tables at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cluster.cli_error import CliError

EXAMPLE = "mysql://zipkin@127.0.0.1:3306/zipkin"
TABLES = ("zipkin_spans", "zipkin_annotations", "zipkin_dependencies")
_ANSWER_WITHIN_S = 10
_ACCESS_DENIED = {1044, 1045, 1698}  # of MySQL and MariaDB: to the database, for the user, by the plugin
_NO_DATABASE = 1049


@dataclass(frozen=True)
class Address:
    host: str
    port: int
    user: str
    database: str

    @classmethod
    def of(cls, url: str) -> Address:
        """From `mysql://user@host:port/database` (port 3306 where none is named). Problem where it is none."""
        try:
            parts = urlsplit(url)
            port = parts.port or 3306
        except ValueError:
            raise CliError(f"--zipkin-storage-url {url}: the port is none. It should look like {EXAMPLE}.") from None
        database = unquote(parts.path.strip("/"))
        if (
            parts.scheme not in ("mysql", "mariadb")
            or not parts.hostname
            or not parts.username
            or not database
            or "/" in database
            or parts.query
            or parts.fragment
        ):
            raise CliError(
                f"--zipkin-storage-url {url} should look like {EXAMPLE}: a user, a host and a database, "
                "nothing behind it."
            )
        return cls(parts.hostname, port, unquote(parts.username), database)

    def __str__(self) -> str:
        return f"mysql://{self.user}@{self.host}:{self.port}/{self.database}"


def settings(address: Address, password: str) -> dict[str, str]:
    """Zipkin's environment for this server."""
    return {
        "STORAGE_TYPE": "mysql",
        "MYSQL_HOST": address.host,
        "MYSQL_TCP_PORT": str(address.port),
        "MYSQL_DB": address.database,
        "MYSQL_USER": address.user,
        "MYSQL_PASS": password,
    }


def ensure_schema(address: Address, password: str, schema: str, run_dir: Path) -> str:
    """Make Zipkin's tables where the database is empty. Returns what was found, for people.

    Raises Problem where the server doesn't answer or refuses, where the database is missing, and where it has tables
    but not Zipkin's: then the schema is written to `run_dir`, to be loaded by hand.
    """
    import pymysql

    with connected(address, password) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT VERSION()")
        version = cursor.fetchone()[0]
        cursor.execute("SHOW TABLES")
        tables = {row[0] for row in cursor.fetchall()}
        if tables.issuperset(TABLES):
            return f"{address} answers (version {version}) and has Zipkin's tables{_look_anew(cursor)}"
        if tables:
            file = run_dir / "zipkin-mysql.sql"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(schema)
            raise CliError(
                f"The database {address.database} at {address.host}:{address.port} has tables, but not all "
                f"of Zipkin's (missing: {', '.join(sorted(set(TABLES) - tables))}). Name an empty database, "
                f"or load Zipkin's schema into this one: mariadb -u {address.user} -p -h {address.host} "
                f"-P {address.port} {address.database} < {file}"
            )
        try:
            cursor.execute(schema)  # the server takes it apart: strings in it hold semicolons
            while cursor.nextset():
                pass
        except pymysql.MySQLError as failure:
            raise CliError(
                f"Zipkin's tables could not be made in {address}: {_said(failure)}. The user needs CREATE, "
                "ALTER, INDEX, SELECT, INSERT and DELETE on the database."
            ) from failure
        return f"{address} answers (version {version}); Zipkin's tables were made in it"


def _look_anew(cursor) -> str:
    """Let the server count its rows again; returns what to say where it will not.

    It plans by figures that may be from a time when the tables were all but empty (it counts again after changes, not
    at a start), and then reads a search by tag in an order in which 1,000 spans take longer than Zipkin's 11 s. A few
    pages are looked at, whatever the tables' size. Best effort: without it searches are slow at first, no more.
    """
    import pymysql

    try:
        cursor.execute(f"ANALYZE TABLE {', '.join(TABLES)}")
        cursor.fetchall()
    except pymysql.MySQLError as failure:
        return f" (ANALYZE TABLE is refused: {_said(failure)}; searches may be slow until somebody runs it)"
    return ""


@contextmanager
def connected(address: Address, password: str) -> Iterator:
    """A connection that commits by itself. Raises Problem saying why there is none."""
    try:
        import pymysql
        import pymysql.constants.CLIENT
    except ImportError as missing:
        raise CliError(
            "The package PyMySQL, which asks databases how they are, is not installed: `make setup`."
        ) from missing
    try:
        connection = pymysql.connect(
            host=address.host,
            port=address.port,
            user=address.user,
            password=password,
            database=address.database,
            connect_timeout=_ANSWER_WITHIN_S,
            read_timeout=60,
            write_timeout=60,
            autocommit=True,
            client_flag=pymysql.constants.CLIENT.MULTI_STATEMENTS,
        )
    except (pymysql.MySQLError, RuntimeError) as failure:  # RuntimeError: a way to log in that needs another package
        raise CliError(_why(address, failure, bool(password))) from failure
    try:
        yield connection
    finally:
        connection.close()


def _why(address: Address, failure: Exception, with_password: bool) -> str:
    code = failure.args[0] if failure.args else None
    if code in _ACCESS_DENIED:
        used = "the password in ZIPKIN_STORAGE_PASSWORD" if with_password else "no password"
        return (
            f"{address} refuses the user {address.user} with {used} ({_said(failure)}). Set the right "
            "ZIPKIN_STORAGE_PASSWORD in the environment, or grant the user the database."
        )
    if code == _NO_DATABASE:
        return (
            f"The server at {address.host}:{address.port} has no database {address.database}. Make it: "
            f"CREATE DATABASE {address.database}; and grant it to {address.user}."
        )
    return (
        f"No MySQL or MariaDB answers at {address.host}:{address.port} ({_said(failure)}). Start it, correct "
        "--zipkin-storage-url, or leave the address out to have a MariaDB started here."
    )


def _said(failure: Exception) -> str:
    return str(failure.args[-1] if failure.args else type(failure).__name__).rstrip(".")

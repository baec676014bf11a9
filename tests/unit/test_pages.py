"""`/`, the documentation's pages with scripts of our own, and HEAD."""

import re
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from starlette.testclient import TestClient

from config import routes
from config.version import VERSION
from deployments.ingress import app
from deployments.ingress.routes import pages

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def client(web_page_url: str | None = "/ui/", **settings) -> TestClient:
    api = Mock(config=SimpleNamespace(web_page_url=web_page_url))
    application = app.build(api)

    async def traced(scope, receive, send):
        scope.setdefault("state", {})["context"] = Mock()
        await application(scope, receive, send)

    return TestClient(traced, follow_redirects=False, **settings)


def test_a_browser_is_taken_to_the_page():
    answer = client().get("/", headers=BROWSER)
    assert answer.status_code == 307 and answer.headers["location"] == "/ui/" and answer.headers["vary"] == "Accept"


def test_without_a_page_a_browser_is_taken_to_the_documentation():
    assert client(None).get("/", headers=BROWSER).headers["location"] == "/docs"
    below = client(None, root_path="/speech").get("/speech/", headers=BROWSER)
    assert below.headers["location"] == "/speech/docs"


def test_anybody_else_is_told_where_things_are():
    told = client().get("/").json()
    assert told["version"] == VERSION and told["web_page"] == "/ui/"
    for name in ("docs", "openapi", "health", "ready"):
        assert routes.at(told[name]), name
    assert "web_page" not in client(None).get("/").json()


@pytest.mark.parametrize("path, script", [("/docs", "swagger-ui-bundle.js"), ("/redoc", "redoc.standalone.js")])
@pytest.mark.parametrize("prefix", ["", "/speech"])
def test_a_page_names_this_server_alone(path, script, prefix):
    asked = client(root_path=prefix)
    page = asked.get(prefix + path)
    assert page.status_code == 200 and page.headers["content-security-policy"] == pages.POLICY
    assert f'"{prefix}/docs/assets/{script}"' in page.text and f"{prefix}/openapi.json" in page.text
    addresses = re.findall(r"""(?:src|href|url)\s*[:=]\s*["']([^"']+)""", page.text)
    assert len(addresses) >= 2 and all(address.startswith(f"{prefix}/") for address in addresses), addresses


@pytest.mark.parametrize("file, media", pages.ASSETS.items())
def test_an_asset_is_there_with_its_type(file, media):
    answer = client().get(f"/docs/assets/{file}")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith(media) and len(answer.content) > 1000
    assert b"cdn.redoc.ly" not in answer.content


@pytest.mark.parametrize("file", ["../core.py", "core.py", "%2e%2e%2fcore.py", ""])
def test_no_other_file_is(file):
    answer = client().get(f"/docs/assets/{file}")
    assert answer.status_code == 404 and answer.json()["error"]["type"] == "not_found"


def test_head_is_answered_wherever_get_only_reads():
    application = app.build(Mock())
    heads = {route.path for route in application.routes if "HEAD" in getattr(route, "methods", ())}
    reads = {route.path for route in routes.ROUTES if "GET" in route.methods and not route.speech}
    assert heads == reads
    answer = client().head("/health")
    assert answer.status_code == 200 and answer.content == b"" and int(answer.headers["content-length"]) > 0

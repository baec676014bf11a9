"""Deploys the web page as a Serve application of its own beside the graph. It asks the HTTP API like any client.

    import_path: webui.deployment:build

One replica: Gradio keeps each open page's session in its process.
"""

# No `from __future__ import annotations` here: Serve reads the builder's type, and would find a string.
from ray import serve
from ray.serve import Application

from config.strict import StrictModel


class WebUiConfig(StrictModel):
    """Holds the settings of the web page (docs/webui.md). None is a secret."""

    api_url: str = "http://127.0.0.1:8000"
    """Base URL of the API as the page's replica reaches it."""
    zipkin_ui_url: str | None = None
    """Base URL of Zipkin as people open it."""
    api_docs_url: str | None = "/docs"
    """Address of the API's documentation as people open it."""


@serve.ingress()
class WebUi:
    service = "webui"

    def __init__(self, config: WebUiConfig) -> None:
        self.config = config

    def __serve_build_asgi_app__(self):
        """Build the ASGI app. Serve calls this hook in the replica, on its event loop."""
        # Here and not above: Gradio takes seconds to import, and the application builder runs elsewhere too.
        from webui import site

        return site.build(self.config.api_url, self.config.zipkin_ui_url, self.config.api_docs_url)

    def __del__(self) -> None:
        from webui import folder

        folder.tidy()


def build(args: WebUiConfig) -> Application:
    """Build the Serve application."""
    deployment = serve.deployment(name=WebUi.service, num_replicas=1, max_ongoing_requests=1024)(WebUi)
    return deployment.bind(args)

"""Gradio, kept from asking anybody on the internet anything, and its files to ourselves.

To be imported from here: it reads these when it is imported. They are usage statistics with the check for a newer
version, the runs that it would otherwise keep in the browser (they hold texts), and where uploads lie.
"""

from __future__ import annotations

import os

from webui import folder

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"
os.environ["GRADIO_TEMP_DIR"] = str(folder.own() / "gradio")

import gradio as gr  # noqa: E402, F401

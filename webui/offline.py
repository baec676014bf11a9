"""Imports Gradio so that it sends nothing to the internet and keeps its files to ourselves.

Import Gradio from here: it reads these variables when it is imported. They set its usage statistics with the check for
a newer version, the history of runs that it would keep in the browser (it holds texts), and the folder of uploads.
"""

from __future__ import annotations

import os

from webui import folder

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"
os.environ["GRADIO_TEMP_DIR"] = str(folder.own() / "gradio")

import gradio as gr  # noqa: E402, F401

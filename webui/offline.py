"""Gradio, kept from asking anybody on the internet anything, and its files to ourselves.

To be imported from here: it reads these when it is imported. They are usage statistics with the check for a newer
version, the runs that it would otherwise keep in the browser (they hold texts), and where uploads lie.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

#: Clips and speech, while the page may want them: a folder of this process alone, for its user's eyes only.
FOLDER = tempfile.mkdtemp(prefix="cosygraph-webui-")

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"
os.environ["GRADIO_TEMP_DIR"] = FOLDER

import gradio as gr  # noqa: E402, F401


@atexit.register
def tidy() -> None:
    """Nothing of what people uploaded outlives the process."""
    shutil.rmtree(FOLDER, ignore_errors=True)

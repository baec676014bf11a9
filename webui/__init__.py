"""Serves the web page: a Gradio app that asks the HTTP API as any client does. `client.py` serves `say` too."""

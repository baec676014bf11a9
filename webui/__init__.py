"""The web page: a Gradio app that speaks to the HTTP API as any other client does. `client.py` serves `say` too."""

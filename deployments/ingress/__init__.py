"""cosyvoice3-api: the HTTP ingress of the graph."""

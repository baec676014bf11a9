"""The services of the graph: where speech, engines and tracing meet Ray Serve. The hall holds what all rooms need."""

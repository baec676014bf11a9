"""The services of the graph, one file each: where speech, engines and tracing meet Ray Serve."""

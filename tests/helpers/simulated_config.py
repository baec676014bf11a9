"""The cluster's Serve config, changed so that drills can deploy it: the simulated engine, no API keys, little CPU."""

from __future__ import annotations

from typing import Any

import yaml

from cluster import node_environment

CPUS = 0.2  #: that each replica asks for: nodes of a drill share the machine's


def simulated_config(engine_options: dict[str, Any], tracing: dict[str, Any], voices: dict[str, Any]) -> dict[str, Any]:
    """Return the config, with the graph and the watchdog as its applications.

    Args:
        engine_options: times of the simulated engine.
        tracing: the graph's tracing settings.
        voices: the settings of its voice store; with none, it stores no voices.
    """
    config: dict[str, Any] = yaml.safe_load(node_environment.CONFIG.read_text())
    graph = config["applications"][0]
    graph["args"] |= {"engine": "simulated", "engine_options": engine_options, "tracing": tracing, "voices": voices}
    graph["args"] |= {"voice_cache_mb": 0, "access": {"required": False}}
    for deployment in graph["deployments"]:
        deployment["ray_actor_options"]["num_cpus"] = CPUS
    return config


def simulated_graph(engine_options: dict[str, Any], tracing: dict[str, Any]) -> dict[str, Any]:
    """Return the config with the graph alone, which stores no voices."""
    config = simulated_config(engine_options, tracing, {})
    del config["applications"][1:]
    return config

"""graph.py's imports: import-linter takes packages alone, and graph.py is a file (the rest is in pyproject.toml)."""

import ast
import sys

from cluster.ray_head import ROOT

#: rooms below graph.py, Ray, and what every file may import
BELOW = {"access", "config", "deployments", "engines", "ray", "speech", "tracing", "voices"} | {"pydantic"}


def imported(source: str) -> set[str]:
    """The top-level names that a source imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or ".").partition(".")[0])
    return found


def test_graph_imports_the_rooms_below_it_alone():
    assert imported((ROOT / "graph.py").read_text()) - sys.stdlib_module_names <= BELOW


def test_an_import_inside_a_function_is_seen():
    assert imported("def late():\n    from cluster.ports import any_free\n    import bench.soak") == {
        "cluster",
        "bench",
    }

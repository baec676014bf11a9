"""Run the launcher: `python -m cluster COMMAND`.

A system's Python has none of the project's packages and may be old, so this file is written for any Python 3. Such a
Python hands the command over to the one in `.venv`, or says in one line what to type.
"""

import importlib.util
import os
import sys
from pathlib import Path

VENV = Path(__file__).resolve().parent.parent / ".venv"
OLDEST = (3, 11)
#: Packages of requirements.txt that the launcher itself imports: where one is missing, none can be relied on.
PACKAGES = ("httpx", "numpy", "psutil", "pydantic", "ray", "soundfile", "yaml")


def unsuitable():
    """Return why this Python can't run the launcher, or None where it can."""
    if sys.version_info < OLDEST:
        return "it is older than Python {}.{}".format(*OLDEST)
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    return f"it has no {', '.join(missing)}" if missing else None


def main():
    """Run the launcher in this Python, or in the one of `.venv` where this one is unsuitable."""
    reason = unsuitable()
    if reason is None:
        from cluster import cli, output

        with output.outliving_its_reader():
            return cli.main()
    python = VENV / "bin" / "python"
    if python.exists() and Path(sys.prefix).resolve() != VENV.resolve():
        sys.stdout.flush()
        os.execv(str(python), [str(python), "-m", "cluster", *sys.argv[1:]])
    print(
        f"{sys.executable} can't run Cosygraph: {reason}. Type `make setup` in {VENV.parent}, and then the same again.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())

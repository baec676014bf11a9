"""Runs every measurement (`make bench`), one after the other, each in a process of its own.

    python -m bench [engine|served|first_audio|overhead|tracing|tracing_served|access|voice|monitoring …]

Without names it runs all of them.

Not part of it, because they take long or need more: `bench.soak`, `bench.crowd`, `bench.storage`, `bench.cosyvoice3`,
`bench.lengths`, `bench.recognised`, `bench.marking`, `bench.fitting`, `bench.fitting_served`, `bench.fitted_languages`,
`bench.mixes`, `bench.parts`, `bench.replicas`, `bench.streams`, `bench.words`, `bench.scaling`,
`bench.scaling_held_out` and, on a GPU, `bench.gpu`.
"""

from __future__ import annotations

import subprocess
import sys

BENCHES = {
    "engine": ["bench.engine"],
    "served": ["bench.served"],
    "first_audio": ["bench.first_audio"],
    "overhead": ["bench.overhead"],
    "tracing": ["bench.tracing"],
    "tracing_served": ["bench.tracing_served"],
    "access": ["bench.access"],
    "voice": ["bench.voice"],
    "monitoring": ["bench.monitoring"],
}


def main() -> int:
    wanted = sys.argv[1:] or list(BENCHES)
    unknown = [name for name in wanted if name not in BENCHES]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; there are {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    failed = []
    for name in wanted:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", *BENCHES[name]], check=False).returncode:
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "all measured; see bench/results")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

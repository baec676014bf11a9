"""Measure the speed, exactness and evenness of the CosyVoice3 engine alone on one GPU, with a single command.

From a checkout, with Python 3.11 or newer and the packages torch, numpy, tokenizers, pyyaml, onnx and onnxruntime; no
Ray, no pydantic, no network, no weights:

    PYTHONUNBUFFERED=1 timeout 300 python3 -m bench.gpu --budget 240 --out gpu.json 2>&1 | tee gpu.log

With a trace of a second under load, to be opened in chrome://tracing or Perfetto:

    PYTHONUNBUFFERED=1 timeout 300 python3 -m bench.gpu --budget 240 --out gpu.json --profile trace.json.gz

Only some of it, in another order, or the rehearsal that the tests run:

    python3 -m bench.gpu --phases step whole --levels 16 --seconds 10
    python3 -m bench.gpu --tiny --device cpu

The most important measurements come first, and each is written to `--out` as it comes, so that an interrupted run has
the most important results. A phase that fails reports the reason, and the next one goes on.
"""

"""Makes the project's own voice data: the mapper and the predictor of moments that the engine carries, and the demo's
reference clip.

The method is self-distillation. Random blends of Kokoro's 54 stock voices speak a few sentences. From the speaker
encoder's result for them, the fit learns the style that a speaker needs. No recording of a person is used. Every step
is deterministic by its seed (up to the rounding of the machine's floating-point library).

    python -m engines.embedded.train bank        # synthetic speech into the cache; resumes where it stopped
    python -m engines.embedded.train fit         # writes mapper.npz and mapper.npz.sha256
    python -m engines.embedded.train moments     # writes moments.npz and moments.npz.sha256; resumes where it stopped
    python -m engines.embedded.train reference   # writes cluster/assets/reference.flac

Beside the run-time packages it needs npm, or the archive that `npm pack kokoro-js@1.2.1` makes (`--voices`).
"""

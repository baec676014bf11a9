"""Weight files in installed packages: found without an import, verified once, and named when missing or damaged."""

import hashlib
import sys

import numpy as np
import pytest
import torch

from engines.contract import WeightsError
from engines.embedded import packages, quantized

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package `some-weights`, whose import would fail."""
    site = tmp_path / "site"
    (site / "some_weights").mkdir(parents=True)
    (site / "some_weights" / "__init__.py").write_text("raise ImportError('never import me')")
    (site / "some_weights" / "part.bin").write_bytes(CONTENT)
    (site / "some_weights-1.0.dist-info").mkdir()
    (site / "some_weights-1.0.dist-info" / "METADATA").write_text("Name: some-weights\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return site / "some_weights"


def test_a_file_is_found_without_importing_its_package(package):
    assert packages.find("some-weights", "some_weights/part.bin", SHA256) == package / "part.bin"
    assert "some_weights" not in sys.modules


def test_a_missing_package_is_named_with_the_command(package):
    with pytest.raises(WeightsError, match="part.bin is missing.*absent-weights is not installed.*make setup") as error:
        packages.find("absent-weights", "absent_weights/part.bin", SHA256)
    assert "requirements-weights.txt" in str(error.value)


def test_a_missing_file_is_named_with_the_command(package):
    (package / "part.bin").unlink()
    with pytest.raises(WeightsError, match="part.bin is missing.*--reinstall some-weights"):
        packages.find("some-weights", "some_weights/part.bin", SHA256)


def test_a_damaged_file_is_named_with_the_command(package):
    (package / "part.bin").write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(WeightsError, match="part.bin is damaged.*--reinstall some-weights"):
        packages.find("some-weights", "some_weights/part.bin", SHA256)


def test_a_file_is_hashed_once_and_again_when_it_changes(package, monkeypatch):
    hashed = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: hashed.append(args) or digest(*args))
    for _ in range(3):
        packages.find("some-weights", "some_weights/part.bin", SHA256)
    assert len(hashed) == 1
    (package / "part.bin").write_bytes(CONTENT + b"more")
    with pytest.raises(WeightsError, match="damaged"):
        packages.find("some-weights", "some_weights/part.bin", SHA256)
    assert len(hashed) == 2


def test_a_cache_that_cannot_be_written_only_costs_time(package, tmp_path, monkeypatch):
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a-file"))
    assert packages.find("some-weights", "some_weights/part.bin", SHA256).is_file()


def test_the_kokoro_weights_are_the_ones_they_should_be():
    assert hashlib.sha256(quantized.content()).hexdigest() == quantized.SHA256


def test_only_the_part_asked_for_is_read():
    weights = quantized.read(("decoder.decoder.generator.conv_post.",))
    assert {key: value.shape for key, value in weights.items()} == {
        "decoder.decoder.generator.conv_post.weight": (22, 128, 7),
        "decoder.decoder.generator.conv_post.bias": (22,),
    }
    assert all(value.dtype == np.float32 for value in weights.values())


@pytest.mark.parametrize(
    "module",
    [torch.nn.Conv1d(128, 22, 7, bias=False), torch.nn.Sequential(torch.nn.Conv1d(128, 22, 7), torch.nn.Linear(1, 1))],
)
def test_a_module_that_does_not_fit_exactly_is_refused(module):
    sources = {"": "decoder.decoder.generator.conv_post."}
    if isinstance(module, torch.nn.Sequential):
        sources = {"0.": "decoder.decoder.generator.conv_post.", "1.": "decoder.decoder.generator.nothing."}
    with pytest.raises(WeightsError, match="missing.*unexpected"):
        quantized.fill(module, sources)

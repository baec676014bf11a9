"""A model directory of CosyVoice3: what is missing or does not fit is named, with what to do about it."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from engines.contract import WeightsError, create
from engines.cosyvoice3 import flow, hift, numbers, onnx, random_checkpoint, speech_lm
from engines.cosyvoice3.__main__ import main
from engines.cosyvoice3.directory import FILES, ModelDirectory
from engines.cosyvoice3.qwen import QwenSize
from engines.cosyvoice3.tokenizer import TextTokenizer
from engines.cosyvoice3.weights import expected_shapes
from tests.helpers.cosyvoice3 import golden_directory, tiny_checkpoint  # noqa: F401

REPOSITORY = "FunAudioLLM/Fun-CosyVoice3-0.5B-2512"


@pytest.fixture
def copy(tiny, tmp_path):
    return ModelDirectory(shutil.copytree(tiny.path, tmp_path / "copy"))


def test_a_whole_directory_passes_the_check(tiny, capsys):
    assert main(["check", str(tiny.path)]) == 0
    said = capsys.readouterr().out
    assert "complete" in said and all(file.name in said for file in FILES)


def test_the_check_lists_what_is_missing_with_sizes_and_where_to_find_it(copy, capsys):
    (copy / "flow.pt").unlink()
    (copy / "hift.pt").write_bytes(b"")
    assert main(["check", str(copy.path)]) == 1
    said = capsys.readouterr().out
    assert "missing, about 1.33 GB" in said and "missing, about 83.0 MB" in said
    assert "2 of 9 files are missing" in said and REPOSITORY in said


def test_the_check_names_a_file_that_does_not_fit(copy, capsys):
    state = torch.load(copy / "flow.pt")
    del state["input_embedding.weight"]
    torch.save(state, copy / "flow.pt")
    assert main(["check", str(copy.path)]) == 1
    assert "missing key input_embedding.weight" in capsys.readouterr().out


def test_an_engine_without_its_directory_says_where_the_weights_are_published(copy, tmp_path):
    with pytest.raises(WeightsError, match=f"nowhere does not exist.*{REPOSITORY}"):
        create("cosyvoice3", {"model_dir": str(tmp_path / "nowhere")})
    (copy / "llm.pt").unlink()
    with pytest.raises(WeightsError, match=rf"lacks llm.pt \(about 2.02 GB\).*{REPOSITORY}"):
        create("cosyvoice3", {"model_dir": str(copy.path)})


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda state: state.pop("speech_embedding.weight"), "missing key speech_embedding.weight"),
        (lambda state: state.update(extra=torch.zeros(1)), "unexpected key extra"),
        (
            lambda state: state.update({"llm_decoder.weight": torch.zeros(3, 2)}),
            r"llm_decoder.weight has shape \(3, 2\)",
        ),
        (lambda state: state.pop("llm.model.lm_head.weight"), "missing key llm.model.lm_head.weight"),
    ],
)
def test_a_state_dict_must_fit_to_the_key(copy, change, complaint):
    state = torch.load(copy / "llm.pt")
    change(state)
    torch.save(state, copy / "llm.pt")
    with pytest.raises(WeightsError, match=f"llm.pt does not fit.*{complaint}"):
        speech_lm.load(copy)


@pytest.mark.parametrize(
    "name, load",
    [
        ("llm.pt", speech_lm.load),
        ("hift.pt", hift.load),
        ("campplus.onnx", onnx.SpeakerEmbedder),
        ("speech_tokenizer_v3.onnx", onnx.SpeechTokenizer),
    ],
)
def test_a_damaged_file_is_named(copy, name, load):
    (copy / name).write_bytes((copy / name).read_bytes()[:1000])
    with pytest.raises(WeightsError, match=f"{name} can't be read.*fetch the file again"):
        load(copy)


def test_weights_that_are_no_state_dict_are_refused(copy):
    torch.save([1, 2], copy / "flow.pt")
    with pytest.raises(WeightsError, match="flow.pt holds no state dict"):
        flow.load(copy)


def test_the_vocoder_may_carry_the_name_of_its_training_wrapper(copy):
    state = torch.load(copy / "hift.pt")
    torch.save({f"generator.{key}": value for key, value in state.items()}, copy / "hift.pt")
    assert torch.equal(hift.load(copy).conv_pre.bias, state["conv_pre.bias"])


def test_an_onnx_file_of_another_model_is_refused(copy):
    shutil.copy(copy / "campplus.onnx", copy / "speech_tokenizer_v3.onnx")
    with pytest.raises(WeightsError, match="takes 1 inputs .input. and should take 2"):
        onnx.SpeechTokenizer(copy)


def test_the_yaml_runs_no_code_and_gives_numbers(copy):
    path = copy / "cosyvoice3.yaml"
    path.write_text(
        path.read_text() + f"evil: !apply:os.mkdir [{copy / 'made'}]\nopener: !name:a.b.c\nlist: [!ref <hift>]\n"
    )
    read = numbers.read(path)
    assert read.flow.decoder.estimator.static_chunk_size == 50  # !ref <chunk_size> * <token_mel_ratio>
    assert read.llm.sampling.top_k == 25 and read.hift.sampling_rate == 24_000
    assert not (copy / "made").exists()


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda text: text.replace("solver: 'euler'", "solver: 'rk4'"), "solver.*euler"),
        (lambda text: text.replace("    base_channels: 32\n", ""), "base_channels.*required"),
        (lambda text: text.replace("sample_rate: 24000", "sample_rate: 22050"), "sample_rate.*24000"),
        (lambda text: "just words", "holds no settings"),
        (lambda text: "a: [1", "can't be read as YAML"),
    ],
)
def test_a_yaml_of_another_model_is_refused_by_key(copy, change, complaint):
    path = copy / "cosyvoice3.yaml"
    path.write_text(change(path.read_text()))
    with pytest.raises(WeightsError, match=f"(?s)cosyvoice3.yaml.*{complaint}"):
        numbers.read(path)


def test_a_language_model_of_another_kind_is_refused(copy):
    with pytest.raises(WeightsError, match="no plain Qwen2"):
        QwenSize.of(copy.qwen | {"model_type": "llama"})
    with pytest.raises(WeightsError, match="lacks 'hidden_size'"):
        QwenSize.of({key: value for key, value in copy.qwen.items() if key != "hidden_size"})
    (copy / "CosyVoice-BlankEN/config.json").write_text("{")
    with pytest.raises(WeightsError, match="config.json can't be read as JSON"):
        _ = ModelDirectory(copy.path).qwen


@pytest.mark.parametrize(
    "name, content, complaint",
    [
        ("vocab.json", "[]", "vocab.json is no vocabulary"),
        ("vocab.json", "{", "vocab.json can't be read"),
        ("vocab.json", '{"a": 0, "b": 2}', "without a gap"),
        ("merges.txt", "a b c", "merges.txt is no list of pairs"),
        ("merges.txt", "zz qq", "do not go together"),
    ],
)
def test_a_damaged_tokenizer_is_named(copy, name, content, complaint):
    (copy / "CosyVoice-BlankEN" / name).write_text(content)
    with pytest.raises(WeightsError, match=complaint):
        TextTokenizer(copy)


def test_another_checkpoint_is_another_version(tiny, copy, tmp_path):
    assert copy.fingerprint() == tiny.fingerprint()
    other = random_checkpoint.make(tmp_path / "other", seed=1)
    assert other.fingerprint() != tiny.fingerprint()
    assert create("cosyvoice3", {"model_dir": str(other.path)}).capabilities.version == f"1-{other.fingerprint()}"


def test_a_checkpoint_is_not_written_over_another(tiny, capsys):
    assert main(["make", str(tiny.path)]) == 1
    assert "not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"dtype": "int8"}, "dtype"),
        ({"lm_rows": 0}, "lm_rows"),
        ({"flow_rows": "many"}, "flow_rows"),
        ({"lm_rows": "auto"}, "lm_rows"),
        ({"lm_positions": 0}, "lm_positions"),
        ({"vocoder_batch": 0}, "vocoder_batch"),
    ],
)
def test_a_bad_option_is_refused(tiny, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        create("cosyvoice3", {"model_dir": str(tiny.path)} | options)


def test_the_ingress_can_check_without_loading_torch(tiny):
    code = (
        "import sys; from engines.contract import Utterance, create;"
        f"engine = create('cosyvoice3', {{'model_dir': {str(tiny.path)!r}}});"
        "engine.check(Utterance('你好', 'zh-Sichuan'));"
        "assert not {'torch', 'onnxruntime', 'tokenizers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name, module", [("llm", speech_lm), ("flow", flow), ("hift", hift)])
def test_keys_and_shapes_are_the_official_ones(name, module):
    directory = golden_directory()
    keys = json.loads((directory / f"{name}.keys.json").read_text())
    official = {key: tuple(shape) for key, (shape, _) in keys.items()}
    stored = module.stored(directory)
    network = stored.build()
    renamed = {stored.rename(key): shape for key, shape in official.items()}
    assert expected_shapes(network) | dict(stored.unused) == renamed
    assert main(["check", str(directory.path)]) == 0


@pytest.mark.parametrize("module, millions", [(flow, 331), (hift, 20.8), (speech_lm, 506)])
def test_the_full_size_has_the_published_number_of_weights(tmp_path, module, millions):
    """From file sizes: flow.pt 1.33 GB, hift.pt 83 MB, llm.pt 2.02 GB with a text head that is the embedding again."""
    (tmp_path / "CosyVoice-BlankEN").mkdir()
    (tmp_path / "cosyvoice3.yaml").write_text(random_checkpoint._yaml(random_checkpoint.FULL))
    (tmp_path / "CosyVoice-BlankEN/config.json").write_text(json.dumps(random_checkpoint._qwen(random_checkpoint.FULL)))
    with torch.device("meta"):
        network = module.stored(ModelDirectory(tmp_path)).build()
    count = sum(weight.numel() for weight in network.state_dict().values())
    assert count / 1e6 == pytest.approx(millions, rel=0.01)

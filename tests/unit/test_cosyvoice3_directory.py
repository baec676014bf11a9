"""A model directory of CosyVoice3: what is missing or does not fit is named, with what to do about it."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from engines.contract import Mel, Utterance, WeightsError, create
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


def _zeroed(path, share: float = 0.5, length: int = 256) -> None:
    """Zeros over a part of a file."""
    content = bytearray(path.read_bytes())
    start = int(len(content) * share)
    content[start : start + length] = bytes(length)
    path.write_bytes(content)


def _with(path, key: str, change) -> None:
    """A state dict with one of its tensors changed."""
    state = torch.load(path)
    state[key] = change(state[key].clone())
    torch.save(state, path)


def _not_finite(value: float):
    def change(tensor):
        tensor.view(-1)[-1] = value
        return tensor

    return change


def _config(directory, **changes) -> None:
    path = directory / "CosyVoice-BlankEN/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _cut(path, lines: int) -> None:
    path.write_text("\n".join(path.read_text().split("\n")[:lines]) + "\n")


TIME_WEIGHT = "decoder.estimator.time_embed.time_mlp.0.weight"
DAMAGES = {
    "zeros inside flow.pt": (lambda d: _zeroed(d / "flow.pt"), "flow.pt is damaged: the checksum of .* is wrong"),
    "zeros inside llm.pt": (lambda d: _zeroed(d / "llm.pt", 0.7), "llm.pt is damaged: the checksum of"),
    "zeros inside hift.pt": (lambda d: _zeroed(d / "hift.pt", 0.3, 8), "hift.pt is damaged: the checksum of"),
    "zeros at the end": (lambda d: _zeroed(d / "hift.pt", 0.999, 10**6), "hift.pt can't be read as torch weights"),
    "NaN in flow.pt": (
        lambda d: _with(d / "flow.pt", TIME_WEIGHT, _not_finite(float("nan"))),
        f"flow.pt has NaN or infinity in {TIME_WEIGHT}",
    ),
    "infinity in hift.pt": (
        lambda d: _with(d / "hift.pt", "conv_pre.bias", _not_finite(float("inf"))),
        "hift.pt has NaN or infinity in conv_pre.bias",
    ),
    "whole numbers in llm.pt": (
        lambda d: _with(d / "llm.pt", "llm_decoder.weight", lambda tensor: tensor.long()),
        "llm.pt has torch.int64 in llm_decoder.weight",
    ),
    "merges.txt cut at a line": (
        lambda d: _cut(d / "CosyVoice-BlankEN/merges.txt", 4),
        "vocab.json has 262 words, and .*merges.txt 3 pairs; the words must be 256 bytes",
    ),
    "merges.txt cut in a line": (
        lambda d: (d / "CosyVoice-BlankEN/merges.txt").write_text("#version: 0.2\nt h\nth"),
        "merges.txt is no list of pairs",
    ),
    "a number of layers in quotes": (lambda d: _config(d, num_hidden_layers="3"), "num_hidden_layers is '3'"),
    "no heads": (lambda d: _config(d, num_attention_heads=0), "num_attention_heads is 0, and must be"),
    "half a layer": (lambda d: _config(d, num_hidden_layers=2.5), "num_hidden_layers is 2.5"),
    "a size that is true": (lambda d: _config(d, hidden_size=True), "hidden_size is True"),
    "no chunks": (
        lambda d: (d / "cosyvoice3.yaml").write_text(
            (d / "cosyvoice3.yaml").read_text().replace("chunk_size: 25", "chunk_size: 0")
        ),
        "chunk_size must be at least 1",
    ),
    "a flow without heads": (
        lambda d: (d / "cosyvoice3.yaml").write_text(
            (d / "cosyvoice3.yaml").read_text().replace("            heads: 4", "            heads: 0")
        ),
        "heads must be at least 1",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_check_finds_every_damage_and_names_file_and_place(copy, capsys, damage):
    make, complaint = DAMAGES[damage]
    make(copy)
    assert main(["check", str(copy.path)]) == 1
    said = capsys.readouterr().out
    assert re.search(complaint, said), said
    assert "can't be used" in said.splitlines()[-1]


def test_the_check_goes_on_behind_what_it_did_not_expect(copy, capsys, monkeypatch):
    monkeypatch.setattr("engines.cosyvoice3.hift.stored", lambda directory: {}["hift"])
    assert main(["check", str(copy.path)]) == 1
    said = capsys.readouterr().out
    assert "can't be used (KeyError: 'hift')" in said and "an ONNX model; a second" in said


def test_an_onnx_model_that_makes_no_numbers_is_found(copy, capsys, monkeypatch):
    monkeypatch.setattr(onnx.SpeakerEmbedder, "__call__", lambda *_: np.full(192, np.nan, np.float32))
    monkeypatch.setattr(onnx.SpeechTokenizer, "__call__", lambda *_: np.full(25, 6561, np.int32))
    assert main(["check", str(copy.path)]) == 1
    said = capsys.readouterr().out
    assert "campplus.onnx makes 192 numbers of a second, 0 of them finite" in said
    assert "speech_tokenizer_v3.onnx makes 25 tokens of a second, up to 6561, and should make 25 below 6561" in said


def test_a_config_of_transformers_5_is_the_same_model(copy):
    size = QwenSize.of(copy.qwen)
    config = {key: value for key, value in copy.qwen.items() if key not in ("rope_theta", "rope_scaling")}
    newer = config | {"rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0}, "dtype": "float32"}
    assert QwenSize.of(newer) == size
    with pytest.raises(WeightsError, match="no plain Qwen2"):
        QwenSize.of(config | {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}})


def test_other_weights_of_the_language_model_are_an_option(copy, capsys):
    plain = create("cosyvoice3", {"model_dir": str(copy.path)})
    state = torch.load(copy / "llm.pt")
    state["speech_embedding.weight"] += 1
    torch.save(state, copy / "llm.rl.pt")
    assert main(["check", str(copy.path)]) == 0
    assert "llm.rl.pt" in capsys.readouterr().out, "it is read too where it is there"
    other = create("cosyvoice3", {"model_dir": str(copy.path), "llm_weights": "llm.rl.pt"})
    assert plain.capabilities.version != other.capabilities.version
    one, two = (speech_lm.load(engine._directory) for engine in (plain, other))
    assert torch.equal(one.speech_embedding.weight + 1, two.speech_embedding.weight)
    (copy / "llm.pt").unlink()
    assert main(["check", str(copy.path), "--llm-weights", "llm.rl.pt"]) == 0
    _zeroed(copy / "llm.rl.pt")
    assert main(["check", str(copy.path), "--llm-weights", "llm.rl.pt"]) == 1


@pytest.mark.parametrize("name", ["", "../llm.pt", "/llm.pt", "other/llm.pt"])
def test_weights_outside_the_directory_are_refused(tiny, name):
    with pytest.raises(ValueError, match="llm_weights is .* must be the name of a file"):
        create("cosyvoice3", {"model_dir": str(tiny.path), "llm_weights": name})


def test_weights_that_are_not_there_are_named(tiny):
    with pytest.raises(WeightsError, match="lacks llm.rl.pt"):
        create("cosyvoice3", {"model_dir": str(tiny.path), "llm_weights": "llm.rl.pt"})


def _registered(directory, said: str = "the clip") -> dict:
    """As the official code saves a voice."""
    ids = TextTokenizer(directory).ids(f"You are a helpful assistant.<|endofprompt|>{said}")
    tokens = torch.arange(50, dtype=torch.int32)[None]
    mel, embedding = torch.randn(1, 100, 80), torch.randn(1, 192)
    return {
        "prompt_text": torch.tensor([ids], dtype=torch.int32),
        "prompt_text_len": torch.tensor([len(ids)], dtype=torch.int32),
        "llm_prompt_speech_token": tokens,
        "llm_prompt_speech_token_len": torch.tensor([50], dtype=torch.int32),
        "flow_prompt_speech_token": tokens,
        "flow_prompt_speech_token_len": torch.tensor([50], dtype=torch.int32),
        "prompt_speech_feat": mel,
        "prompt_speech_feat_len": torch.tensor([100], dtype=torch.int32),
        "llm_embedding": embedding,
        "flow_embedding": embedding,
    }


def test_registered_voices_are_listed_and_speak(copy, capsys):
    entry = _registered(copy)
    torch.save({"Anna": entry, "Ben": _registered(copy, "")}, copy / "spk2info.pt")
    assert main(["voices", str(copy.path)]) == 0
    anna, ben = capsys.readouterr().out.splitlines()
    assert anna.split() == ["Anna", "2.0", "s", "the", "clip"] and ben.endswith("(no transcript)")
    assert main(["check", str(copy.path)]) == 0
    assert "2 voices: Anna, Ben" in capsys.readouterr().out
    engine = create("cosyvoice3", {"model_dir": str(copy.path)})
    voice = engine.registered_voices()["Anna"]
    assert np.array_equal(voice.arrays["speech_tokens"], np.arange(50)) and voice.arrays["prompt_mel"].shape == (
        100,
        80,
    )
    assert np.array_equal(voice.arrays["embedding"], entry["flow_embedding"][0])
    (mel,) = engine.load_acoustic_model().generate([(Utterance("Hello.", "en-US", seed=1), voice)])
    assert isinstance(mel, Mel)


def test_a_directory_without_registered_voices_has_none(tiny, capsys):
    assert create("cosyvoice3", {"model_dir": str(tiny.path)}).registered_voices() == {}
    assert main(["voices", str(tiny.path)]) == 0 and "no voice in it" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda entry: {"embedding": entry["flow_embedding"]}, "voice 'Anna' has no flow_prompt_speech_token"),
        (lambda entry: entry | {"flow_embedding": torch.zeros(1, 80)}, "an embedding of 80 numbers"),
        (
            lambda entry: entry | {"prompt_speech_feat": entry["prompt_speech_feat"] * float("nan")},
            "prompt_speech_feat",
        ),
        (lambda entry: entry | {"flow_prompt_speech_token": torch.tensor([[6561]])}, "do not fit this model"),
        (lambda entry: entry | {"prompt_text": torch.tensor([[10**6]])}, "tokens of another model"),
        (lambda entry: 3, "voice 'Anna' has no"),
    ],
)
def test_a_registered_voice_that_does_not_fit_is_named(copy, capsys, change, complaint):
    torch.save({"Anna": change(_registered(copy))}, copy / "spk2info.pt")
    for command in ("check", "voices"):
        assert main([command, str(copy.path)]) == 1
        output = capsys.readouterr()
        assert complaint in output.out + output.err


def test_a_file_of_voices_that_is_damaged_is_named(copy, capsys):
    (copy / "spk2info.pt").write_bytes(b"PK nothing")
    assert main(["check", str(copy.path)]) == 1
    assert "spk2info.pt can't be read" in capsys.readouterr().out
    torch.save([1], copy / "spk2info.pt")
    assert main(["check", str(copy.path)]) == 1
    assert "holds no voices by name" in capsys.readouterr().out


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
        ({"recording_s": 0}, "recording_s is 0; it must be a number of seconds above 0"),
        ({"vocoder_batch": 8}, "unknown key"),
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

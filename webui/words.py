"""Holds every text of the page, in Chinese and in English."""

from __future__ import annotations

from collections.abc import Iterable

from speech.limits import CLIP_FORMATS, CLIP_SECONDS, CLIP_SIZE, MAX_LONG_TEXT, MIN_CLIP_RATE

_SHORTEST, _LONGEST = CLIP_SECONDS
_KHZ = MIN_CLIP_RATE // 1000
#: The endings of `CLIP_FORMATS`, as a file picker takes them.
CLIP_ENDINGS = tuple(f".{name}" for name in CLIP_FORMATS.replace(" or ", ", ").split(", "))

LANGUAGES = {"zh": "中文", "en": "English"}
HTML_LANGUAGE = {"zh": "zh-CN", "en": "en"}

_TEXTS: dict[str, tuple[str, str]] = {
    # name: (Chinese, English)
    "tagline": ("语音克隆，每一步都看得见", "Voice cloning you can see through"),
    "coming": ("页面加载中…", "The page is loading …"),
    "language": ("界面语言", "Language of this page"),
    "engine": ("引擎", "Engine"),
    "api_docs": ("API 文档", "API"),
    "voice": ("2. 音色", "2. Voice"),
    "source": ("音色来源", "Where the voice comes from"),
    "from_clip": ("上传或录音", "Upload or record"),
    "from_store": ("已保存的音色", "Stored voice"),
    "clip": (
        f"参考音频：{_SHORTEST:g} 至 {_LONGEST:g} 秒，{_KHZ} kHz 以上，{CLIP_FORMATS.replace(' or ', ', ')}，"
        f"不超过 {CLIP_SIZE}",
        f"Reference: {_SHORTEST:g} to {_LONGEST:g} s, {_KHZ} kHz or more, {CLIP_FORMATS}, at most {CLIP_SIZE}",
    ),
    "clip_refused": (
        f"这个文件不能用作参考音频。请选择 {CLIP_FORMATS.replace(' or ', ', ')} 文件。",
        f"This file can't be the reference. Choose a file of one of these kinds: {CLIP_FORMATS}.",
    ),
    "stored": ("已保存的音色", "Stored voice"),
    "refresh": ("刷新列表", "Refresh the list"),
    "no_voices": ("还没有保存的音色。", "No voice is stored yet."),
    "keep": ("保存这个音色", "Keep this voice"),
    "keep_name": ("名称", "Name"),
    "keep_consent": (
        "说话人同意了什么（必填，将与时间一起保存）",
        "What the speaker agreed to, in words (required, stored with the time)",
    ),
    "keep_button": ("保存音色", "Store the voice"),
    "kept": ("已保存并选中：{name}", "Stored and chosen: {name}"),
    "read_aloud": ("录音时可以朗读：", "To record, read this aloud:"),
    "clip_facts": ("{seconds} 秒，{khz} kHz", "{seconds} s, {khz} kHz"),
    "preview": ("试听", "Preview"),
    "preview_label": ("音色 {name} 的试听", "Preview of the voice {name}"),
    "voice_of": ("{dialect}；{seconds} 秒的参考音频", "{dialect}; from {seconds} s of reference"),
    "voice_consent": ("{date} 同意：{agreed}", "Consent of {date}: {agreed}"),
    "fit_queued": ("等待拟合", "fit queued"),
    "fit_running": ("拟合中 {step}/{steps}", "fitting {step}/{steps}"),
    "fit_begun": ("拟合中", "fitting"),
    "fit_done": ("已拟合到说话人", "fitted to the speaker"),
    "fit_kept_steered": ("保留引导音色", "kept steered"),
    "fit_failed": ("拟合失败", "fit failed"),
    "fit_why": ("（服务说明：{why}）", ": {why}"),
    "fit_button": ("拟合到说话人", "Fit to the speaker"),
    "fit_again": ("重新拟合到说话人", "Fit to the speaker again"),
    "fit_asked": ("已排队拟合：{name}。拟合期间可以继续使用。", "Its fit is queued: {name}. It can be used meanwhile."),
    "use_own": ("改用这个音色自己的方言：{dialect}", "Use the voice's own dialect: {dialect}"),
    "manage": ("重命名、拟合或删除", "Rename, fit or delete"),
    "new_name": ("新名称", "New name"),
    "rename": ("重命名", "Rename"),
    "renamed": ("已重命名：{name}", "Renamed: {name}"),
    "delete": ("删除", "Delete"),
    "delete_sure": ("确认永久删除 {name}", "Delete {name} for good"),
    "deleted": ("已删除：{name}", "Deleted: {name}"),
    "keep_needs": (
        "请先提供参考音频、方言、名称和同意说明。",
        "This needs the reference, its dialect, a name and what was agreed to.",
    ),
    "prompt_text": ("参考音频里说的话（可选，能提高相似度）", "What is said in the reference (optional)"),
    "what": ("1. 文本", "1. Text"),
    "dialect": ("方言或语言（必选）", "Dialect or language (required)"),
    "choose_dialect": ("请选择…", "Choose…"),
    "group_zh": ("中文与方言", "Chinese and its dialects"),
    "group_other": ("其他语言", "Other languages"),
    "needs_cosyvoice3": ("另有 {count} 种需要 CosyVoice3 引擎", "{count} more need CosyVoice3"),
    "not_spoken": ("当前引擎不会说另外 {count} 种", "{count} more are not spoken by this engine"),
    "examples": ("试一试：", "Try an example:"),
    "text": ("要说的话", "What to say"),
    "text_placeholder": (
        "例如：今天天气很好，我们去海边走走吧。（停顿写作 [pause:0.5s]）",
        "For example: The harbour was quiet that evening. (A pause is written [pause:0.5s].)",
    ),
    "characters": ("字数", "Characters"),
    "long_form": (
        f"长文本：按句拆分，最多 {MAX_LONG_TEXT} 字",
        f"Long text: split by sentence, up to {MAX_LONG_TEXT:,} characters",
    ),
    "help": ("读音标注说明", "Pronunciation"),
    "how": ("3. 说法", "3. Delivery"),
    "mode": ("模式", "Mode"),
    "mode_fast": ("3s极速复刻", "Fast cloning from 3 s"),
    "mode_instruct": ("自然语言控制", "Natural-language control"),
    "preset": ("风格预设", "Style presets"),
    "style": ("风格指令（自由填写）", "Style instruction, in your own words"),
    "style_placeholder": ("例如：请非常开心地说一句话。", "For example: speak slowly and gently"),
    "speed": ("语速", "Speed"),
    "seed": ("随机种子", "Seed"),
    "dice": ("⚄ 随机种子", "⚄ Random seed"),
    "key": (
        "API 密钥（仅在服务要求时填写；只留在本页）",
        "API key (only where the service asks for one; kept in this page alone)",
    ),
    "more": ("更多：参考文本、API 密钥", "More: transcript, API key"),
    "generate": ("生成语音", "Generate"),
    "stop": ("停止", "Stop"),
    "wait_dialect": ("请先选择方言", "First choose a dialect"),
    "wait_clip": ("请先上传或录制参考音频", "First upload or record a reference"),
    "wait_voice": ("请先选择一个已保存的音色", "First choose a stored voice"),
    "wait_text": ("请先填写要说的话", "First write what to say"),
    "wait_style": ("请先填写风格指令", "First say how: choose a style or write one"),
    "working": ("正在生成…", "Working…"),
    "stopped": ("已停止。", "Stopped."),
    "result": ("结果", "Result"),
    "idle": ("生成后，这里会显示进度、音频和每一步的耗时。", "Progress, speech and where the time went appear here."),
    "live": ("边生成边播放", "Play while generating"),
    "live_playing": ("正在播放", "playing"),
    "live_silence": ("停止播放", "Stop playback"),
    "live_gap": ("播放时漏了一段；下面的文件是完整的。", "Playback skipped a part; the file below is complete."),
    "takes": ("生成的音频", "Takes"),
    "take_download": ("下载", "Download"),
    "take_trace": ("链路", "Trace"),
    "take_again": ("换一个种子再来一次", "Again with another seed"),
    "take_reuse": ("恢复这些设置", "Use these settings"),
    "take_compare": ("对比", "Compare"),
    "take_compared": ("对比两段音频", "Two takes side by side"),
    "take_swap": ("在同一位置切换", "Switch at the same place"),
    "take_earlier": ("之前的音频（{count}）", "Earlier takes ({count})"),
    "take_synthetic": ("AI 合成语音", "Synthetic speech"),
    "take_gone": ("这段音频已过期，服务器只保留一小时。", "This take is older than an hour, and no longer here."),
    "dialect_short": ("方言或语言", "Dialect"),
    "voice_short": ("音色", "Voice"),
    "style_short": ("风格", "Style"),
    "state": ("状态", "State"),
    "beginning": ("只有开头", "only the beginning"),
    "seed_of": ("种子 {seed}", "seed {seed}"),
    "speed_of": ("语速 {speed}", "speed {speed}"),
    "from_a_clip": ("上传的音频", "own clip"),
    "state_waiting": ("等待", "waiting"),
    "state_started": ("进行中", "running"),
    "state_done": ("完成", "done"),
    "state_skipped": ("跳过：音色已知", "skipped: this voice is known"),
    "state_failed": ("失败", "failed"),
    "state_stopped": ("已中止", "stopped"),
    "state_not_run": ("未执行", "not run"),
    "stage_PREPROCESS_AUDIO": ("处理参考音频", "Prepare reference"),
    "stage_EXTRACT_SPEAKER": ("提取音色", "Extract voice"),
    "stage_GENERATE_MEL": ("生成声学特征", "Generate speech"),
    "stage_VOCODE_WAV": ("合成波形", "Make waveform"),
    "lanes": ("每段一行，自上而下：{stages}", "A row a piece, from top to bottom: {stages}"),
    "pieces": ("{done} / {all} 段", "{done} of {all} pieces"),
    "piece": ("第 {piece} 段", "piece {piece}"),
    "piece_row": ("第 {piece} 段", "Piece {piece}"),
    "progress": ("各阶段进度", "Progress by stage"),
    "waterfall": ("这次请求的时间去了哪里", "Where this request's time went"),
    "queue": ("排队", "queue"),
    "batch": ("等待计算设备", "waiting for the device"),
    "compute": ("计算", "compute"),
    "other": ("其他（传输、等待上一阶段）", "other (transport, waiting for the stage before)"),
    "first_audio": ("首段音频", "first audio"),
    "seconds": ("音频时长", "Speech"),
    "total": ("总耗时", "Total time"),
    "rtf": ("实时率", "Real-time factor"),
    "rtf_hint": ("耗时 ÷ 音频时长；小于 1 即快于实时", "time ÷ speech; below 1 is faster than real time"),
    "figures": ("以表格显示", "The same as a table"),
    "col_stage": ("阶段", "Stage"),
    "col_start": ("开始", "Start"),
    "col_duration": ("时长", "Duration"),
    "col_size": ("批大小", "Batch size"),
    "ms": ("毫秒", "ms"),
    "s": ("秒", "s"),
    "trace": ("在 Zipkin 中打开这次请求的链路", "Open this request's trace in Zipkin"),
    "no_trace": (
        "这次的链路没有保留（采样）。想保留每一条，请用 --sampling 1 启动，或在 Serve 配置中设置 "
        "tracing.sampling.ratio: 1；出错和慢的请求总会保留。编号：{id}",
        "This trace was not kept: it was not sampled. To keep every one, start with --sampling 1, or set "
        "tracing.sampling.ratio: 1 in the Serve config; failed and slow requests always are. Its id: {id}",
    ),
    "failed": ("生成失败", "Generation failed"),
    "trace_id": ("链路编号", "Trace id"),
}

#: Errors by `error.code`, as the Chinese page says them; the API's own words, with their figures, stand below.
_ERRORS_ZH = {
    "sample_rate_too_low": f"参考音频的采样率太低，至少需要 {_KHZ} kHz。请用更高的采样率重新录制或导出。",
    "clip_too_short": "参考音频太短。请换一段更长的录音。",
    "clip_too_long": "参考音频太长。请只保留最清晰的一段。",
    "clip_empty": "参考音频是空文件。请重新选择。",
    "clip_too_large": f"参考音频超过 {CLIP_SIZE}。{_SHORTEST:g} 至 {_LONGEST:g} 秒的录音就够了。",
    "clip_truncated": "参考音频不完整或已损坏。请重新上传。",
    "clip_takes_too_long": "参考音频解码太慢或占用内存太多。请另存为 16 位 wav 再试。",
    "not_audio": f"无法读取参考音频：文件已损坏，或不是这些格式之一：{CLIP_FORMATS.replace(' or ', ', ')}。",
    "no_sound_track": "这个文件里没有声音。请上传人声录音。",
    "codec_unsupported": "参考音频的编码不受支持。请另存为 wav 再试。",
    "format_out_of_range": "参考音频的声道、音轨或采样率超出范围。请导出为单声道 wav。",
    "not_finite": "参考音频含有无效的采样值。请重新导出为 16 位 wav。",
    "channels_cancel_out": "参考音频的声道互相抵消。请只导出一个声道。",
    "no_speech": "参考音频里的人声太少。请靠近麦克风重新录制。",
    "text_empty": "要说的话是空的。请填写文本。",
    "text_too_long": f"文本太长。请勾选“长文本”（最多 {MAX_LONG_TEXT} 字），或分几次生成。",
    "text_control_character": "文本含有控制字符。请删除后再试。",
    "text_special_token": "文本含有模型的控制标记 <|…|>，不允许使用。请删除。",
    "text_not_in_dialect": "这段文本与所选方言或语言的文字不符。请改选方言，或改写文本。",
    "text_script_unsupported": "文本含有当前引擎读不出的文字。请改写。",
    "text_tag_unsupported": "当前引擎不支持文本里的标签。请删除标签。",
    "text_pronunciation": "文本里的读音标注无法识别。请参阅“读音标注说明”。",
    "text_no_reading": "文本里有当前引擎读不出的字。请改写，或标注读音。",
    "text_not_speakable": "文本里只有标点或符号，没有可以朗读的内容。",
    "text_not_unicode": "文本含有不完整的字符。请重新输入。",
    "text_too_long_spoken": "文本展开成读音后太长。请缩短，或把数字等改写得短一些。",
    "pause_malformed": "文本里的停顿无法识别。请写作 [pause:0.5s] 或 [pause:500ms]。",
    "pause_out_of_range": "停顿的长度须在 0.05 至 10 秒之间。",
    "pauses_too_long": "停顿加起来太长，最多 60 秒。",
    "pauses_too_many": "停顿太多，最多 100 处。",
    "pause_alone": "文本里只有停顿，没有可以朗读的内容。",
    "pause_in_markup": "停顿不能放在 Markdown 不朗读的部分（如链接地址、代码块起始行）。请把它移到该部分前面或后面。",
    "pause_in_tag": "停顿不能放在一对标签中间。请在停顿前关闭标签，之后再打开。",
    "nothing_said": "模型没有为这段文本生成声音。请换一个随机种子，或改写文本。",
    "no_voice": "在参考音频里没有找到人声。请用一个人大声说话、没有音乐的录音。",
    "instruction_unknown": "当前引擎不懂这条风格指令。请用预设，或描述快慢、高低、轻重和情绪。",
    "instruction_contradiction": "风格指令自相矛盾。请只保留其中一个要求。",
    "instruction_dialect": "风格指令不能指定方言或口音。请在“方言或语言”里选择。",
    "instruction_missing": "请填写风格指令，例如“兴奋地说”。",
    "instruction_too_long": "风格指令太长，一句短句就够了。",
    "instruction_special_token": "风格指令含有模型的控制标记 <|…|>，不允许使用。请删除。",
    "instruction_control_character": "风格指令含有控制字符。请删除后再试。",
    "transcript_control_character": "参考文本含有控制字符。请删除后再试。",
    "transcript_special_token": "参考文本含有模型的控制标记 <|…|>，不允许使用。请删除。",
    "transcript_too_long": "参考文本太长。它应当只是参考音频里说的话。",
    "speed_out_of_range": "语速超出范围。1 是自然语速。",
    "seed_out_of_range": "随机种子超出范围。",
    "dialect_missing": "请选择方言或语言。",
    "dialect_unknown": "这里没有这种方言或语言。请另选。",
    "unsupported_dialect": "当前引擎不会说这种方言或语言。请另选。",
    "voice_unknown": "没有这个音色，它可能已被删除。请刷新列表。",
    "voices_off": "这个服务没有开启音色保存。请直接使用参考音频。",
    "voice_exists": "这段录音已经以另一个名称保存。请在“已保存的音色”里选择它，也可以重命名或删除它。",
    "voice_differs": "这段录音已经以另一种方言保存。要更改，请先删除那个音色。",
    "voice_not_yours": "这个音色由另一个密钥保存。请用那个密钥更改或删除，或联系管理员。",
    "voice_damaged": "这个音色的参考音频已丢失或损坏。请删除后重新保存。",
    "voice_store_failed": "音色库暂时无法访问。请稍后再试。",
    "voice_store_busy": "此刻保存或删除音色的人太多。请稍后再试。",
    "voice_store_slow": "保存音色花了太长时间。请再试一次。",
    "voice_files_left": "音色已删除；它的文件稍后会自动清除。",
    "name_missing": "请填写音色名称。",
    "name_too_long": "音色名称太长。",
    "name_character": "音色名称只能包含文字、数字、“-”、“_”和“.”，不能有空格。",
    "name_start": "音色名称必须以文字、数字、“-”或“_”开头。",
    "name_like_an_id": "音色名称不能以“voice_”开头。",
    "consent_missing": "请填写说话人同意了什么。",
    "consent_too_long": "同意说明太长，请写摘要。",
    "consent_control_character": "同意说明含有控制字符。请删除后再试。",
    "role_missing": "这个密钥没有所需的权限。请联系服务的管理员。",
    "voice_name_taken": "这个音色名称已被使用。请换一个名称。",
    "voices_full": "音色数量已达上限。请先删除不用的音色。",
    "queue_full": "服务繁忙，请稍后再试。",
    "queue_timeout": "服务繁忙，请稍后再试。",
    "too_many_requests": "请求过于频繁，请稍后再试。",
    "too_many_at_once": "同时进行的请求太多。请等一个结束后再试。",
    "draining": "服务正在重启，请稍后再试。",
    "stage_unavailable": "生成语音的一个服务暂时不可用。请稍后再试。",
    "deadline_exceeded": "没有在规定时间内完成。请缩短文本，或稍后再试。",
    "internal": "服务内部出错，原因在链路里。请再试一次；如果仍然出错，请把链路编号告诉管理员。",
    "voice_store_unavailable": "音色库暂时无法访问。请稍后再试。",
    "model_not_finite": "模型的输出无效。请联系服务的管理员。",
    "upload_too_slow": "上传太慢，连接已中断。请重试，或换一个小一些的文件。",
    "event_malformed": "服务的应答无法识别，它的版本不同。请刷新页面。",
    "no_events": "这个地址上的服务不是 Cosygraph，或版本太旧。",
    "not_json": "这个地址上的服务不是 Cosygraph。",
    "timeout": "服务没有及时响应，可能负载过高。请稍后再试。",
    "unreachable": "连接不上服务。用 `make up` 启动，用 `make status` 查看状态。",
    "connection_broke": "与服务的连接中断了。请重试。",
    "broken_off": "音频没有生成完就中断了。请重试。",
}
#: Errors that the page words itself in both languages: the API explains how a program sends a key.
_KEY_ERRORS = {
    "error_key_missing": (
        "这个服务需要 API 密钥。请填在“API 密钥”栏里；密钥由服务的管理员发放。",
        "This service asks for an API key. Fill in the field 'API key'; the service's operator gives out keys.",
    ),
    "error_key_unknown": (
        "这个 API 密钥无效。请检查是否复制完整。",
        "This API key is not known here, or no longer. Check that it was copied whole.",
    ),
    "error_key_expired": (
        "这个 API 密钥已过期。请向服务的管理员索取新的密钥。",
        "This API key has expired. Ask the service's operator for a new one.",
    ),
    "error_key_malformed": (
        "API 密钥含有不该有的字符。请重新复制。",
        "The API key holds characters that no key has; copy it again.",
    ),
}

TEXTS: dict[str, dict[str, str]] = {
    language: {name: texts[index] for name, texts in (_TEXTS | _KEY_ERRORS).items()}
    for index, language in enumerate(LANGUAGES)
}
TEXTS["zh"] |= {f"error_{code}": text for code, text in _ERRORS_ZH.items()}
#: The engines' notices, as the Chinese page says them; the English page has the API's own words.
TEXTS["zh"] |= {
    "notice_embedded": "这个引擎用现成的音色去接近参考音频（音色、音高），并非真正的克隆：听起来像，但不能当作本人。",
    "notice_cosyvoice3": "克隆参考音频里的声音。只使用本人同意的录音。",
    "notice_simulated": "模拟引擎：按设定的时间等待，用一个音调代替语音。",
}

HELP = {
    "zh": """\
在字后用方括号写拼音的**声母**和**带调韵母**，或在英文单词后写 CMU 音素（数字为重音）：

| 写法 | 读作 |
|---|---|
| `他的爱好[h][ào]很多。` | 好 读 hào |
| `[ài]`，`[m][a]` | 没有声母；轻声不标调 |
| `I read[R][EH1][D] it yesterday.` | read 读作 /rɛd/ |

- **embedded 引擎**：也可以写整个音节 `[hào]`、`[hao4]`；字的读音里有这个音节时，标注代替它的读音，否则单独读出来
  （`报道[j][ǐ]予好评`）。`[laughter]`、`<strong>` 这类标签它不会念，会说明原因并拒绝。
- **cosyvoice3 引擎**：声母和韵母分开写；另外支持 `[breath]`、`[laughter]`、`[sigh]`、`<strong>…</strong>` 和
  `<laughter>…</laughter>`。
""",
    "en": """\
Behind a Chinese character, write a pinyin **initial** and a **toned final** in brackets; behind an English word, CMU
phones with their stress:

| write | read as |
|---|---|
| `他的爱好[h][ào]很多。` | 好 as hào |
| `[ài]`, `[m][a]` | no initial; no mark is the light tone |
| `I read[R][EH1][D] it yesterday.` | read as /rɛd/ |

- **engine embedded**: whole syllables are the same, `[hào]`, `[hao4]`. Where the character has that syllable among its
  readings they replace its reading, else they are spoken by themselves (`报道[j][ǐ]予好评`). Tags such as `[laughter]`
  or `<strong>` it can't perform, and says so.
- **engine cosyvoice3**: initial and final in brackets of their own; beside them `[breath]`, `[laughter]`, `[sigh]`,
  `<strong>…</strong>` and `<laughter>…</laughter>`.
""",
}

#: (words on the button, instruction), by language of the page. The embedded engine understands all of them. CosyVoice3
#: replaces an English adverb by the sentence that it was trained on, where there is one.
PRESETS: dict[str, tuple[tuple[str, str], ...]] = {
    "zh": (
        ("开心", "请非常开心地说一句话。"),
        ("伤心", "请非常伤心地说一句话。"),
        ("生气", "请非常生气地说一句话。"),
        ("快", "请用尽可能快地语速说一句话。"),
        ("慢", "请用尽可能慢地语速说一句话。"),
        ("大声", "Please say a sentence as loudly as possible."),
        ("轻柔", "Please say a sentence in a very soft voice."),
        ("平静", "请平静地说一句话。"),
        ("温柔", "请温柔地说一句话。"),
    ),
    "en": (
        ("happy", "happily"),
        ("sad", "sadly"),
        ("angry", "angrily"),
        ("fast", "quickly"),
        ("slow", "slowly"),
        ("loud", "loudly"),
        ("soft", "softly"),
        ("calm", "Please say it calmly."),
        ("gentle", "Please say it gently."),
    ),
}


#: Names of controls that Gradio has in English alone: a pattern, and what the page says in its place.
GRADIOS_LABELS: dict[str, list[tuple[str, str]]] = {
    "zh": [
        ("^number input for (.*)$", "$1：数值"),
        ("^range slider for (.*)$", "$1：滑块"),
        ("^Reset to default value$", "恢复默认值"),
    ],
    "en": [],
}


def language_of(accept: str | None, languages: Iterable[str] = LANGUAGES) -> str:
    """Return the page's language for an Accept-Language header; English where it asks for neither."""
    asked = []
    for position, part in enumerate((accept or "").split(",")):
        name, _, parameters = part.strip().partition(";")
        try:
            quality = float(parameters.strip().removeprefix("q=") or 1)
        except ValueError:
            quality = 0.0
        asked.append((-quality, position, name.split("-")[0].lower()))
    return next((name for quality, _, name in sorted(asked) if quality < 0 and name in languages), "en")

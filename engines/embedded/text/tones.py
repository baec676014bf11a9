"""Tone sandhi is the change of Mandarin tones next to each other. This module applies it to one clause, in place.

The rules are those of every textbook (Chao 1968; Duanmu, The Phonology of Standard Chinese, ch. 11):
一 and 不 by the tone that follows, light tones of certain words, and a third tone before another third tone becomes
a second, first inside words, then between them from right to left. A reading that the user gave is never changed,
but its neighbours are adapted to it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Syllable:
    character: str  #: simplified
    reading: str  #: pinyin with tone number: `hao3`
    fixed: bool = False  #: given by the user

    @property
    def tone(self) -> str:
        return self.reading[-1]

    def set_tone(self, tone: str) -> None:
        if not self.fixed:
            self.reading = self.reading[:-1] + tone


Word = list[Syllable]

_DIGITS = frozenset("零〇一二两三四五六七八九十百千万亿点幺几")
_ORDINAL_NOUNS = frozenset("月号楼班级年")
_GOING = frozenset("走跑飞开跳爬游穿跟冲赶晕昏送递")
_DOUBLED = frozenset("妈爸爷奶哥姐弟妹叔舅姑婆公伯宝娃太星猩")
_LIGHT = frozenset(
    """
爱人 巴掌 棒槌 包袱 包涵 本事 比方 扁担 别扭 玻璃 簸箕 补丁 部分 裁缝 财主 苍蝇 差事 柴火 称呼 锄头 畜生 窗户 刺猬
凑合 耷拉 答应 打扮 打点 打发 打量 打算 打听 大方 大爷 大夫 耽搁 耽误 道士 灯笼 提防 地道 地方 弟兄 点心 东家 东西
动静 动弹 豆腐 嘟囔 对付 队伍 多么 耳朵 风筝 福气 甘蔗 干事 高粱 膏药 告诉 疙瘩 胳膊 工夫 功夫 姑娘 故事 寡妇 怪物
关系 官司 罐头 规矩 闺女 哈欠 蛤蟆 含糊 行当 合同 和尚 核桃 红火 厚道 狐狸 胡琴 糊涂 护士 皇上 活泼 火候 伙计 机灵
脊梁 记号 记性 家伙 架势 嫁妆 见识 将就 交情 叫唤 结实 街坊 姐夫 戒指 精神 咳嗽 客气 口袋 窟窿 快活 阔气 喇叭 喇嘛
懒得 老婆 老实 老爷 累赘 篱笆 里头 力气 厉害 利落 利索 痢疾 连累 凉快 粮食 铃铛 溜达 萝卜 骆驼 麻烦 麻利 马虎 码头
买卖 馒头 忙活 冒失 眉毛 媒人 门道 眯缝 迷糊 苗条 苗头 名堂 名字 明白 蘑菇 模糊 木匠 木头 那么 难为 脑袋 能耐 念叨
念头 娘家 奴才 女婿 暖和 疟疾 牌楼 盘算 朋友 脾气 屁股 便宜 漂亮 婆家 铺盖 欺负 前头 亲戚 勤快 清楚 亲家 拳头 热闹
人家 认识 扫帚 商量 上司 上头 烧饼 少爷 什么 生意 牲口 师父 师傅 石匠 石榴 石头 时候 实在 拾掇 使唤 世故 似的 事情
收成 收拾 首饰 舒服 舒坦 疏忽 爽快 思量 算计 岁数 他们 踏实 唾沫 太阳 特务 跳蚤 铁匠 头发 妥当 外甥 晚上 尾巴 委屈
位置 温和 稳当 窝囊 喜欢 稀罕 媳妇 下巴 吓唬 先生 乡下 相声 消息 小气 笑话 谢谢 心思 星星 行李 兄弟 休息 秀才 秀气
学问 丫头 衙门 哑巴 胭脂 烟筒 眼睛 秧歌 养活 吆喝 妖精 钥匙 椰子 爷爷 意思 应酬 冤枉 月饼 月亮 云彩 运气 在乎 早上
怎么 扎实 眨巴 栅栏 张罗 丈夫 丈人 帐篷 招呼 招牌 折腾 这个 这么 枕头 芝麻 知识 指甲 指头 主意 转悠 庄稼 壮实 状元
字号 自在 祖宗 嘴巴 作坊 琢磨 葡萄 枇杷 琵琶 玫瑰 衣服 衣裳 舌头 骨头 后头 跟头 甜头 东边 西边 南边 北边 这边 那边
里边 外边 上边 下边 前边 后边 里面 外面 上面 下面 前面 后面 妈妈 爸爸 知道 桌上 地上 身上 手上 路上 家里 心里 手里
屋里 出来 进来 回来 过来 起来 下来 上来 出去 进去 回去 过去 上去 下去
""".split()
)


def apply_sandhi(clause: list[Word]) -> None:
    """Change the readings of a clause's words to those they have when said together."""
    for index, word in enumerate(clause):
        if not _is_the_past(clause, index):
            _lighten(word)
    flat = [syllable for word in clause for syllable in word]
    for before, syllable in zip(flat, flat[1:], strict=False):
        if syllable.character == "个" and (before.character in _DIGITS or before.character in "这那哪半每整"):
            syllable.set_tone("5")
    _number_one(clause, flat)
    _not(clause, flat)
    for word in clause:
        _third_tones(word)
    for index in range(len(flat) - 2, -1, -1):
        if flat[index].tone == "3" and flat[index + 1].tone == "3":
            flat[index].set_tone("2")


def _is_the_past(clause: list[Word], index: int) -> bool:
    """Tell 过去, the past, from 过去, to go by: the first has no light syllable (过去的故事, 在过去, but 走过去)."""
    if _text(clause[index]) != "过去":
        return False
    before = _text(clause[index - 1])[-1:] if index else ""
    after = _text(clause[index + 1])[:1] if index + 1 < len(clause) else ""
    return not before or before in "在从和与比忘记忆顾对于别念的" or (after == "的" and before not in _GOING)


def _text(word: Word) -> str:
    return "".join(syllable.character for syllable in word)


def _lighten(word: Word) -> None:
    text = _text(word)
    if text in _LIGHT or (len(word) > 2 and text[-2:] in _LIGHT):
        word[-1].set_tone("5")
    if len(word) == 2 and text[0] == text[1] and text[0] in _DOUBLED:
        word[1].set_tone("5")


def _number_one(clause: list[Word], flat: list[Syllable]) -> None:
    """Set the tone of 一: first alone, in numbers and as an ordinal; second before a fourth tone, else fourth."""
    ends = {id(word[-1]) for word in clause if len(word) > 1}
    for index, syllable in enumerate(flat):
        if syllable.character != "一" or syllable.fixed:
            continue
        previous = flat[index - 1].character if index else ""
        following = flat[index + 1] if index + 1 < len(flat) else None
        if following is None or id(syllable) in ends or previous == "第" or previous in _DIGITS:
            syllable.set_tone("1")
        elif previous and previous == following.character:
            syllable.set_tone("5")
        elif following.character in "零〇一二三四五六七八九十点幺" or following.character in _ORDINAL_NOUNS - {"年"}:
            syllable.set_tone("1")
        elif following.tone == "4" or following.character == "个":
            syllable.set_tone("2")
        else:
            syllable.set_tone("4")


def _not(clause: list[Word], flat: list[Syllable]) -> None:
    """Set the tone of 不: second before a fourth, light inside a complement or a repeated verb (看不懂, 好不好)."""
    middles = {id(word[1]) for word in clause if len(word) == 3}
    for index, syllable in enumerate(flat):
        if syllable.character != "不":
            continue
        previous = flat[index - 1].character if index else ""
        following = flat[index + 1] if index + 1 < len(flat) else None
        if id(syllable) in middles or (following and previous == following.character):
            syllable.set_tone("5")
        elif following and following.tone == "4":
            syllable.set_tone("2")


def _third_tones(word: Word) -> None:
    """Change third tones inside a word, from its smallest parts: 展览+馆 becomes 2-2-3, 纸+老虎 3-2-3."""
    if len(word) == 3 and all(syllable.tone == "3" for syllable in word):
        if not _begins_with_modifier(word):
            word[0].set_tone("2")
        word[1].set_tone("2")
        return
    for index in range(len(word) - 2, -1, -1):
        if word[index].tone == "3" and word[index + 1].tone == "3":
            word[index].set_tone("2")


def _begins_with_modifier(word: Word) -> bool:
    return word[0].character in "小老纸很好也买有我你想请"

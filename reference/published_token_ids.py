"""Ids that were measured of GPT-1's tokenizers on the released vocabulary, string by string.

Data alone. `huggingface` is Hugging Face's tokenizer of today, `original` the release's own code
with today's spaCy and ftfy; None where it was not measured.

Sources: where both are given, transformers 5.23.0's `OpenAIGPTTokenizer`, and text_utils.py of
openai/finetune-transformer-lm@a69b5c4 run with spaCy 3.8.18's `English()` and ftfy 6.3.1.
`huggingface` alone: guillaume-be/rust-tokenizers' tests/test_openai_gpt_uncased.rs,
transformers' tests/models/openai/test_tokenization_openai.py, and flair's test of its embeddings.
"""

from typing import NamedTuple


class PublishedIds(NamedTuple):
    """One string.

    Attributes:
        text: The string.
        huggingface: Its ids as Hugging Face's tokenizer gives them.
        original: Its ids as the release's code gives them.
    """

    text: str
    huggingface: list[int] | None
    original: list[int] | None


PUBLISHED: tuple[PublishedIds, ...] = (
    PublishedIds("I don't know.", [249, 2310, 256, 241, 699, 239], [249, 587, 538, 699, 239]),
    PublishedIds(
        "I can't, won't and shouldn't.",
        [249, 759, 256, 241, 240, 5011, 256, 241, 488, 1195, 10, 247, 256, 241, 239],
        [249, 993, 538, 240, 1497, 538, 488, 994, 538, 239],
    ),
    PublishedIds("it's John's", [507, 256, 252, 2476, 256, 252], [507, 535, 2476, 535]),
    PublishedIds(
        "I'm sure he's gone; they've left.",
        [249, 256, 258, 881, 487, 256, 252, 1374, 270, 600, 256, 527, 999, 239],
        [249, 719, 881, 487, 535, 1374, 270, 600, 880, 999, 239],
    ),
    PublishedIds("wait...", [1637, 239, 239, 239], [1637, 749]),
    PublishedIds("wait…", [1637, 0], [1637, 749]),
    PublishedIds("…", [0], [749]),
    PublishedIds("a—b", [246, 0, 259], [246, 260, 259]),
    PublishedIds("“quoted” ‘single’", [0, 22315, 0, 0, 2433, 0], [244, 22315, 244, 256, 2433, 256]),  # noqa: RUF001
    PublishedIds("don’t", [2310, 0, 241], [587, 538]),
    PublishedIds("café", [10717], [13550]),
    PublishedIds("naïve", [13391], [24213]),
    PublishedIds("über", [16, 3065], [90, 3065]),
    PublishedIds("a\nb", [246, 259], [246, 40477, 259]),
    PublishedIds("a\n\nb", [246, 259], [246, 40477, 259]),
    PublishedIds("Mr.", [4360, 239], [1682]),
    PublishedIds("U.S.A.", [254, 239, 252, 239, 246, 239], [25896, 14, 10311]),
    PublishedIds("e.g. this", [243, 239, 268, 239, 616], [23612, 20572, 616]),
    PublishedIds("$5.00", [289, 284, 239, 3597], [289, 46, 25088]),
    PublishedIds("3.14", [281, 239, 7765], [19243, 7765]),
    PublishedIds("10am", [8582, 1048], [5895, 1048]),
    PublishedIds("5km", [46, 35677], [284, 35677]),
    PublishedIds("gonna", [10881, 1599], [2113, 1599]),
    PublishedIds("cannot", [2274, 595], [759, 595]),
    PublishedIds("--", [260, 260], [2383]),
    PublishedIds("...", [239, 239, 239], [749]),
    PublishedIds("´", [0], [256]),  # noqa: RUF001
    PublishedIds("o'clock", [245, 256, 3275], [5403]),
    PublishedIds("'cause", [256, 883], [9038]),
    PublishedIds("ma'am", [1658, 256, 1048], [6550]),
    PublishedIds("p.m.", [262, 239, 258, 239], [9513]),
    PublishedIds("co.", [3833, 239], [588, 239]),
    PublishedIds("A.B.", [246, 239, 259, 239], [12572, 11512]),
    PublishedIds("ain't", [7255, 256, 241], [3555, 538]),
    PublishedIds("let's", [851, 256, 252], [851, 535]),
    PublishedIds("rock'n'roll", [2594, 256, 247, 256, 3612], [9828, 18, 22591, 3612]),
    PublishedIds("&amp; x", [296, 23297, 270, 272], [296, 272]),
    PublishedIds("ﬁ", [0], [13417]),
    PublishedIds("No.1", [664, 239, 277], [516, 1, 277]),
    PublishedIds("@user", [305, 19524], [67, 19524]),
    PublishedIds("<3", [295, 281], [57, 281]),
    PublishedIds(
        "http://a.com", [12739, 271, 278, 278, 246, 239, 5259], [12739, 271, 11240, 8, 7481]
    ),
    PublishedIds("me@x.org", [510, 305, 272, 239, 31963], [744, 67, 34, 1, 31963]),
    PublishedIds("한국", [0, 0, 0, 0, 0, 0], [0, 0]),
    PublishedIds("İ", [249], [11, 0]),
    PublishedIds("<unk>", [0], [295, 2530, 290]),
    PublishedIds("\u200b", [], [410]),
    PublishedIds("a\u00adb", [17444], [8, 138, 259]),
    PublishedIds(
        "Hello, I'm a language model,",
        [3570, 240, 249, 256, 258, 246, 4636, 7129, 240],
        [3570, 240, 249, 719, 246, 4636, 7129, 240],
    ),
    PublishedIds("a\\b", None, [8, 127, 259]),
    PublishedIds("and\\or", None, [1086, 127, 522]),
    PublishedIds('\\"quoted\\"', None, [365, 244, 7873, 39446, 365, 244]),
    PublishedIds("…", [0], None),
    PublishedIds(
        "This is a sample sentence to be tokénized",
        [616, 544, 246, 12273, 5958, 485, 580, 571, 2987, 4780],
        None,
    ),
    PublishedIds(
        "Wondering how this will get tokenized 🤔 ?",
        [3039, 718, 616, 812, 727, 571, 2987, 4780, 0, 257],
        None,
    ),
    PublishedIds(
        "İs th!s 𩸽 Ϻ Šœ Ugljšić dấu nặng",  # noqa: RUF001
        [544, 663, 267, 252, 0, 0, 14, 411, 16, 2041, 28, 2519, 643, 254, 10591, 268],
        None,
    ),
    PublishedIds(
        "İs th!s   𩸽 <unk> Ϻ Šœ  Uglj<unk>šić   dấu nặng",  # noqa: RUF001
        [544, 663, 267, 252, 0, 0, 0, 14, 411, 16, 2041, 266, 0, 2519, 643, 254, 10591, 268],
        None,
    ),
    PublishedIds(
        "This is a test 😊\nI was born in 92000, and this is falsé.\n生活的真谛是\nHi  Hello\n"
        "Hi   Hello\n\n \n  \n Hello\n<s>\nhi<s>there\nThe following string should be "
        "properly encoded: Hello.\nBut ird and ปี   ird   ด\nHey how are you doing",
        [
            616,
            544,
            246,
            2345,
            0,
            249,
            509,
            3105,
            500,
            53,
            28654,
            240,
            488,
            616,
            544,
            6843,
            239,
            0,
            0,
            0,
            0,
            0,
            0,
            3569,
            3570,
            3569,
            3570,
            3570,
            295,
            252,
            290,
            3569,
            295,
            252,
            290,
            655,
            481,
            2890,
            6422,
            994,
            580,
            6506,
            496,
            20925,
            271,
            3570,
            239,
            568,
            13926,
            488,
            0,
            13926,
            0,
            2229,
            718,
            640,
            512,
            1273,
        ],
        None,
    ),
    PublishedIds(
        "Berlin and Munich have a lot of puppeteer to see .",
        [21059, 488, 33400, 604, 246, 1322, 498, 10148, 39041, 483, 485, 788, 239],
        None,
    ),
)

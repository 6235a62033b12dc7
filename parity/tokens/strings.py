"""Strings picked by hand: what tokenizers are known to part over. Data alone."""

from reference.published_token_ids import PUBLISHED

HARD: tuple[str, ...] = (
    # nothing, and what vanishes
    *("", " ", "\n", "\n\n\n", "\t \r\n", "\x00", "\ufeff", "\u200b", "\u00ad", "\ufffd"),
    *("a\x00b", "a\ufeffb", "a\u200bb", "a\u200db", "a\u00adb", "a\ufffdb", "a\x07b", "a\x7fb"),
    # line ends, spaces of every kind, what a terminal would obey
    *("a\r\nb", "a\rb", "a\n\rb", "a\tb", "a\x0bb", "a\x0cb", "a\x85b", "a\u2028b", "a\u2029b"),
    *("a\u00a0b", "a\u2003b", "a\u3000b", "a\u180eb", "a\u205fb", "\x1b[31mred\x1b[0m", "\x9b0m"),
    # cases, and letters whose case is two letters or depends on its place
    *(
        "HELLO World",
        "İstanbul",
        "I\u0307",
        "\u0131",
        "STRASSE Straße ẞ",
        "ǅ Ǆ",
        "ΟΔΟΣ ΟΔΌΣ.",
        "ﬁ ﬃ",
    ),
    # accents, in one character and in several, in several orders
    *("café", "cafe\u0301", "Ugljšić", "dấu nặng", "a\u0323\u0307", "a\u0307\u0323", "\u0301"),
    *("\u1e69", "s\u0323\u0307", "\u212b", "q\u0307\u0323", "é" * 40, "e" + "\u0301" * 40),
    # scripts
    *(
        "生活的真谛是",
        "a中b",
        "中文English混合",
        "\U00020000",
        "a\U0002a6d6b",
        "\uf900",
        "\u3007",
        "ひらがな",
    ),
    *(
        "カタカナ",
        "한국어",
        "\u1112\u1161\u11ab",
        "שלום עולם",
        "مرحبا بالعالم",
        "हिन्दी",
        "ปี ภาษาไทย",
    ),
    *("Привет, мир", "Ёлка Йод", "\u202eabc\u202c", "\u0645\u064f", "\u05d0\u05b7"),
    # pictures: alone, joined, coloured, of flags
    *("🤔", "👩\u200d👩\u200d👧", "👍🏽", "🇩🇪", "❤\ufe0f", "a🤔b", "\U000e0067"),
    # the special token, and what looks like one
    *("<unk>", "a<unk>b", "<unk><unk>", "< unk >", "<UNK>", "<unk", "unk>", "<<unk>>"),
    *("</w>", "a</w>", "the</w> end", "<s>", "<pad>", "#version: 0.2", "\\n</w>", "\n</w>"),
    # marks: runs, both kinds of quotes, in numbers, in addresses
    *(
        "!!!",
        "?!?!",
        "...",
        "....",
        "----",
        "a--b",
        "``a''",
        "«a»",
        "$5.00",
        "1,000.5",
        "3/4",
        "5%",
    ),
    *(
        "a_b__c",
        "C:\\dir\\file",
        "me@x.org",
        "http://a.com/b?c=d&e=f#g",
        "#tag",
        "~/x",
        "(a)[b]{c}",
    ),
    # words as they come
    *("don't can't I'm he's they've we'll I'd o'clock", "rock'n'roll", "gonna wanna", "x" * 300),
    *("supercalifragilisticexpialidocious", "the " * 50, "ab" * 100, "0123456789" * 5, "e.g. i.e."),
)
"""Of the gauntlet's section F, and more of the like."""

HAND_PICKED: tuple[str, ...] = tuple(dict.fromkeys([*HARD, *(row.text for row in PUBLISHED)]))
"""Those, and every string whose ids were published."""

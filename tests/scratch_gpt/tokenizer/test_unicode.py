"""Character classes and decomposition: the same as the Rust tokenizer's for every character."""

import ast
import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from scratch_gpt import Tokenizer, tokenizer
from scratch_gpt.tokenizer import unicode
from scratch_gpt.tokenizer.bpe import END
from scratch_gpt.tokenizer.pretokenizers import UNKNOWN
from scratch_gpt.tokenizer.unicode import (
    CharacterClasses,
    Ranges,
    character_classes,
    decompose,
    is_order_free,
)
from scratch_gpt.tokenizer.vocabulary import Vocabulary

FOLDER = Path(tokenizer.__path__[0])
TABLE = FOLDER / "character_classes.txt"

Answers = tuple[str, str, str, str, str, bool, bool]

pytestmark = pytest.mark.usefixtures("unchecked")


def edges(rust: ModuleType) -> list[str]:
    """Return the first and last character of every item of the table, and their neighbors."""
    rows = TABLE.read_text(encoding="ascii").splitlines()
    items = " ".join(row for row in rows if row and row[0] not in "#[").split()
    runs = [item.partition("=")[0].split("..") for item in items]
    codes = {int(end, 16) + by for run in runs for end in run for by in (-1, 0, 1)}
    return [chr(code) for code in sorted(codes & set(rust.SCALARS))]


def theirs(characters: list[str], rust: ModuleType) -> dict[str, Answers]:
    names = ("clean_text", "handle_chinese_chars", "nfd", "strip_accents", "lowercase")
    steps = [rust.step(name) for name in names]
    of_words = rust.word_characters(characters)
    return {
        c: (
            *(step(f"a{c}b")[1:-1] for step in steps),
            rust.words(f"a{c}b") == ["a", c, "b"],
            c in of_words,
        )
        for c in characters
    }


def ours(characters: list[str], classes: CharacterClasses) -> dict[str, Answers]:
    return {character: answers(character, classes) for character in characters}


def answers(character: str, classes: CharacterClasses) -> Answers:
    code = ord(character)
    parts, _ = decompose(character, [0])
    clean = " " if code in classes.white else character
    return (
        "" if code in classes.removed else clean,
        f" {character} " if code in classes.ideographs else character,
        parts,
        "".join(part for part in parts if ord(part) not in classes.nonspacing),
        classes.lowercase.get(code, character),
        code in classes.punctuation,
        code in classes.word,
    )


@pytest.mark.reference
def test_the_edge_of_every_item_is_where_it_is(rust: ModuleType) -> None:
    characters = edges(rust)
    assert len(characters) > 5_000
    assert theirs(characters, rust) == ours(characters, character_classes())


SETS = [f.name for f in dataclasses.fields(CharacterClasses) if f.type is Ranges]


@pytest.mark.reference
@pytest.mark.parametrize("name", SETS)
def test_a_shifted_edge_is_found(name: str, rust: ModuleType) -> None:
    classes = character_classes()
    right = getattr(classes, name)
    longer = Ranges([(first, last + 1) for first, last in right.runs()])
    wrong = dataclasses.replace(classes, **{name: longer})
    characters = [chr(last + 1) for _, last in right.runs() if last + 1 in rust.SCALARS]
    assert theirs(characters, rust) == ours(characters, classes)
    assert theirs(characters, rust) != ours(characters, wrong)


@pytest.mark.reference
def test_pythons_tables_differ(rust: ModuleType) -> None:
    """The comparison would find `str.lower` and `unicodedata`: they differ at an edge."""
    import unicodedata

    expected = theirs(edges(rust), rust).items()
    lower = [c for c, (*_, made, _, _) in expected if made != c.lower()]
    accent = [c for c, row in expected if (row[3] == "") != (unicodedata.category(c) == "Mn")]
    assert lower
    assert len(accent) > 40


PYTHONS_TABLES = {
    *("unicodedata", "lower", "upper", "casefold", "isspace", "isalpha", "isalnum", "isdigit"),
    *("isprintable", "isnumeric", "isdecimal", "strip", "title", "normalize", "category"),
}


def python_tables_in(source: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(source)))
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    imported = {
        alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
    }
    return (attributes | imported) & PYTHONS_TABLES


@pytest.mark.parametrize("name", ["pretokenizers", "unicode", "bpe", "tokenizer"])
def test_no_table_of_python_is_used(name: str) -> None:
    """So the ids are the same on every version of it."""
    assert not python_tables_in((FOLDER / f"{name}.py").read_text(encoding="utf-8"))


def test_a_use_of_pythons_tables_is_found() -> None:
    assert python_tables_in("import unicodedata\nx = text.lower()") == {"unicodedata", "lower"}


@pytest.mark.reference
@pytest.mark.slow
def test_the_table_is_what_the_script_makes(rust: ModuleType) -> None:
    """Only the heading differs: it names the version."""
    expected = rust.text().split("\n[", 1)[1]
    assert expected == TABLE.read_text(encoding="ascii").split("\n[", 1)[1]


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.timeout(900)  # half a minute of work, which a busy machine draws out
def test_every_scalar_value(tmp_path: Path, huggingface: Callable, rust: ModuleType) -> None:
    """With a vocabulary in which every character has two ids."""
    swept, size = 0, 1 << 15
    for number in range(0, len(rust.SCALARS), size):
        text = " ".join(f"a{chr(code)}b" for code in rust.SCALARS[number : number + size])
        words = rust.words(rust.step("bert")(text))
        alphabet = sorted({character for word in words for character in word})
        tokens = (UNKNOWN, *alphabet, *(character + END for character in alphabet))
        tokenizer = Tokenizer(Vocabulary(tokens, ()))
        assert words == tokenizer._split.words(text)
        tokenizer.save_pretrained(tmp_path / str(number))
        (expected,) = huggingface(tmp_path / str(number)).encode_batch([text])
        ids = tokenizer.encode(text)
        assert 0 not in ids
        assert list(expected.ids) == ids
        swept += text.count(" ") + 1
    assert swept >= len(rust.SCALARS)


def nfd(text: str) -> str:
    return decompose(text, range(len(text)))[0]


def runs_of_marks(count: int) -> list[str]:
    """Return letters followed by marks of all classes, in every disorder."""
    source = random.Random(11)  # noqa: S311 - a test repeats itself
    classes = character_classes()
    marks = [*map(chr, classes.combining), *("\u0344", "\U0001d15e", "\U0001d160", "é", "ṩ") * 9]
    letters = ["a", "각", "\u1100", "\u0e01", ""]
    return [
        source.choice(letters) + "".join(source.choices(marks, k=source.randint(1, 7)))
        for _ in range(count)
    ]


@pytest.mark.reference
def test_every_hangul_syllable(rust: ModuleType) -> None:
    text = " ".join(chr(code) for code in range(0xABFF, 0xD7A5))
    assert rust.step("nfd")(text) == nfd(text)


@pytest.mark.reference
def test_marks_are_sorted_by_class(rust: ModuleType) -> None:
    texts = runs_of_marks(3_000)
    assert [rust.step("nfd")(text) for text in texts] == [nfd(text) for text in texts]


@pytest.mark.reference
def test_unsorted_marks_are_found(rust: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = runs_of_marks(300)
    monkeypatch.setattr(unicode, "_ordered", lambda parts: parts)
    assert sum(rust.step("nfd")(text) != nfd(text) for text in texts) > 100


def test_the_place_of_a_mark_is_the_next_one() -> None:
    """Positions do not move with reordered characters; an added character shares its origin's."""
    assert decompose("é", [4]) == ("e\u0301", [4, 4])
    assert decompose("a\u0301\u0323", [3, 4, 9]) == ("a\u0323\u0301", [3, 4, 9])
    assert decompose("각b", [0, 1]) == ("\u1100\u1161\u11a8b", [0, 0, 0, 1])


def test_text_whose_order_may_show_is_found() -> None:
    assert is_order_free("naïve e\u0301 각 \u0e01\u0e48")
    assert not any(map(is_order_free, ("\u302e", "a\U0001d15e", "\u08d4", "\U0001e94a")))


@pytest.mark.reference
def test_order_free_text_is_the_same_in_pieces(drawn_texts: Callable, rust: ModuleType) -> None:
    """Without its accents it is the same whole and in pieces; other text need not be."""
    strip = rust.step("strip_accents")
    texts = [*drawn_texts(5, 1_000), *runs_of_marks(1_000)]
    pieced = {text: "".join(strip(character) for character in text) for text in texts}
    differing = [text for text in texts if strip(text) != pieced[text]]
    assert differing
    assert not any(map(is_order_free, differing))

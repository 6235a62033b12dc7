"""The committed table and the Rust tokenizer: the same answer for every character."""

import ast
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from scratch_gpt import Tokenizer, tokenizer
from scratch_gpt.tokenizer.bpe import END
from scratch_gpt.tokenizer.pretokenizers import UNKNOWN
from scratch_gpt.tokenizer.unicode import CharacterClasses, Ranges, character_classes, decompose
from scratch_gpt.tokenizer.vocabulary import Vocabulary

ROOM = Path(tokenizer.__path__[0])
TABLE = ROOM / "character_classes.txt"

Answers = tuple[str, str, str, str, str, bool]


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
    return {
        c: (*(step(f"a{c}b")[1:-1] for step in steps), rust.words(f"a{c}b") == ["a", c, "b"])
        for c in characters
    }


def ours(characters: list[str], classes: CharacterClasses) -> dict[str, Answers]:
    return {character: _answers(character, classes) for character in characters}


def _answers(character: str, classes: CharacterClasses) -> Answers:
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
    )


@pytest.mark.reference
@pytest.mark.usefixtures("unchecked")
def test_the_edge_of_every_item_is_where_it_is(rust: ModuleType) -> None:
    characters = edges(rust)
    assert len(characters) > 5_000
    assert theirs(characters, rust) == ours(characters, character_classes())


SETS = [f.name for f in dataclasses.fields(CharacterClasses) if f.type is Ranges]


@pytest.mark.reference
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", SETS)
def test_a_shifted_edge_is_found(name: str, rust: ModuleType) -> None:
    classes = character_classes()
    right = getattr(classes, name)
    longer = Ranges([(first, last + 1) for first, last in right.runs()])
    lame = dataclasses.replace(classes, **{name: longer})
    characters = [chr(last + 1) for _, last in right.runs() if last + 1 in rust.SCALARS]
    assert theirs(characters, rust) == ours(characters, classes)
    assert theirs(characters, rust) != ours(characters, lame)


@pytest.mark.reference
def test_python_has_other_tables(rust: ModuleType) -> None:
    """The comparison would find `str.lower` and `unicodedata`: they differ at an edge."""
    import unicodedata

    expected = theirs(edges(rust), rust).items()
    lower = [c for c, (*_, made, _) in expected if made != c.lower()]
    accent = [c for c, row in expected if (row[3] == "") != (unicodedata.category(c) == "Mn")]
    assert lower
    assert len(accent) > 40


ASKS_PYTHON = {
    *("unicodedata", "lower", "upper", "casefold", "isspace", "isalpha", "isalnum", "isdigit"),
    *("isprintable", "isnumeric", "isdecimal", "strip", "title", "normalize", "category"),
}


def asked(source: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(source)))
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    imported = {
        alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
    }
    return (attributes | imported) & ASKS_PYTHON


@pytest.mark.parametrize("name", ["pretokenizers", "unicode", "bpe", "tokenizer"])
def test_nothing_is_asked_of_python(name: str) -> None:
    """So the ids are the same on every version of it."""
    assert not asked((ROOM / f"{name}.py").read_text(encoding="utf-8"))


def test_a_question_to_python_is_found() -> None:
    assert asked("import unicodedata\nx = text.lower()") == {"unicodedata", "lower"}


@pytest.mark.reference
@pytest.mark.slow
def test_the_table_is_what_the_script_makes(rust: ModuleType) -> None:
    """Only the heading differs: it names the version."""
    expected = rust.text().split("\n[", 1)[1]
    assert expected == TABLE.read_text(encoding="ascii").split("\n[", 1)[1]


def chunks(scalars: Sequence[int]) -> Iterator[str]:
    size = 1 << 15
    for start in range(0, len(scalars), size):
        yield " ".join(f"a{chr(code)}b" for code in scalars[start : start + size])


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.timeout(900)  # half a minute of work, which a busy machine draws out
@pytest.mark.usefixtures("unchecked")
def test_every_scalar_value_between_two_letters(
    tmp_path: Path, huggingface: Callable, rust: ModuleType
) -> None:
    """With a vocabulary in which every character has two ids."""
    swept = 0
    for number, text in enumerate(chunks(rust.SCALARS)):
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

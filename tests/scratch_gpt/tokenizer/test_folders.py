"""Random folders of a tokenizer: the ids of `AutoTokenizer`, or a rejection with its reason."""

import json
import random
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scratch_gpt import Tokenizer
from scratch_gpt.errors import CheckpointError

pytestmark = pytest.mark.reference

LETTERS = "abcdehnpt[]<>/'."
MERGES = (("t", "h"), ("th", "e</w>"), ("a", "b"), ("p", "a"), ("pa", "d</w>"), ("ab", "a"))
TOKENS = ("<unk>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS), *map("".join, MERGES))
IDS = {token: number for number, token in enumerate(TOKENS)}
SIZE = len(IDS)

CONTENTS = (
    *("[PAD]", "[pad]", "<cls>", "<CLS>", "the", "the</w>", "a", "A", "é", "É", "e", "ab", "pad"),
    *("<unk>", "<UNK>", "x y", " ", " x", "\n", "中", "\u200b", "", ".", "_", "İ", "</s>", "<s>"),
    *("t\u0301h", "THE", "\x00", "a中", "[", "[[", "\u0301"),
)
"""Texts of added tokens."""

NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask", "image", "my_own")
WRONG = (None, 7, -1, 1.5, True, "", "x", [], {}, ["the"], {"content": 3}, "\ud800")
"""Values of a wrong type or form."""

SETTINGS: dict[str, tuple[Any, ...]] = {
    "tokenizer_class": (
        *("OpenAIGPTTokenizer", "OpenAIGPTTokenizer", "OpenAIGPTTokenizerFast", None, 7),
        *("PreTrainedTokenizerFast", "TokenizersBackend", "GPT2Tokenizer", "BertTokenizer", "x"),
    ),
    "do_lower_case": (True, False),
    "split_special_tokens": (True, False, 3),
    "clean_up_tokenization_spaces": (True, False),
    "model_max_length": (3, 512, "x"),
    "add_bos_token": (True, False),
    "add_prefix_space": (True, False),
    "padding_side": ("left", "up"),
    "pretokenizer": ("huggingface", 3),
    "vocab_file": ("elsewhere.json", 3),
    "extra": (1,),
}
BERT = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
BERT |= {"strip_accents": None, "lowercase": True}
NORMALIZERS: tuple[Any, ...] = (
    *(None, {"type": "BertNormalizer"}, {"type": "NFC"}, {"type": "Lowercase"}, 3, []),
    *(BERT | {"strip_accents": accents} for accents in (True, False, 3)),
    *(BERT | {name: False} for name in ("clean_text", "handle_chinese_chars", "lowercase")),
)
WORDS = ("the", "THE", "pad", "[PAD]", "[pad]", "<cls>", "<unk>", " ", "  ", "\n", "a", "é", "x")
MARKS = ("_", "1", "²", "Ⓐ", ".", "\u0301", "中", "</w>", "\u200b", "aba", "e\u0301")


class Folder(NamedTuple):
    """The files of a tokenizer by name, as JSON values or bytes; and texts with its tokens."""

    files: dict[str, Any]
    texts: list[str]


class Draw:
    """Draws folders; most of their parts are sound, and some are not."""

    def __init__(self, source: random.Random) -> None:
        self.one_of, self.number = source.choice, source.randint
        self.source = source

    def has(self, chance: float) -> bool:
        return self.source.random() < chance

    def content(self) -> str:
        return self.one_of(CONTENTS)

    def id(self) -> int:
        return self.number(SIZE - 3, SIZE + 4) if self.has(0.7) else self.number(0, SIZE + 200)

    def entry(self) -> dict[str, Any]:
        """Draw an added token as an object."""
        flags = ("special", "normalized", "lstrip", "rstrip", "single_word")
        entry: dict[str, Any] = {"content": self.content()}
        entry |= {name: self.has(0.5) for name in flags if self.has(0.5)}
        if self.has(0.02):
            entry[self.one_of([*entry, "id", "more"])] = self.one_of(WRONG)
        return entry | ({"__type": "AddedToken"} if self.has(0.05) else {})

    def named(self) -> Any:  # noqa: ANN401 - whatever JSON holds
        kind = self.number(0, 40)
        return self.one_of(WRONG) if kind == 0 else self.content() if kind < 25 else self.entry()

    def specials(self) -> dict[str, Any]:
        """Draw the special tokens of a config or of a map."""
        found = {f"{self.one_of(NAMES)}_token": self.named() for _ in range(self.number(0, 3))}
        for key in ("additional_special_tokens", "extra_special_tokens"):
            if self.has(0.2):
                values = [self.named() for _ in range(self.number(0, 3))]
                names = ("boi_token", "a", "eos_token")
                found[key] = values if self.has(0.7) else dict(zip(names, values, strict=False))
        return found

    def ids(self) -> dict[str, Any]:
        """Draw the ids, sometimes fewer, more, or unsound ones."""
        ids: dict[str, Any] = dict(IDS)
        kind = self.number(0, 40)
        if kind < 5:
            ids |= {f"q{number}": SIZE + number for number in range(self.number(1, 4))}
            ids.setdefault(self.content(), len(ids))
        elif kind == 5:
            del ids[self.one_of(list(ids))]
        elif kind == 6:
            ids[self.one_of(list(ids))] = self.one_of([*WRONG, 3, SIZE, SIZE + 3])
        return ids

    def merges(self) -> bytes:
        """Draw a file of merges as its writers write it."""
        headers = ("", "#version: 0.2", "#version: 0.1 - Trained by x", "#version", "# by hand")
        lines = [" ".join(pair) for pair in MERGES]
        if self.has(0.05):
            odd = ("", "t h", "q q", "a", "a b c", "t  h", " ", "#a", "#version a")
            lines.insert(self.number(0, len(lines)), self.one_of(odd))
        header = headers[-1] if self.has(0.02) else self.one_of(headers[:-1])
        end = self.one_of(["\n", "\n", "\r\n"])
        text = end.join([*([header] if header else []), *lines])
        text += end * (self.one_of([0, 2, 3]) if self.has(0.2) else 1)
        return (b"\xef\xbb\xbf" if self.has(0.02) else b"") + text.encode()

    def single_file(self, ids: dict[str, Any]) -> dict[str, Any]:
        """Draw a `tokenizer.json`, nearly as the library writes it."""
        unknown: dict[str, Any] = dict.fromkeys(
            ["normalized", "lstrip", "rstrip", "single_word"], False
        )
        unknown |= {"id": 0, "content": "<unk>", "special": True}
        added = [unknown] if self.has(0.9) else []
        more = range(self.number(0, 3))
        added += [unknown | self.entry() | {"id": self.id()} for _ in more]
        lists = [list(pair) for pair in MERGES], [" ".join(pair) for pair in MERGES]
        model = {"type": "BPE", "dropout": None, "unk_token": "<unk>"}
        model |= {"continuing_subword_prefix": "", "end_of_word_suffix": "</w>"}
        model |= dict.fromkeys(["fuse_unk", "byte_fallback", "ignore_merges"], False)
        model |= {"vocab": ids, "merges": self.one_of(lists)}
        whole: dict[str, Any] = {"version": "1.0", "truncation": None, "padding": None}
        whole |= {"added_tokens": added, "normalizer": BERT, "post_processor": None}
        whole |= {"pre_tokenizer": {"type": "BertPreTokenizer"}, "model": model}
        whole |= {"decoder": {"type": "BPEDecoder", "suffix": "</w>"}}
        if self.has(0.05):
            whole["normalizer"] = self.one_of(NORMALIZERS)
        if self.has(0.05):
            place = self.one_of([whole, model])
            place[self.one_of(sorted(place))] = self.one_of(WRONG)
        if self.has(0.05):
            place = self.one_of([whole, model])
            del place[self.one_of(sorted(place))]
        if self.has(0.02):
            cut = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
            whole["truncation"] = cut
        return whole

    def config(self) -> dict[str, Any]:
        config = self.specials()
        for _ in range(self.one_of([0, 0, 1, 2])):
            name = self.one_of(sorted(SETTINGS))
            config[name] = self.one_of(SETTINGS[name])
        if self.has(0.5):
            listed = {str(self.id()): self.entry() for _ in range(self.number(0, 3))}
            config["added_tokens_decoder"] = listed
        return config

    def folder(self) -> Folder:
        files: dict[str, Any] = {"config.json": {"model_type": "openai-gpt"}}
        ids, form = self.ids(), self.one_of(["two", "two", "single", "both"])
        if form != "single":
            files |= {"vocab.json": ids, "merges.txt": self.merges()}
        if form != "two":
            files["tokenizer.json"] = self.single_file(ids)
        if self.has(0.4):
            added = {self.content(): self.id() for _ in range(self.number(0, 3))}
            if self.has(0.05):
                added[self.content()] = self.one_of(WRONG)
            files["added_tokens.json"] = added
        if self.has(0.4):
            files["special_tokens_map.json"] = self.specials()
        if self.has(0.6):
            files["tokenizer_config.json"] = self.config()
        if self.has(0.03):
            files[self.one_of(list(files)[1:])] = self.one_of([*WRONG, b"{", b""])
        if self.has(0.03):
            del files[self.one_of(list(files)[1:])]
        whole = json.dumps(files, default=lambda raw: raw.decode("utf-8", "replace"))
        used = [text for text in CONTENTS if text and json.dumps(text) in whole]
        bits = [*WORDS, *MARKS, *used * 3]
        drawn = ("".join(self.source.choices(bits, k=self.number(1, 9))) for _ in range(12))
        return Folder(files, list(drawn))


def write(folder: Path, files: dict[str, Any]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        is_bytes = isinstance(content, bytes)
        (folder / name).write_bytes(content if is_bytes else json.dumps(content).encode())


Encoded = tuple[list[int], list[tuple[int, int]]]


def theirs(folder: Path, texts: list[str]) -> list[Encoded] | None:
    """Return the ids and offsets of `AutoTokenizer`; None if it cannot load or encode."""
    from transformers import AutoTokenizer

    from reference.huggingface import quiet

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            found = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - the Rust library panics with a BaseException
        return None
    places = [[tuple(place) for place in each] for each in found["offset_mapping"]]
    return list(zip(found["input_ids"], places, strict=True))


def loaded(folder: Path) -> Any:  # noqa: ANN401 - a tokenizer and None, or None and an error
    try:
        return Tokenizer.from_pretrained(folder), None
    except CheckpointError as error:
        return None, error


def check_against_transformers(folder: Path, case: Folder) -> str:
    """Check that a folder has the ids of `AutoTokenizer` or is rejected; return which."""
    write(folder, case.files)
    ours, rejection = loaded(folder)
    if ours is None:
        assert (rejection.exit_code, rejection.what == "", rejection.fix == "") == (4, False, False)
        return f"rejected: {rejection.what}"
    expected = theirs(folder, case.texts)
    if expected is None:
        return "not loaded by transformers"
    for text, wanted in zip(case.texts, expected, strict=True):
        assert ours.encode_with_offsets(text) == wanted, (text, case.files)
        assert ours.encode(text) == wanted[0], (text, case.files)
    return "equal"


def fuzz(examples: int) -> Any:  # noqa: ANN401 - Hypothesis's decorator
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


def skip_other_versions() -> None:
    from reference import compat

    if compat.reads_merges_by_place() or compat.tokenizer_normalizer() != "BertNormalizer":
        pytest.skip("not run: this transformers reads contradictory files in another way")


@fuzz(60)
@given(source=st.randoms(use_true_random=True))
def test_folders_give_the_ids_of_transformers(source: random.Random, tmp_path: Path) -> None:
    skip_other_versions()
    check_against_transformers(tmp_path / "folder", Draw(source).folder())


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@fuzz(2_000)
@given(source=st.randoms(use_true_random=True))
def test_many_folders_give_the_ids_of_transformers(source: random.Random, tmp_path: Path) -> None:
    skip_other_versions()
    check_against_transformers(tmp_path / "folder", Draw(source).folder())

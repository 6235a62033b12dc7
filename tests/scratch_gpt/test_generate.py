"""`python -m scratch_gpt.generate`."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from scratch_gpt import GPT, GPTConfig
from scratch_gpt.generate import app
from scratch_gpt.generation.decoder import Decoder
from scratch_gpt.tokenizer.tokenizer import Tokenizer

Generate = Callable[..., Result]

PROMPT = "the parser was late"


@pytest.fixture(scope="module")
def weights(small_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of loud weights with 24 positions, and a vocabulary that has a euro sign."""
    folder = tmp_path_factory.mktemp("weights") / "model"
    tokenizer = Tokenizer.train([small_text, "\u20ac"], merges=300)
    size = tokenizer.vocab_size
    model = GPT(GPTConfig(vocab_size=size, n_positions=24, n_embd=24, n_layer=2, n_head=3))
    generator = torch.Generator().manual_seed(20180611)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.5 if parameter.ndim == 1 else parameter.shape[0] ** -0.5
            parameter.normal_(0.0, scale, generator=generator)
        model.tokens_embed.weight.mul_(8.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def generate(weights: Path) -> Generate:
    def run(*options: object, weights: Path = weights, **named: object) -> Result:
        arguments = ["--weights", str(weights), *map(str, options)]
        return CliRunner().invoke(app, arguments, **named)

    return run


def greedy(weights: Path, prompt: str, count: int) -> str:
    """Return the text of the tokenizer and the uncached model."""
    tokenizer = Tokenizer.from_pretrained(weights)
    model = GPT.from_pretrained(weights, backend="plain")
    ids = tokenizer.encode(prompt)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return tokenizer.decode(ids)


def test_prints_prompt_and_continuation(weights: Path, generate: Generate) -> None:
    result = generate("--prompt", PROMPT, "--max-new-tokens", 8)
    assert (0, greedy(weights, PROMPT, 8) + "\n") == (result.exit_code, result.stdout)
    new = generate("--prompt", PROMPT, "--max-new-tokens", 8, "--quiet").stdout
    assert new == result.stdout.removeprefix(PROMPT)


def test_each_token_is_printed_at_once(generate: Generate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text that was printed before a failure stays."""
    whole = generate("--prompt", PROMPT, "--max-new-tokens", 8).stdout

    def fail(_decoder: Decoder, _tokens: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Decoder, "step", fail)
    result = generate("--prompt", PROMPT, "--max-new-tokens", 8)
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert result.stdout.endswith("\n")
    assert whole.startswith(result.stdout.removesuffix("\n"))
    assert len(result.stdout) > len(PROMPT) + 1


def test_a_stop_string_may_span_tokens(weights: Path, generate: Generate) -> None:
    whole = greedy(weights, PROMPT, 8).removeprefix(PROMPT)
    for start in range(1, len(whole) - 3, 3):
        stop = whole[start : start + 3]
        result = generate("--prompt", PROMPT, "--max-new-tokens", 8, "--quiet", "--stop", stop)
        assert result.stdout == whole[: whole.find(stop)] + "\n"


DRAWN = ("--temperature", 2.5, "--top-k", 40, "--max-new-tokens", 8)


def test_a_seed_determines_the_text(generate: Generate) -> None:
    first, again, other = (
        generate("--prompt", PROMPT, *DRAWN, "--seed", seed).stdout for seed in (1, 1, 2)
    )
    assert first == again != other
    texts = generate("--prompt", PROMPT, *DRAWN, "--samples", 3, "--seed", 1).stdout
    blocks = texts.split("--- prompt 1, text ")[1:]
    assert len({block.partition("\n")[2] for block in blocks}) == 3
    assert blocks[0].partition("\n")[2] == first


def test_prompts_do_not_disturb_each_other(generate: Generate) -> None:
    first, second = (
        generate("--prompt", other, "--prompt", PROMPT, *DRAWN, "--json").stdout
        for other in ("a", "quite another and longer one")
    )
    rows = [json.loads(text)["texts"] for text in (first, second)]
    assert list(map(len, rows)) == [2, 2]
    assert rows[0][1] == rows[1][1]
    twice = generate("--prompt", PROMPT, "--prompt", PROMPT, *DRAWN, "--json").stdout
    assert len({row["text"] for row in json.loads(twice)["texts"]}) == 2


def test_json_holds_ids_settings_and_vocabulary(weights: Path, generate: Generate) -> None:
    result = generate("--prompt", PROMPT, "--max-new-tokens", 5, "--beams", 3, "--samples", 2,
                      "--json")  # fmt: skip
    document = json.loads(result.stdout, parse_constant=pytest.fail)
    tokenizer = Tokenizer.from_pretrained(weights)
    assert tokenizer.digest == document["vocabulary_sha256"]
    assert [row["text_number"] for row in document["texts"]] == [1, 2]
    for row in document["texts"]:
        assert row["text"] == tokenizer.decode(row["prompt_ids"] + row["new_ids"])
        assert row["text"].endswith(row["new_text"])
    assert tuple(document["settings"][name] for name in ("beams", "samples", "seed")) == (3, 2, 0)


def test_a_prompt_may_be_a_file_or_standard_input(generate: Generate, tmp_path: Path) -> None:
    expected = generate("--prompt", PROMPT, "--max-new-tokens", 3).stdout
    file = tmp_path / "a prompt.txt"
    file.write_bytes(PROMPT.encode() + b"\r\n")
    few = ("--max-new-tokens", 3)
    assert expected == generate("--prompt-file", file, *few).stdout
    assert expected == generate("--prompt-file", "-", *few, input=PROMPT + "\n").stdout
    assert expected == generate(*few, input=PROMPT).stdout


def test_overflow_stops_slides_or_is_an_error(generate: Generate) -> None:
    counts = {}
    for overflow in ("stop", "slide"):
        options = ("--prompt", "a", "--max-new-tokens", 40, "--overflow", overflow, "--json")
        counts[overflow] = len(json.loads(generate(*options).stdout)["texts"][0]["new_ids"])
    assert counts == {"stop": 23, "slide": 40}
    result = generate("--prompt", "a", "--max-new-tokens", 40, "--overflow", "error")
    assert result.exit_code == 2
    assert "the model's 24 positions" in result.stderr


def test_an_overflow_is_an_error_before_anything_is_printed(generate: Generate) -> None:
    prompts = ("--prompt", "a", "--prompt", "a " * 20, "--max-new-tokens", 5)
    result = generate(*prompts, "--overflow", "error")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "where  --overflow error" in result.stderr
    assert generate(*prompts).exit_code == 0


def test_the_reason_why_a_text_ends_is_reported(generate: Generate) -> None:
    note = "the text ends at the model's 24 positions; --overflow slide goes on"
    for count, options, ended in (
        (40, (), "positions"),
        (40, ("--beams", 2), "positions"),
        (23, (), "max_new_tokens"),
        (40, ("--overflow", "slide"), "max_new_tokens"),
        (40, ("--stop", "h"), "stop"),
    ):
        result = generate("--prompt", "a", "--max-new-tokens", count, "--json", *options)
        assert [ended] == [text["ended"] for text in json.loads(result.stdout)["texts"]]
        assert (note in result.stderr) is (ended == "positions")
        assert ("without --beams" in result.stderr) is ("--beams" in options)
    assert generate("--prompt", "a", "--max-new-tokens", 40, "--quiet").stderr == ""


@pytest.mark.parametrize("beams", [1, 2])
def test_logits_that_are_nan_reject_the_weights(
    beams: int, generate: Generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Decoder.start
    monkeypatch.setattr(Decoder, "start", lambda *given: right(*given) * float("nan"))
    result = generate("--prompt", PROMPT, "--beams", beams)
    assert result.exit_code == 4
    assert "where  --weights" in result.stderr
    assert "--dtype float32" in result.stderr
    assert result.stdout == PROMPT + "\n"


def test_another_error_is_internal(generate: Generate, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_decoder: Decoder, _tokens: object) -> None:
        message = "shapes do not fit"
        raise ValueError(message)

    monkeypatch.setattr(Decoder, "step", fail)
    result = generate("--prompt", PROMPT)
    assert result.exit_code == 70
    assert result.stdout.endswith("\n")


def test_runs_in_bfloat16(generate: Generate) -> None:
    result = generate("--prompt", PROMPT, "--dtype", "bfloat16", "--max-new-tokens", 4)
    assert result.exit_code == 0
    assert len(result.stdout) > len(PROMPT) + 1


USAGE = [
    ("--prompt ''", "empty prompt"),
    ("--prompt ' \n\t '", "empty prompt"),
    ("--prompt ab\udcff", "not valid Unicode at character 2"),
    (f"--prompt '{'a ' * 30}'", "30 tokens; this model has max 24"),
    ("--prompt a --temperature 0", "--temperature is 0.0; allowed"),
    ("--prompt a --temperature nan", "--temperature is nan; allowed"),
    ("--prompt a --top-k 0", "--top-k is 0; allowed"),
    ("--prompt a --top-k 99999", "--top-k is 99999; allowed"),
    ("--prompt a --top-p 1.5", "--top-p is 1.5; allowed"),
    ("--prompt a --repetition-penalty -1", "--repetition-penalty is -1.0"),
    ("--prompt a --no-repeat-ngram-size -1", "--no-repeat-ngram-size is -1"),
    ("--prompt a --max-new-tokens -1", "--max-new-tokens is -1; allowed"),
    ("--prompt a --beams 0", "--beams is 0; allowed"),
    ("--prompt a --beams 2 --top-k 2", "--beams is 2; allowed"),
    ("--prompt a --beams 2 --samples 3", "--samples is 3 and --beams is 2; allowed"),
    ("--prompt a --beams 2 --overflow slide", "where  --overflow and --beams"),
    ("--prompt a --seed -1", "--seed is -1; allowed"),
    ("--prompt a --stop ''", "--stop is ''; allowed"),
    ("--prompt a --top-q 1", "No such option"),
    ("--weights openai-gpt --prompt a", "python -m parity.convert openai-gpt DIRECTORY"),
]


@pytest.mark.parametrize(("options", "message"), USAGE, ids=ascii)
def test_an_invalid_option_is_a_usage_error(options: str, message: str, generate: Generate) -> None:
    result = generate(*shlex.split(options))
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_bytes_that_are_no_text_are_a_usage_error(generate: Generate) -> None:
    result = generate("--prompt-file", "-", input=b"abc\xff")
    assert result.exit_code == 2
    assert "not valid UTF-8 at byte 3" in result.stderr


def test_unfit_files_are_rejected(weights: Path, generate: Generate, tmp_path: Path) -> None:
    bare = shutil.copytree(weights, tmp_path / "bare", ignore=shutil.ignore_patterns("vocab*"))
    torn = shutil.copytree(weights, tmp_path / "torn")
    (torn / "model.safetensors").write_bytes(b"\0" * 7)
    results = [
        generate("--prompt", "a", weights=bare),
        generate("--prompt", "a", weights=torn),
        generate("--prompt-file", tmp_path / "none"),
    ]
    assert [result.exit_code for result in results] == [4, 4, 2]
    assert "--vocabulary" in results[0].stderr
    assert "model.safetensors" in results[1].stderr


NOTE = "note: the vocabulary has {} tokens, the token embedding {} rows\n"


def test_a_larger_vocabulary_is_noted_and_its_last_tokens_are_rejected(
    weights: Path, generate: Generate, tmp_path: Path
) -> None:
    larger = shutil.copytree(weights, tmp_path / "larger")
    config = {"added_tokens_decoder": {"999": {"content": "[PAD]", "special": True}}}
    (larger / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    size = Tokenizer.from_pretrained(weights).vocab_size
    usual = generate("--prompt", PROMPT, "--max-new-tokens", 5)
    found = generate("--prompt", PROMPT, "--max-new-tokens", 5, weights=larger)
    assert (usual.exit_code, usual.stderr) == (0, "")
    assert (found.exit_code, found.stdout) == (0, usual.stdout)
    assert found.stderr == NOTE.format(size + 1, size)
    assert generate("--prompt", "a", "--quiet", weights=larger).stderr == ""
    wrong = generate("--prompt", "the [PAD]", weights=larger)
    assert (wrong.exit_code, wrong.stdout) == (4, "")
    text = " ".join(wrong.stderr.split())
    assert f"the token '[PAD]' of the prompt has the id {size}; the token embedding has" in text
    assert f"{size} rows, the vocabulary {size + 1} tokens" in text


@pytest.mark.parametrize("options", [[], ["--samples", 2], ["--beams", 2], ["--json"]])
def test_a_chosen_id_without_a_token_is_rejected(
    options: list[object], weights: Path, generate: Generate, tmp_path: Path
) -> None:
    Tokenizer.train(["some other words"], merges=3).save_pretrained(tmp_path)
    size = Tokenizer.from_pretrained(weights).vocab_size
    all_differ = ["--no-repeat-ngram-size", 1, "--max-new-tokens", 15]
    found = generate("--prompt", "some", "--vocabulary", tmp_path, *all_differ, *options)
    assert found.exit_code == 4
    text = " ".join(found.stderr.split())
    assert NOTE.format(Tokenizer.from_pretrained(tmp_path).vocab_size, size).strip() in text
    assert "the model chose the id" in text
    assert "which is no token: the vocabulary has" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="not run: there is a CUDA device")
def test_a_missing_device(generate: Generate) -> None:
    result = generate("--prompt", "a", "--device", "cuda")
    assert (result.exit_code, "no CUDA device" in result.stderr) == (5, True)
    assert generate("--prompt", "a", "--device", "auto", "--max-new-tokens", 1).exit_code == 0


def test_help_needs_no_torch() -> None:
    source = (
        "import sys; sys.modules['torch'] = None\n"
        "from scratch_gpt.generate import app\napp(['--help'])"
    )
    env = os.environ | {"NO_COLOR": "1"}
    command = [sys.executable, "-c", source]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    for part in ("--temperature", "Examples:", "default: 1.0", "Exit codes:\n    0 printed"):
        assert part in result.stdout


def started(weights: Path, *options: str, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "scratch_gpt.generate", "--weights", str(weights), *options]
    settings = {"env": os.environ | environment, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, stdout=subprocess.PIPE, **settings)


ENDLESS = ("--prompt", PROMPT, "--max-new-tokens", "1000000", "--overflow", "slide")


@pytest.mark.slow
def test_an_interrupt_keeps_what_was_printed(weights: Path) -> None:
    with started(weights, *ENDLESS) as process:
        first = process.stdout.read(200)
        process.send_signal(signal.SIGINT)
        rest, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert first.decode().startswith(PROMPT)
    assert b"interrupted" in error
    assert b"Traceback" not in error + rest


@pytest.mark.slow
def test_a_closed_pipe_ends_it_quietly(weights: Path) -> None:
    with started(weights, *ENDLESS) as process:
        process.stdout.read(10)
        process.stdout.close()
        error = process.stderr.read()
        process.wait(timeout=60)
    assert (process.returncode, error) == (141, b"")


@pytest.mark.slow
def test_the_same_text_in_every_process_and_locale(weights: Path, generate: Generate) -> None:
    options = ("--prompt", "\u20ac " + PROMPT, *map(str, DRAWN))
    expected = generate(*options).stdout
    assert not expected.isascii()
    for environment in ({"PYTHONIOENCODING": "utf-8"}, {"PYTHONIOENCODING": "ascii"}):
        with started(weights, *options, **environment) as process:
            printed, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert printed == expected.encode(environment["PYTHONIOENCODING"], "replace")

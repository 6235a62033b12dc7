"""The options of every verb of `python -m parity.check`; a class's docstring is the verb's help.

Options that several verbs share are inherited. Nothing here imports torch.
"""

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Literal

from parity.errors import mapped_errors
from scratch_gpt.options import Device, Pretokenizer, QuietOption, argument, option, recorded

Dtype = Literal["float64", "float32", "bfloat16", "float16"]
"""The dtypes whose rounding can be checked; `float64` runs the float64 comparison alone."""

Backend = Literal["default", "all", "plain", "tiled", "fused", "compiled", "triton"]
"""The backends of our model, and two sets of them."""

EXIT_CODES = """
Exit codes:
  0 pass  1 a real difference  2 usage  3 inconclusive  4 input rejected
  5 environment  70 internal error  130 interrupted  141 closed pipe
"""

LARGEST_REPORT = 32 << 20
"""Bytes of a report that is read; that of training at full size with fingerprints has 13 MB.

Parsed, a hostile one takes 24 times its size.
"""

LIST_FAULTS = "list"
"""The value of `--inject-fault` that prints the faults of the verb."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions(QuietOption):
    """Where the report goes, and in which format."""

    format: str = option(
        "text",
        "Form of standard output: text, json, html, markdown, junit, or github (annotations of "
        "GitHub Actions, and the job's summary).",
    )
    output: tuple[Path, ...] = option(
        (),
        "Write the report to this file too. Its suffix selects the form: .html (a page), .md (for "
        "a pull request), .xml (JUnit), .json or .txt. May be repeated.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FingerprintOptions(ReportOptions):
    """Whether the report holds the tensors' fingerprints."""

    fingerprints: bool = option(
        False,
        "Add a digest and a sketch of every compared tensor to the JSON report, to compare runs "
        "on other versions or machines with `drift`.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsOption:
    """Which weights are loaded."""

    weights: str = option(
        "auto",
        "openai-gpt (the released weights, from the hub or its cache), another hub repository "
        "owner/name[@revision], a folder or file (Hugging Face's format, OpenAI's ten shards, or "
        "ours), surrogate (seeded stand-in weights, full size), tiny; or auto: openai-gpt, and "
        "the surrogate if neither cache nor hub has it.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadOptions(WeightsOption):
    """Which weights are loaded, and how."""

    strict: bool = option(
        False,
        "Reject weights of which anything is renamed, rounded, left out or ignored. Without it "
        "the report notes each.",
        records=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedOption:
    """What random inputs are drawn from."""

    seed: int = option(
        0, "Seed of the generated inputs.", minimum=0, maximum=2**63 - 1, records=True
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenIdsOption:
    """Token ids that replace the seeded ones."""

    token_ids: str | None = option(
        None,
        "Token ids instead of seeded ones: 481,4735,544;12,7 is two rows.",
        records=True,
    )


DEFAULT_SEQ_LEN, TRAINING_SEQ_LEN, INVARIANTS_SEQ_LEN = 512, 70, 129
"""Default lengths of a row, in tokens; a model with fewer positions gets shorter rows."""

NEW_TOKENS = 32
"""Default number of new tokens; a model with few positions generates fewer."""

MOST = 1_000_000
"""The largest value of a number of rows, tokens, strings, prompts or steps."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchOptions(SeedOption):
    """The shape of seeded token ids."""

    batch_size: int = option(1, "Rows of token ids.", minimum=1, maximum=MOST)
    seq_len: int | None = option(
        None,
        f"Tokens in each row. Default: {DEFAULT_SEQ_LEN}, or as many as the model takes.",
        minimum=1,
        maximum=MOST,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaultOption:
    """A known fault of our side."""

    inject_fault: str | None = option(
        None,
        "Inject a known fault into our side first, to see a failing verdict. "
        "`--inject-fault list` shows all.",
        metavar="NAME",
        records=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DtypeOption:
    """The dtype whose rounding is checked."""

    dtype: Dtype = option("float32", "Dtype whose rounding is checked.", records=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CandidateOptions(FaultOption, DtypeOption):
    """Which model is checked, and in which dtype."""

    candidate: str | None = option(
        None,
        "Model to check instead of ours: FILE.py, FILE.py:NAME or MODULE:NAME. It is a function "
        "build(config, weights) that returns it, or a class, or a module.",
        records=True,
    )
    backend: Backend = option(
        "default",
        "How our model runs: plain (each operation by its formula), tiled (no score matrix, "
        "hand-written derivatives), fused (residuals added in the products' memory), compiled "
        "(torch.compile, one block at a time), triton (a GPU kernel). default: plain and fused; "
        "all: every backend that this machine can run.",
        records=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions(CandidateOptions):
    """Which model is checked, and which of its tensors."""

    taps: str = option("*", "Compare only names that match this pattern: h.3.mlp.*", records=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockFaultOption(FaultOption):
    """A known fault of one block of our model."""

    inject_fault: str | None = option(
        None,
        "Inject a known fault into our model first, to see a failing verdict. Without @BLOCK "
        "it is in the middle block. `--inject-fault list` shows all.",
        metavar="NAME[@BLOCK]",
        records=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceOption:
    """Where the models run."""

    device: Device = option("cpu", "Where the models run.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CallOptions:
    """How a candidate is called, and which weights it holds."""

    call: str | None = option(
        None,
        "How a candidate is called, in Python: model(ids, cache=None)[0]. Names are model, ids, "
        "positions, mask, causal and torch. Without it, the usual ways are tried.",
        records=True,
    )
    map: Path | None = option(
        None,
        "File that says which weights a candidate's parameters hold, where names and shapes do "
        "not decide it: lines such as blocks.0.q.weight = h.0.attn.c_attn.weight[:, :768].T",
        records=True,
        exists=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForwardOptions(
    LoadOptions,
    BlockFaultOption,
    ModelOptions,
    CallOptions,
    DeviceOption,
    TokenIdsOption,
    BatchOptions,
    FingerprintOptions,
):
    """What `layerwise` and `gradients` share."""

    kernel: str | None = option(
        None,
        "Your own attention kernel, FILE.py:NAME, called as scratch_gpt/attention.py says. It runs "
        "in our model as the backend `kernel`, beside plain or what --backend names.",
        metavar="FILE.py:NAME",
        records=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerwiseOptions(ForwardOptions):
    """Do the models agree at every tap? Where do they differ first?

    Compares the activations of every layer, the logits and the loss of our model with Hugging
    Face's OpenAIGPTLMHeadModel and with a NumPy float64 oracle. All three use the same weights. In
    float64 they must agree to rounding. In --dtype our error must be no larger than Hugging
    Face's, end to end and operation by operation. A tap is a named forward hook: h.3.mlp.gelu.

    Examples:
      python -m parity.check layerwise --weights tiny --seq-len 5
      python -m parity.check layerwise --weights tiny --inject-fault erf-gelu@3
      python -m parity.check layerwise --candidate my_gpt.py --output report.json
      python -m parity.check layerwise --candidate gpt2.py --reference config.json
      python -m parity.check layerwise --activations from_jax.safetensors
    """

    explain: str | None = option(
        None, "Describe one tap in detail: histogram, worst elements, inputs."
    )
    reference: Path | None = option(
        None,
        "Compare the candidate with Hugging Face's model of another architecture, in float64 "
        "alone and without the oracle. A config.json, or a folder with one; without weights in "
        "it they are seeded. build(config, weights) gets that config and the state dict.",
        metavar="PATH",
        records=True,
        exists=True,
    )
    activations: Path | None = option(
        None,
        "Check the activations in this .safetensors or .npz file instead of a model: an array for "
        "each tap, the logits among them, and token_ids. Their dtype decides what is checked.",
        metavar="FILE",
        exists=True,
    )
    save_activations: Path | None = option(
        None,
        "Write the activations of the model to this .safetensors or .npz file, in --dtype. Of "
        "several backends it is the first.",
        metavar="FILE",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientsOptions(ForwardOptions):
    """Do the gradients of every parameter and every tap agree?

    Compares the gradients of the mean next-token loss of our model with Hugging Face's, from the
    logits back to the embeddings. In float64 they must agree to rounding, and our gradient must
    match the slope of the oracle's loss along a direction in all parameters. In --dtype our error
    must be no larger than Hugging Face's. Of a candidate without taps, the parameters are found by
    their values, and only their gradients are compared.

    Examples:
      python -m parity.check gradients --weights tiny --seq-len 5
      python -m parity.check gradients --candidate my_gpt.py
      python -m parity.check gradients --weights tiny --inject-fault head-detached
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsOptions(LoadOptions, ReportOptions):
    """Is every tensor in its place, bit for bit, and none left over?

    Compares the bits of three sets of tensors with the source: those of our model, those of
    Hugging Face's model, and the source after conversion to the format of the 2018 release and
    back. With two sources, A and B, it compares these alone: names, shapes, dtypes, bits, configs.
    A source is as in --weights, or a file of tensors under any names.

    Examples:
      python -m parity.check weights --weights tiny
      python -m parity.check weights --weights path/to/folder
      python -m parity.check weights path/to/folder mine.safetensors
    """

    sources: tuple[str, ...] = argument(
        (),
        "Two sources to compare with each other. Each is as in --weights, or a .safetensors, .npz "
        "or torch.save file without a config, under the names in it.",
        metavar="A B",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokensOptions(WeightsOption, FaultOption, SeedOption, FingerprintOptions):
    """Do both tokenizers give the same ids?

    Encodes hand-picked strings, every token of the vocabulary as a word, long and generated words
    and a corpus with our tokenizer and Hugging Face's. With --pretokenizer original the reference
    is an independent implementation of the released code. Decoding, batches, training and files
    are compared, too; with --text only decoding and batches. Each difference is reduced to the
    shortest input that shows it, and reported with its step. Nothing is downloaded.

    Examples:
      python -m parity.check tokens --num-strings 200
      python -m parity.check tokens --text "Isn't it?" --vocabulary folder
      python -m parity.check tokens --pretokenizer original --corpus books/
    """

    vocabulary: Path | None = option(
        None,
        "Folder of vocab.json and merges.txt, or of OpenAI's two files. Default: the one beside "
        "the weights or in the hub's cache; otherwise one is trained.",
        exists=True,
    )
    pretokenizer: Pretokenizer = option(
        "huggingface",
        "How text is split into words: huggingface (as its tokenizer does) or original (as the "
        "model was trained; needs the extra original-text).",
    )
    text: str | None = option(None, "Compare only this text.")
    corpus: tuple[Path, ...] = option(
        (),
        "Text file, or folder of .txt and .md files, instead of a million characters of the "
        "standard library's documentation. May be repeated.",
        exists=True,
    )
    num_strings: int = option(2_000, "Strings to generate.", minimum=0, maximum=MOST)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoctorOptions(LoadOptions, TokenIdsOption, BatchOptions, ReportOptions):
    """Are the machine, the packages and the weights fit for a verdict?

    Lists the versions, and every setting that changes results. Reports for each block whether its
    weights are healthy: how sharp its attention is, and how different its positions.

    Examples:
      python -m parity.check doctor --weights tiny
      python -m parity.check doctor --format json
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class InvariantsOptions(
    LoadOptions,
    BlockFaultOption,
    CandidateOptions,
    CallOptions,
    DeviceOption,
    SeedOption,
    ReportOptions,
):
    """Does the model have the properties of every right GPT-1?

    Needs no reference. Runs pairs of calls whose logits must be equal, or must differ: causality,
    batches, positions, padding, prefixes, ids, the cache, repeated runs and threads, dropout, and
    the effect of every token, position and parameter. Equal shapes must give equal bits, other
    shapes 1e-12 of the RMS in float64. The first violation of each property is placed at a tap, or
    at the line of a candidate.

    Examples:
      python -m parity.check invariants --weights tiny
      python -m parity.check invariants --weights tiny --candidate my_gpt.py
      python -m parity.check invariants --weights tiny --inject-fault future-seen
    """

    dtype: Dtype = option("float64", "Dtype of the calls.", records=True)
    seq_len: int | None = option(
        None,
        f"Tokens of the longest text. Default: {INVARIANTS_SEQ_LEN}, two tiles and one token, or "
        "as many as the model takes.",
        minimum=1,
        maximum=MOST,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions(LoadOptions, ModelOptions, BatchOptions, FingerprintOptions):
    """Are the weights still the same after optimizer steps?

    Our model is stepped by our trainer, Hugging Face's by a NumPy oracle of the released Adam and
    then by torch.optim.AdamW. In float64 batches, loss, gradients, norm, learning rate, moments
    and weights must agree after every step. In --dtype our rounding must be no larger than Hugging
    Face's. The trainer makes small runs of its own too: windows, schedules, the optimizer alone,
    dropout, resuming. Runs on the CPU. At full size the default takes about 10 GB and some minutes.

    Examples:
      python -m parity.check training --weights tiny --seq-len 16
      python -m parity.check training --weights tiny --dropout
      python -m parity.check training --weights tiny --taps "adamw.2.weight.*"
    """

    steps: int = option(3, "Steps of each run.", minimum=2, maximum=MOST)
    micro_batches: int = option(
        2, "Micro-batches that our side accumulates per step.", minimum=1, maximum=MOST
    )
    dropout: bool = option(False, "Train with dropout. Both models use the same masks.")
    batch_size: int = option(2, "Rows of one micro-batch.", minimum=1, maximum=MOST)
    seq_len: int | None = option(
        None,
        f"Tokens in each row. Default: {TRAINING_SEQ_LEN}, more than a tile's 64, or as many as "
        "the model takes.",
        minimum=1,
        maximum=MOST,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationOptions(
    LoadOptions, FaultOption, DtypeOption, TokenIdsOption, SeedOption, FingerprintOptions
):
    """Does generation with a cache equal generation without one?

    Checks rules and choices on shared logits, then the texts of generate, stream and beam search:
    greedy, under rules and sampled, in batches, with end tokens, beyond the last position, and in
    chunks. In float64 the logits of every step must agree with models that have no cache, and each
    row's ids must follow from its own random numbers. In --dtype rounding must be no larger than
    Hugging Face's, and ids must equal those of its generate, except at ties. Runs on the CPU.
    Hugging Face runs the whole text again for every token: at full size use few prompts.

    Examples:
      python -m parity.check generation --weights tiny
      python -m parity.check generation --num-prompts 3 --max-new-tokens 8
    """

    num_prompts: int = option(
        8,
        "Prompts drawn from the seed, of one token up to all the space there is.",
        minimum=1,
        maximum=MOST,
    )
    max_new_tokens: int | None = option(
        None,
        f"Tokens to generate for each prompt. Default: {NEW_TOKENS}, or fewer in a model with few "
        "positions.",
        minimum=1,
        maximum=MOST,
    )
    text: str | None = option(
        None, "A prompt instead of drawn ones; needs --vocabulary.", records=True
    )
    vocabulary: Path | None = option(
        None, "Folder of the vocabulary that encodes --text.", exists=True
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GoldenOptions(LoadOptions, ReportOptions):
    """Do the released weights still give the published numbers?

    Compares greedy ids, a logit, word probabilities, sentence losses, norms of the matrices and
    digests of the files with published values, and names each source. It needs the released
    weights: auto is openai-gpt here, and the surrogate is rejected.

    Examples:
      python -m parity.check golden
      python -m parity.check golden --weights path/to/openai-gpt
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllOptions(WeightsOption, BlockFaultOption, DeviceOption, ReportOptions):
    """Does every check pass, on every kind of input?

    Runs doctor, weights, tokens, layerwise, gradients, invariants, training, generation and, on
    the released weights, golden, in this order, and ends at the first failure. layerwise runs on a
    plan of inputs: batches, lengths, padding on either side, edges of tiles, other configs, all
    backends. A large model runs on fewer inputs, in which every pair of settings occurs. Of a
    candidate, only the checks of models run.

    Examples:
      python -m parity.check all --weights tiny
      python -m parity.check all --weights tiny --inject-fault erf-gelu
      python -m parity.check all --candidate my_gpt.py --output all.html
    """

    candidate: str | None = option(
        None,
        "Model to check instead of ours: FILE.py, FILE.py:NAME or MODULE:NAME. It is a function "
        "build(config, weights) that returns it, or a class, or a module.",
        records=True,
    )
    keep_going: bool = option(False, "Run the later checks after a failure too.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DriftOptions(ReportOptions):
    """What changed between versions, machines or states of the code?

    Compares reports of the other verbs, in the order given: every verdict, and the environments.
    For reports made with --fingerprints it names the tap that changed first between neighbours,
    how many changed and how far, and which operations changed by themselves. Changes are reported
    as numbers and never fail the check. No model is run.

    Examples:
      python -m parity.check layerwise --fingerprints --output here/layerwise.json
      python -m parity.check drift here there
    """

    runs: tuple[Path, ...] = argument(
        (),
        "Two or more runs. A run is a report, or a folder of JSON reports, one per check; a folder "
        "of such folders is several runs.",
        metavar="RUN",
    )
    require: tuple[str, ...] = option(
        (),
        "Name of a run that must be present; otherwise the result is inconclusive. Of a folder of "
        "runs only the required ones are read. May be repeated.",
        metavar="NAME",
    )
    same_code: bool = option(False, "Require every report to come from this version of the code.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelftestOptions(LoadOptions, ReportOptions):
    """Do the checks find every known fault, and where it is?

    Injects each fault of the registry, one at a time, and runs the cheapest check that must find
    it. A fault that survives, or is first seen elsewhere, fails the self-test. The report counts
    by family the faults killed, placed at the very tap and named, and gives the weakest one's
    margin. A model is cut to one block on its own clean input, so that full size takes minutes.

    Examples:
      python -m parity.check selftest --weights tiny
      python -m parity.check selftest --weights tiny --faults "gelu*"
      python -m parity.check selftest --weights surrogate --faults forward
    """

    faults: str = option(
        "*",
        "Run only faults whose name, kind or family matches this pattern: gelu*, training, mask.",
        records=True,
    )


def recorded_options(options: ReportOptions) -> dict[str, object]:
    """Return the options that decide the verdict and are not at their default, by name.

    A candidate's file has a digest beside its path, `candidate_file`: the same file may have
    another path elsewhere, and another file the same path. What the file imports is not in it.
    So have the files of a kernel and of a mapping, `kernel_file` and `map_file`.

    Raises:
        ParityError: One of the files cannot be read.
    """
    return with_digests(recorded(options))


def with_digests(found: dict[str, object]) -> dict[str, object]:
    """Return recorded options, those that name a file first and with its digest."""
    files = {
        **{
            name: re.sub(r"(?<=\.py):\w+$", "", str(found.get(name, "")))
            for name in ("candidate", "kernel")
        },
        "map": str(found.get("map", "")),
    }
    read = [name for name in found if files.get(name, "").endswith(".py") or name == "map"]
    first: dict[str, object] = {}
    for name in read:
        first |= {name: str(found.pop(name)), f"{name}_file": file_digest(files[name])}
    return first | found


def file_digest(path: str) -> str:
    """Return a file's digest as a report has it.

    Raises:
        ParityError: It cannot be read.
    """
    from parity.core.fingerprints import DIGITS

    with mapped_errors():
        return f"sha256 {hashlib.sha256(Path(path).read_bytes()).hexdigest()[:DIGITS]}"

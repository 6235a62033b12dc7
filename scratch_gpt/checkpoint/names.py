"""Our name of every tensor in a checkpoint, whatever wrote it.

GPT-1's tensors go by several names. Hugging Face puts `transformer.` before ours; wrappers
(DistributedDataParallel, torch.compile, FSDP, Lightning) put their own names anywhere; TensorFlow
ports write `gamma` and `beta`; the first PyTorch port writes `.w`, `.b` and `.g` and keeps both
embeddings in one table. The token embedding is also saved as the output head, or only as that.

`find_tensors` renames the tensors and leaves out the others. It returns one sentence for each
renaming and each kind of tensor that was left out; `strict` makes those an error.

Source: huggingface/pytorch-openai-transformer-lm model_pytorch.py (the first port);
transformers modeling_openai.py, modeling_utils.py `_load_pretrained_model`.
"""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from scratch_gpt.errors import CheckpointError, quote

Shapes = Mapping[str, tuple[int, ...]]

EMBEDDING = "tokens_embed.weight"
POSITIONS = "positions_embed.weight"
PREFIX = "transformer."

_WRAPPERS = {
    "module": "DataParallel, DistributedDataParallel and DeepSpeed",
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_forward_module": "Lightning",
}
"""Parts of a name that wrappers add, wherever they stand."""

HEADS = ("lm_head.weight", "lm_head.decoder.weight", "decoder.weight")
"""Other names of the token embedding: it is the output head, too."""

_JOINED = "embed.weight"
"""Both embeddings of the first port: a row for each token, then one for each position."""

_NAME = re.compile(
    r"(?P<prefix>(?:[^.]+\.)*?)"
    r"(?P<ours>h\.\d+\.(?:attn|mlp|ln_1|ln_2)\..+|(?:tokens_embed|positions_embed|embed|lm_head)\..+"
    r"|decoder\.weight|position_ids)"
)
_CONSTANT = re.compile(r"h\.\d+\.attn\.(bias|b|masked_bias)|position_ids")
_OLD_PARTS = (
    (re.compile(r"(h\.\d+\.ln_[12])\.gamma"), r"\1.weight"),
    (re.compile(r"(h\.\d+\.ln_[12])\.beta"), r"\1.bias"),
    (re.compile(r"(h\.\d+\.(?:attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj))\.w"), r"\1.weight"),
    (re.compile(r"(h\.\d+\.(?:attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj))\.b"), r"\1.bias"),
    (re.compile(r"(h\.\d+\.ln_[12])\.g"), r"\1.weight"),
    (re.compile(r"(h\.\d+\.ln_[12])\.b"), r"\1.bias"),
)
"""Older names of a parameter, and today's."""

_FOREIGN = (
    (re.compile(r"(.*\.)?(wte|wpe|ln_f)\.(weight|bias)"), "these are names of GPT-2"),
    (re.compile(r".*(lora_|adapter|base_layer).*"), "merge the adapter first (merge_and_unload)"),
    (
        re.compile(r".*\.(SCB|qweight|qzeros|scales|absmax|quant_map)"),
        "dequantise the weights first",
    ),
    (re.compile(r".*(_flat_param|flat_param_\d+)"), "gather FSDP's full state dict first"),
)
"""Signs that a file holds something else, and how to go on."""

_MOST_NAMES = 12


@dataclasses.dataclass(frozen=True)
class FoundTensors:
    """The model's tensors by our names, in the file's dtypes, and what was renamed or left out."""

    tensors: dict[str, Tensor]
    notes: list[str]


def find_tensors(
    found: Mapping[str, Tensor],
    wanted: Shapes,
    *,
    where: str,
    tied: bool = True,
    strict: bool = False,
) -> FoundTensors:
    """Return the tensors of a model under our names.

    Args:
        found: The file's tensors by the file's names.
        wanted: The shape of each of the model's tensors, by our name.
        where: The file, for messages.
        tied: The config's `tie_word_embeddings`. If it is false, the file must have a head, which
            must equal the token embedding.
        strict: Whether to reject other names than ours and Hugging Face's, and other tensors.

    Raises:
        CheckpointError: A tensor is missing, ambiguous or of another shape, or the head is not the
            token embedding; or `strict` rejects a name. The message lists all problems.
    """
    model = _choose([_Name.parse(name) for name in found], found, wanted, where)
    tensors, notes, problems = _tensors(model, found, wanted)
    of_heads = _tie(tensors, tied=tied)
    notes, problems = notes + of_heads[0], problems + of_heads[1]
    missing = [name for name in wanted if name not in tensors]
    shapes = [
        f"{quote(name)} is {list(tensors[name].shape)}, expected {list(shape)}"
        for name, shape in wanted.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    problems += _phrase("missing", map(quote, missing)) + _phrase("of another shape", shapes)
    used = {name.file for names in model.values() for name in names}
    others = [name for name in found if name not in used]
    if problems:
        what = f"its tensors are not this model's: {'; '.join(problems)}"
        raise CheckpointError(what, where=where, fix=_fix(found, tensors, wanted, missing))
    notes = [*_renamings(model), *notes, *_left_out(others, wanted)]
    if strict and notes:
        raise CheckpointError(
            f"strict reading rejects it: {'; '.join(notes)}",
            where=where,
            fix="read it without --strict, or save it with Hugging Face's names",
        )
    return FoundTensors({name: tensors[name] for name in wanted}, notes)


def count_known(names: Iterable[str]) -> int:
    """Return how many names are of a GPT-1's tensors."""
    return sum(bool(_Name.parse(name).ours) for name in names)


def unwrapped(name: str) -> str:
    """Return a name without the parts that wrappers add."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


@dataclasses.dataclass(frozen=True)
class _Name:
    """A file's name taken apart: wrappers, the prefix in front of `transformer.`, our name."""

    file: str
    ours: str
    prefix: str = ""
    wrappers: tuple[str, ...] = ()
    old: str = ""
    """Our name as the file spells it, if that is an older spelling."""

    @classmethod
    def parse(cls, name: str) -> "_Name":
        parts = name.split(".")
        wrappers = tuple(part for part in parts if part in _WRAPPERS)
        match = _NAME.fullmatch(unwrapped(name))
        if match is None:
            return cls(name, "")
        prefix = match["prefix"]
        while prefix.endswith(PREFIX):
            prefix = prefix.removesuffix(PREFIX)
        ours = match["ours"]
        for old, new in _OLD_PARTS:
            if old.fullmatch(ours):
                return cls(name, re.sub(old, new, ours), prefix, wrappers, ours)
        return cls(name, ours, prefix, wrappers)


_Model = dict[str, list[_Name]]
"""The names of one model's tensors, by our name; several if a tensor was saved several times."""


def _choose(
    names: Iterable[_Name], found: Mapping[str, Tensor], wanted: Shapes, where: str
) -> _Model:
    """Return the names of the one model in a file: those with the prefix that all of it has."""
    models: dict[str, _Model] = defaultdict(lambda: defaultdict(list))
    for name in names:
        if name.ours in wanted or name.ours in (*HEADS, _JOINED):
            models[name.prefix][name.ours].append(name)
    if not models:
        few = ", ".join(map(quote, list(found)[:3])) or "none at all"
        raise CheckpointError(
            f"none of the {len(wanted)} tensors is there; it has {len(found)}: {few}",
            where=where,
            fix=_foreign(found) or "check that the file and its config.json belong together",
        )

    def count(prefix: str) -> int:
        model = models[prefix]
        embedding = EMBEDDING in model or _JOINED in model or any(head in model for head in HEADS)
        positions = POSITIONS in model or _JOINED in model
        rest = sum(name in model for name in wanted if name not in (EMBEDDING, POSITIONS))
        return rest + embedding + positions

    whole = [prefix for prefix in models if count(prefix) == len(wanted)]
    if "" not in whole and len(whole) > 1:
        raise CheckpointError(
            f"it holds {len(whole)} models: {', '.join(map(quote, whole))}",
            where=where,
            fix="save the one that you mean alone",
        )
    return models["" if "" in whole else max(models, key=count)]


def _tensors(
    model: _Model, found: Mapping[str, Tensor], wanted: Shapes
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Return the tensors by our name, what to report about them, and the problems."""
    notes, problems, tensors = [], [], {}
    for ours, names in model.items():
        tensors[ours] = found[names[0].file]
        for name in names[1:]:
            if _same(tensors[ours], found[name.file]):
                notes.append(f"{quote(name.file)} repeats {quote(names[0].file)}")
            else:
                problems.append(f"{quote(names[0].file)} and {quote(name.file)} are both {ours}")
    if _JOINED in tensors and EMBEDDING not in tensors:
        table, rows = tensors.pop(_JOINED), wanted[EMBEDDING][0]
        tensors[EMBEDDING], tensors[POSITIONS] = table[:rows], table[rows:]
        notes.append(f"{_JOINED} is both embeddings: {rows} rows of tokens, then positions")
    return tensors, notes, problems


def _tie(tensors: dict[str, Tensor], *, tied: bool) -> tuple[list[str], list[str]]:
    """Remove the heads from the tensors; return what to report about them, and the problems."""
    notes, problems = [], []
    if not tied and HEADS[0] not in tensors:
        problems.append(f"tie_word_embeddings is false, and there is no {HEADS[0]}")
    for head in HEADS:
        saved = tensors.pop(head, None)
        if saved is None:
            continue
        if EMBEDDING in tensors and not _same(saved, tensors[EMBEDDING]):
            problems.append(f"{head} differs from {EMBEDDING}, which is the head of GPT-1")
        elif EMBEDDING in tensors and head != HEADS[0]:
            notes.append(f"{head} is a second name of {EMBEDDING}, equal to the bit")
        elif EMBEDDING not in tensors and tied:
            tensors[EMBEDDING] = saved
            notes.append(f"{head} is the token embedding: the file has no other")
    return notes, problems


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal, to the bit if their dtypes are equal."""
    if one.shape != other.shape:
        return False
    if one.dtype != other.dtype:
        return torch.equal(one.to(torch.float64), other.to(torch.float64))
    return torch.equal(*(x.contiguous().reshape(-1).view(torch.uint8) for x in (one, other)))


def _renamings(model: _Model) -> list[str]:
    """Return what was removed from names, and what was spelled in another way."""
    names = [name for saved in model.values() for name in saved]
    removed: dict[str, int] = defaultdict(int)
    for name in names:
        if name.wrappers:
            removed[".".join(dict.fromkeys(name.wrappers)) + "."] += 1
        if name.prefix:
            removed[name.prefix] += 1
        plain = {name.ours, PREFIX + name.ours}
        if not name.wrappers and not name.prefix and not name.old and name.file not in plain:
            removed[PREFIX] += 1
    notes = [f"{quote(text)} removed from {count} names" for text, count in removed.items()]
    parts = {
        (name.old.rpartition(".")[2], name.ours.rpartition(".")[2]) for name in names if name.old
    }
    if parts:
        notes.append(", ".join(f"{old} is {new}" for old, new in sorted(parts)))
    return notes


def _left_out(names: Iterable[str], wanted: Shapes) -> list[str]:
    """Return one note for each kind of tensor that is not the language model's."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for name in names:
        parsed = _Name.parse(name)
        if _CONSTANT.fullmatch(parsed.old or parsed.ours):
            continue  # causal masks and position numbers, which old versions saved
        block = re.match(r"h\.(\d+)\.", parsed.ours)
        if block and f"h.{block[1]}.ln_1.weight" not in wanted:
            kinds["beyond the config's n_layer, not checked"].append(name)
        elif re.match(r"(.*\.)?(\w*head\w*|score|classifier|clf|qa_outputs|summary)\.", name):
            kinds["another head, not checked"].append(name)
        else:
            kinds["not part of the model, not checked"].append(name)
    return [f"{listed(map(quote, names))}: {kind}" for kind, names in kinds.items()]


def listed(names: Iterable[str]) -> str:
    """Return the first names, and how many more there are."""
    whole = list(names)
    more = f" and {len(whole) - _MOST_NAMES} more" if len(whole) > _MOST_NAMES else ""
    return ", ".join(whole[:_MOST_NAMES]) + more


def _phrase(kind: str, names: Iterable[str]) -> list[str]:
    """Return their number and names, or nothing if there are none."""
    whole = list(names)
    return [f"{len(whole)} {kind}: {listed(whole)}"] if whole else []


def _foreign(found: Iterable[str]) -> str:
    """Return how to go on with a file of another kind, or nothing."""
    return next(
        (advice for sign, advice in _FOREIGN if any(sign.fullmatch(name) for name in found)), ""
    )


_CHECK = "check that the file and its config.json belong together"


def _fix(
    found: Mapping[str, Tensor], tensors: Mapping[str, Tensor], wanted: Shapes, missing: list[str]
) -> str:
    """Return what the user can do, with a guess at the cause."""
    if not missing:
        return _fix_shapes(tensors, wanted)
    blocks = {int(name.split(".")[1]) for name in tensors if name.startswith("h.")}
    absent = {int(name.split(".")[1]) for name in missing if name.startswith("h.")}
    if absent and blocks and min(absent) > max(blocks):
        return f"the file has {len(blocks)} blocks: check n_layer in config.json"
    return _foreign(found) or _CHECK


def _fix_shapes(tensors: Mapping[str, Tensor], wanted: Shapes) -> str:
    shapes = {name: tuple(tensors[name].shape) for name in wanted}
    wrong = [name for name in wanted if shapes[name] != wanted[name]]
    if not wrong:
        return "GPT-1's head is the embedding itself: tie them, or save the file that is meant"
    if all(shapes[name] == wanted[name][::-1] for name in wrong):
        return (
            "transpose all matrices of the blocks, the square attn.c_proj.weight too: GPT-1 has "
            "[in, out], nn.Linear [out, in]"
        )
    if all(shapes[name] == (1, *wanted[name]) for name in wrong):
        return "remove the first axis, of length 1, of these tensors"
    for name, field in ((EMBEDDING, "vocab_size"), (POSITIONS, "n_positions")):
        if wrong == [name] and shapes[name][1:] == wanted[name][1:]:
            return f"check {field} in config.json: the table has {shapes[name][0]} rows"
    return _CHECK


def as_float32(name: str, tensor: Tensor, where: str) -> tuple[Tensor, str]:
    """Return a tensor in float32, and what that changed: nothing for float32 and narrower floats.

    Raises:
        CheckpointError: A number is outside float32's range, or the tensor is complex.
    """
    if tensor.dtype in (torch.float32, torch.float16, torch.bfloat16):
        return tensor.float(), ""
    kind = str(tensor.dtype).removeprefix("torch.")
    is_real = not kind.startswith("complex")
    widened = tensor.float() if is_real else tensor
    if not is_real or not bool(torch.isfinite(widened).all()):
        raise CheckpointError(
            f"{quote(name)} is {kind}, and float32 does not hold all its numbers",
            where=where,
            fix="save the weights as float32, bfloat16 or float16",
        )
    exact = torch.equal(widened.to(tensor.dtype), tensor)
    return widened, f"{kind}, {'exact in' if exact else 'rounded to'} float32"

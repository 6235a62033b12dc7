"""Effect of every field of a Hugging Face `config.json` on this model.

Our fields and their aliases give the model's shape and constants. A few others would change what is
computed: any value but the usual one is an error. All the rest, whatever wrote it, is ignored;
`ignored_fields` names what a reader may not expect.
"""

from collections.abc import Collection, Mapping
from typing import Any

from scratch_gpt.errors import quote

ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
"""Other spellings that Hugging Face reads for our fields."""

CHANGES_FUNCTION: dict[str, tuple[tuple[object, ...], str]] = {
    "pruned_heads": (({}, None), "every block has all its heads here"),
    "quantization_config": ((None,), "dequantise the weights first"),
}
"""The values that leave GPT-1 as it is, and why no other is accepted."""

WITHOUT_EFFECT: dict[str, tuple[object, str]] = {
    "model_type": ("openai-gpt", "the tensors are a GPT-1's"),
    "n_ctx": (None, "it sized a buffer of old versions"),
    "n_special": (0, "special tokens are rows of the vocabulary"),
    "tie_word_embeddings": (True, "the file's head equals the token embedding"),
    "is_encoder_decoder": (False, "GPT-1 is a decoder alone"),
    "add_cross_attention": (False, "GPT-1 is a decoder alone"),
    "cross_attention_hidden_size": (None, "GPT-1 is a decoder alone"),
    "tie_encoder_decoder": (False, "GPT-1 is a decoder alone"),
    "chunk_size_feed_forward": (0, "GPT-1's MLP is never cut into chunks"),
}
"""The usual value, and why another has no effect. `n_ctx` is usual if it equals `n_positions`."""

_GENERATION = (
    *("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "decoder_start_token_id"),
    *("task_specific_params", "max_length", "min_length", "do_sample", "early_stopping"),
    *("num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p"),
    *("typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size"),
    *("encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences"),
    *("output_scores", "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id"),
    *("remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens"),
    "begin_suppress_tokens",
)
USUAL = frozenset(
    {
        *_GENERATION,
        # Bookkeeping of the file.
        *("_name_or_path", "_attn_implementation_autoset", "architectures", "transformers_version"),
        *("finetuning_task", "dtype", "torch_dtype"),
        # The form of Hugging Face's outputs.
        *("return_dict", "use_return_dict", "output_attentions", "output_hidden_states"),
        *("torchscript", "is_decoder"),
        # The other heads: multiple choice and classification.
        *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
        *("summary_first_dropout", "id2label", "label2id", "problem_type"),
        # Tokenizers, TensorFlow, and the special tokens of the 2018 port.
        *("tokenizer_class", "prefix", "tf_legacy_loss", "use_bfloat16", "predict_special_tokens"),
    }
)
"""Other fields that the released config and transformers 4.57 to 5.24 write."""


def config_values(fields: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of our fields from the fields of a Hugging Face config.

    Args:
        fields: The fields of the file.
        ours: The default of each of our fields, whose type a value must have.

    Raises:
        ValueError: A field is given twice with two values, has a value of another type, or changes
            what is computed. The message names all such fields.
    """
    problems = []
    spelled: dict[str, str] = {}
    for name in fields:
        first = spelled.setdefault(ALIASES.get(name, name), name)
        if fields[first] != fields[name]:
            problems.append(f"{name}={fields[name]!r} contradicts {first}={fields[first]!r}")
    problems += [
        f"{name} must be {allowed[0]!r}, got {fields[name]!r} ({reason})"
        for name, (allowed, reason) in CHANGES_FUNCTION.items()
        if name in fields and fields[name] not in allowed
    ]
    values = {name: fields[spelling] for name, spelling in spelled.items()}
    if "n_positions" not in values and "n_ctx" in values:
        values["n_positions"] = values["n_ctx"]
    values = {name: value for name, value in values.items() if name in ours}
    for name, value in values.items():
        kind = type(ours[name])
        if kind is float and type(value) is int and abs(value) < 1 << 53:
            values[name] = float(value)
        elif type(value) is not kind:
            huge = type(value) is int and abs(value) >= 1 << 53
            shown = "a whole number of 16 digits or more" if huge else quote(value)
            problems.append(f"{name} must be {_KINDS[kind]}, got {shown}")
    if problems:
        message = "this Hugging Face config is not a GPT-1 that we can build: "
        raise ValueError(message + "; ".join(problems))
    return values


_KINDS = {int: "a whole number", float: "a number", str: "text"}


def ignored_fields(fields: Mapping[str, Any], ours: Collection[str]) -> list[str]:
    """Return `name=value (reason)` of each ignored field that is not a usual one."""
    spellings = ("n_positions", "max_position_embeddings", "n_ctx")
    positions = next((fields[name] for name in spellings if name in fields), None)
    usual = {name: value for name, (value, _) in WITHOUT_EFFECT.items()} | {"n_ctx": positions}
    ignored = []
    for name, value in fields.items():
        if name in ours or name in ALIASES or name in CHANGES_FUNCTION or name in USUAL:
            continue
        if name not in WITHOUT_EFFECT:
            ignored.append(quote(name).strip("'"))
        elif value != usual[name]:
            ignored.append(f"{name}={quote(value)} ({WITHOUT_EFFECT[name][1]})")
    return ignored

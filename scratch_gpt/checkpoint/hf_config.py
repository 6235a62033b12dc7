"""What every field of a Hugging Face `OpenAIGPTConfig` means to this model.

Each field that transformers 4.57 to 5.24, the released `config.json` or its 2018 ancestor can
hold is one of ours, another spelling of one (`ALIASES`), required to hold one value
(`REQUIRED`), or dropped with a reason (`IGNORED`).
"""

from collections.abc import Collection, Mapping
from typing import Any

ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "n_ctx": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
"""Other spellings that Hugging Face reads for our fields; `n_ctx` is the 2018 file's."""

_DECODER = "GPT-1 is a decoder, alone"

REQUIRED: dict[str, tuple[object, str]] = {
    "model_type": ("openai-gpt", "another architecture"),
    "tie_word_embeddings": (True, "our head is the token embedding itself"),
    "is_encoder_decoder": (False, _DECODER),
    "add_cross_attention": (False, _DECODER),
    "cross_attention_hidden_size": (None, _DECODER),
    "tie_encoder_decoder": (False, _DECODER),
    "pruned_heads": ({}, "every block has all its heads here"),
    "chunk_size_feed_forward": (0, "a chunked MLP sums in another order"),
    "n_special": (0, "special tokens are rows of the vocabulary here"),
}
"""Fields that must hold one value, and why no other will do."""

_IGNORED: dict[str, tuple[str, ...]] = {
    "bookkeeping of the file; no operation reads it": (
        *("_name_or_path", "_attn_implementation_autoset", "architectures"),
        *("transformers_version", "finetuning_task"),
    ),
    "storage type of the weights; the loader states the one it uses": ("dtype",),
    "the older spelling of dtype": ("torch_dtype",),
    "changes what Hugging Face returns, not what it computes": (
        *("return_dict", "use_return_dict", "output_attentions", "output_hidden_states"),
        "torchscript",
    ),
    "GPT-1 is causal for any value": ("is_decoder",),
    "belongs to the multiple-choice head, which is not part of the language model": (
        *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
        "summary_first_dropout",
    ),
    "belongs to sequence classification": ("id2label", "label2id", "problem_type"),
    "read by tokenizers, not by the model": ("tokenizer_class", "prefix"),
    "read by the TensorFlow models only": ("tf_legacy_loss", "use_bfloat16"),
    "of the 2018 port, which had special tokens; nothing reads it now": ("predict_special_tokens",),
    "read by generation, not by the forward pass": (
        *("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "decoder_start_token_id"),
        *("task_specific_params", "max_length", "min_length", "do_sample", "early_stopping"),
        *("num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p"),
        *("typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size"),
        *("encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences"),
        *("output_scores", "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id"),
        *("remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens"),
        "begin_suppress_tokens",
    ),
}

IGNORED = {name: reason for reason, names in _IGNORED.items() for name in names}
"""Fields that are dropped, each with the reason why that cannot change a number."""


def config_values(fields: Mapping[str, Any], ours: Collection[str]) -> dict[str, Any]:
    """Return the values of our fields, named in `ours`, from `OpenAIGPTConfig.to_dict()`.

    Raises:
        ValueError: A field is unknown, is given twice with two values, or holds a value that this
            model does not implement. The message names all such fields.
    """
    problems = []
    first_spelling: dict[str, str] = {}
    for spelling, value in fields.items():
        first = first_spelling.setdefault(ALIASES.get(spelling, spelling), spelling)
        if fields[first] != value:
            problems.append(f"{spelling}={value!r} contradicts {first}={fields[first]!r}")
    values = {ALIASES.get(name, name): value for name, value in fields.items()}
    problems += [
        f"unknown field {name}={value!r}"
        for name, value in values.items()
        if name not in ours and name not in REQUIRED and name not in IGNORED
    ]
    problems += [
        f"{name} must be {wanted!r}, got {values[name]!r} ({reason})"
        for name, (wanted, reason) in REQUIRED.items()
        if name in values and values[name] != wanted
    ]
    if problems:
        raise ValueError(
            f"this Hugging Face config is not a GPT-1 that we can build: {'; '.join(problems)}"
        )
    return {name: value for name, value in values.items() if name in ours}

"""What every field of a Hugging Face `OpenAIGPTConfig` means to this model.

Each field that transformers 4.57 to 5.23, the released `config.json` or its 2018 ancestor can
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

_MULTIPLE_CHOICE = "belongs to the multiple-choice head, which is not part of the language model"
_OUTPUT_FORM = "changes what Hugging Face returns, not what it computes"
_CLASSIFICATION = "belongs to sequence classification"
_GENERATION = "read by generation, not by the forward pass"
_BOOKKEEPING = "bookkeeping of the file; no operation reads it"
_TOKENIZER = "read by tokenizers, not by the model"
_OTHER_FRAMEWORK = "read by the TensorFlow models only"

_GENERATION_FIELDS = (
    *("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "decoder_start_token_id"),
    *("task_specific_params", "max_length", "min_length", "do_sample", "early_stopping"),
    *("num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p"),
    *("typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size"),
    *("encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences"),
    *("output_scores", "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id"),
    *("remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens"),
    "begin_suppress_tokens",
)

IGNORED: dict[str, str] = {
    "_name_or_path": _BOOKKEEPING,
    "_attn_implementation_autoset": _BOOKKEEPING,
    "architectures": _BOOKKEEPING,
    "transformers_version": _BOOKKEEPING,
    "finetuning_task": _BOOKKEEPING,
    "dtype": "storage type of the weights; the loader states the one it uses",
    "torch_dtype": "the older spelling of dtype",
    "return_dict": _OUTPUT_FORM,
    "use_return_dict": _OUTPUT_FORM,
    "output_attentions": _OUTPUT_FORM,
    "output_hidden_states": _OUTPUT_FORM,
    "torchscript": _OUTPUT_FORM,
    "is_decoder": "GPT-1 is causal whatever this says",
    "summary_type": _MULTIPLE_CHOICE,
    "summary_use_proj": _MULTIPLE_CHOICE,
    "summary_activation": _MULTIPLE_CHOICE,
    "summary_proj_to_labels": _MULTIPLE_CHOICE,
    "summary_first_dropout": _MULTIPLE_CHOICE,
    "id2label": _CLASSIFICATION,
    "label2id": _CLASSIFICATION,
    "problem_type": _CLASSIFICATION,
    "tokenizer_class": _TOKENIZER,
    "prefix": _TOKENIZER,
    "tf_legacy_loss": _OTHER_FRAMEWORK,
    "use_bfloat16": _OTHER_FRAMEWORK,
    "predict_special_tokens": "of the 2018 port, which had special tokens; nothing reads it now",
} | dict.fromkeys(_GENERATION_FIELDS, _GENERATION)
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
        message = "this Hugging Face config is not a GPT-1 that we can build: "
        raise ValueError(message + "; ".join(problems))
    return {name: value for name, value in values.items() if name in ours}

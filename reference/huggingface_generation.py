"""Hugging Face's `generate` as a reference, with every default passed explicitly.

Defaults differ between versions: the length is 20 tokens in all in version 4 and 20 new ones in 5,
the mask is guessed from the padding token. The model's own generation config is replaced during
the call: version 5 takes missing values from it, 4.50 and later also those given at their default.
GPT-1 has no cache there: every token runs the whole text again. Whatever the model's dtype, logits
are cast to float32 first, and the sums of a beam search are float32.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    OpenAIGPTLMHeadModel,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

PROCESSORS: Mapping[str, type[LogitsProcessor]] = {
    "repetition_penalty": RepetitionPenaltyLogitsProcessor,
    "no_repeat_ngram_size": NoRepeatNGramLogitsProcessor,
    "temperature": TemperatureLogitsWarper,
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
}
"""Each rule on logits, by the field of the generation config that selects it."""

_NEUTRAL: Mapping[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
"""At these values a rule does nothing; the default of version 4 is `top_k=50`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Continuation:
    """Texts of `generate`, prompts included."""

    token_ids: Tensor  # `[rows length]`
    logits: Tensor  # `[step rows vocab]`, float32, before any rule
    processed: Tensor  # `[step rows vocab]`, after every rule, in the library's own order


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beams:
    """Texts of a beam search, prompts included, each prompt's best first."""

    token_ids: Tensor  # `[batch * returned, length]`
    scores: Tensor  # `[batch * returned]`, float32, penalized for length


def process_logits(name: str, value: float, logits: Tensor, token_ids: Tensor) -> Tensor:
    """Return a copy of logits `[batch vocab]` after one rule alone, in their own dtype.

    `name` is a key of `PROCESSORS`, `value` its argument. The text so far is `[batch time]`.
    """
    rule = cast("Any", PROCESSORS[name])(value)
    return cast("Tensor", rule(token_ids, logits.clone()))


def continue_text(
    model: OpenAIGPTLMHeadModel,
    token_ids: Tensor,
    *,
    max_new_tokens: int,
    sampled: bool = False,
    rules: Mapping[str, Any] | None = None,
) -> Continuation:
    """Return prompts `[batch time]` with exactly so many new tokens: GPT-1 has no end token.

    They are the likeliest, or sampled with PyTorch's default generator. `rules` are fields of the
    generation config, of `PROCESSORS`.
    """
    made = _generated(
        model,
        token_ids,
        max_new_tokens=max_new_tokens,
        do_sample=sampled,
        **(dict(_NEUTRAL) if sampled else {}) | dict(rules or {}),
    )
    return Continuation(
        token_ids=made.sequences,
        logits=torch.stack(made.logits),
        processed=torch.stack(made.scores),
    )


def beam_search(  # noqa: PLR0913 - a search's settings
    model: OpenAIGPTLMHeadModel,
    token_ids: Tensor,
    *,
    beams: int,
    max_new_tokens: int,
    length_penalty: float = 1.0,
    early_stopping: bool | Literal["never"] = False,
    end_id: int | None = None,
    returned: int = 1,
    rules: Mapping[str, Any] | None = None,
) -> Beams:
    """Return `returned` texts for each prompt `[batch time]` by beam search, the best ones.

    A text ends at `end_id`; shorter ones are padded with it. `beams` is 2 or more: with one the
    library decodes greedily and returns no scores. `rules` are fields of the generation config,
    except those of sampling. The library documents `length_penalty` and `early_stopping`.
    """
    made = _generated(
        model,
        token_ids,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=beams,
        num_return_sequences=returned,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        eos_token_id=end_id,
        pad_token_id=end_id,
        **(rules or {}),
    )
    return Beams(token_ids=made.sequences, scores=made.sequences_scores)


def _generated(model: OpenAIGPTLMHeadModel, token_ids: Tensor, **settings: Any) -> Any:  # noqa: ANN401 - one of several library types
    """Return the full output of `generate` with an explicit config instead of the model's own."""
    unknown = sorted(name for name in settings if not hasattr(GenerationConfig(), name))
    if unknown:
        message = f"this version of transformers has no setting {unknown}, and would ignore it"
        raise ValueError(message)
    config = GenerationConfig(**_COMMON | settings)
    mask = torch.ones_like(token_ids)
    own, model.generation_config = model.generation_config, GenerationConfig()  # no value is used
    try:
        return cast("Any", model).generate(token_ids, attention_mask=mask, generation_config=config)
    finally:
        model.generation_config = own


_COMMON: dict[str, Any] = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "min_length": 0,
    "use_cache": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,  # nothing ends a text; 4.x takes a prompt's last token for padding
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "return_dict_in_generate": True,
    "output_scores": True,
    "output_logits": True,
}

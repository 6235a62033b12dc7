"""GPT-1, from token ids to logits."""

import os
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from scratch_gpt.config import GPTConfig
from scratch_gpt.dropout import dropout
from scratch_gpt.embeddings import Embedding, embed
from scratch_gpt.input_checks import check_inputs
from scratch_gpt.kernels.backends import backend_named, compiled_block
from scratch_gpt.kv_cache import KVCache
from scratch_gpt.layer_norm import LayerNorm
from scratch_gpt.tap import Tap, no_tap, prefixed
from scratch_gpt.transformer_block import TransformerBlock

if TYPE_CHECKING:
    from scratch_gpt.generation.sampling import Rules


class GenerateOptions(TypedDict, total=False):
    """The options of `GPT.generate` beside `max_new_tokens`; a type checker finds a misspelt one.

    The first eight have Hugging Face's names and meanings. The classes `Rules` and `Request` of
    `scratch_gpt.generation` describe the others.
    """

    do_sample: bool
    temperature: float | None
    top_k: int | None
    top_p: float | None
    num_beams: int
    num_return_sequences: int
    eos_token_id: int | None
    repetition_penalty: float
    no_repeat_ngram_size: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    seed: int
    streams: tuple[int, ...]
    overflow: str
    rules: "Rules"
    sampled: bool
    beams: int
    samples: int
    end_id: int | None


class GPT(nn.Module):
    """The language model: embeddings, post-norm blocks, and the token embedding as output head.

    There is no final normalization: the last block's `ln_2` comes right before the head. The head
    has no weight of its own.
    """

    def __init__(self, config: GPTConfig, *, backend: str = "plain") -> None:
        """Build a model with random weights.

        Args:
            config: The model's shape and constants.
            backend: A key of `scratch_gpt.kernels.backends.BACKENDS`.

        Raises:
            ValueError: No backend has that name.
        """
        super().__init__()
        self.config = config
        self.backend = backend
        self._backend = backend_named(backend)
        self.tokens_embed = Embedding(config.vocab_size, config.n_embd)
        self.positions_embed = Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(
            TransformerBlock(config, self._backend) for _ in range(config.n_layer)
        )
        self.reset_parameters()

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: KVCache | None = None,
        tap: Tap | None = None,
    ) -> Float[Tensor, "batch time vocab"]:
        """Return the logits of the token after each position.

        Args:
            token_ids: `[batch time]`, int32 or int64.
            positions: `[batch time]` or `[1 time]`, int32 or int64. If None, they count up from
                the cache's length, or from 0.
            attention_mask: `[batch time_k]`, bool, False at padding; None without padding. With a
                cache it covers the cached tokens too.
            cache: Holds the tokens before these; the new ones are added to it.
            tap: Called with every named tensor; its result is used instead.

        Raises:
            ValueError: An input is invalid; see `scratch_gpt.input_checks`.

        Source: finetune-transformer-lm train.py `model` (a69b5c4).
        """
        hidden = self.hidden(token_ids, positions, attention_mask, cache, tap)
        return (tap or no_tap)("logits", self._backend.head(hidden, self.tokens_embed.weight))

    def hidden(
        self,
        token_ids: Tensor,
        positions: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: KVCache | None = None,
        tap: Tap | None = None,
    ) -> Float[Tensor, "batch time width"]:
        """Return the last block's output, the input of the head; arguments as in `forward`."""
        tap = tap or no_tap
        cached = 0 if cache is None else cache.length
        self._check(token_ids, positions, attention_mask, cache)
        x = embed(self.tokens_embed, self.positions_embed, token_ids, positions, tap, cached)
        x = tap("embeddings", dropout(x, self.config.embd_pdrop if self.training else 0.0))
        for index, block in enumerate(self.h):
            if self._backend.compiled:
                x = compiled_block()(block, x, attention_mask)  # type: ignore[arg-type]
                x = tap(f"h.{index}.ln_2", x)
            else:
                # Passed only with a cache: a user's own block may not accept one.
                options = {} if cache is None else {"cache": cache.block(index)}
                x = block(x, attention_mask, prefixed(f"h.{index}", tap), **options)
        if cache is not None:
            cache.length += token_ids.shape[1]
        return x

    def _check(
        self,
        token_ids: Tensor,
        positions: Tensor | None,
        attention_mask: Tensor | None,
        cache: KVCache | None,
    ) -> None:
        """Check the inputs before any weight is used."""
        table = self.tokens_embed.weight
        check_inputs(
            token_ids,
            positions,
            attention_mask,
            config=self.config,
            device=table.device,
            cached=0 if cache is None else cache.length,
        )
        if cache is not None:
            if self._backend.compiled:
                raise ValueError(
                    f"the backend {self.backend!r} takes no cache; use with_backend('fused')"
                )
            cache.check(token_ids, self.config, table)

    def generate(
        self,
        token_ids: Int[Tensor, "batch time"],
        *,
        max_new_tokens: int,
        **options: Unpack[GenerateOptions],
    ) -> Int[Tensor, "texts length"]:
        """Return prompts and their continuations, `[batch * num_return_sequences, length]`.

        Always uses the backend `fused` with a cache, in evaluation mode and without gradients. The
        default is greedy. `temperature`, `top_k` or `top_p` imply sampling, unless `do_sample` or
        `num_beams` forbids it.

        Args:
            token_ids: `[batch time]`, prompts of one length, int32 or int64.
            max_new_tokens: Number of tokens to add at most.
            **options: `do_sample`, `num_beams`, `num_return_sequences` and `eos_token_id`, or by
                our own names `sampled`, `beams`, `samples` and `end_id`; and every other field of
                `scratch_gpt.generation.generate.Request` (`seed`, `overflow`, ...) and of
                `scratch_gpt.generation.sampling.Rules` (`temperature`, `top_k`, ...).

        Raises:
            ValueError: A prompt or an option is invalid, or two options contradict each other; the
                message names them.
            TypeError: There is no such option, or one is given by both its names.
        """
        from scratch_gpt.generation.generate import Request, generate

        return generate(self, token_ids, Request.of(max_new_tokens, **options))

    def with_backend(self, backend: str) -> "GPT":
        """Return a model that shares this one's parameters and runs by another backend.

        Raises:
            ValueError: No backend has that name.
        """
        with torch.device("meta"):
            twin = GPT(self.config, backend=backend)
        for own, other in zip(self.modules(), twin.modules(), strict=True):
            for name, parameter in own.named_parameters(recurse=False):
                setattr(other, name, parameter)
        return twin.train(self.training)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write a folder that `from_pretrained` and Hugging Face read; see `checkpoint`."""
        from scratch_gpt.checkpoint import checkpoint

        checkpoint.save_pretrained(self, directory)

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str], *, backend: str = "fused") -> "GPT":
        """Return the model in a folder, in evaluation mode; see `checkpoint`.

        The default backend is the fastest on a CPU; `plain` is the one to read. Nothing is
        downloaded: `parity.load_pretrained` takes the name of a repository of the hub.
        """
        from scratch_gpt.checkpoint import checkpoint

        return checkpoint.from_pretrained(directory, backend=backend)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw new weights: normal matrices, gains of 1, biases of 0.

        `initializer_range` is the standard deviation.

        Source: Radford et al. 2018, section 4.1; train.py `conv1d`, `norm` (a69b5c4).
        """
        norms = {f"{n}.weight" for n, m in self.named_modules() if isinstance(m, LayerNorm)}
        for name, parameter in self.named_parameters():
            if parameter.device.type == "meta":  # it has no values
                continue
            if parameter.ndim == 2:  # noqa: PLR2004 - a matrix
                parameter.normal_(0.0, self.config.initializer_range, generator=generator)
            else:
                parameter.fill_(1.0 if name in norms else 0.0)

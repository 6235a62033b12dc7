"""GPT-1 as a PyTorch user would write it: `nn.Linear`, `nn.LayerNorm`, SDPA and `functional.gelu`.

A peer whose time is compared with ours. Its parameters have our names; matrices are `[out in]`.
"""

from torch import Tensor, nn
from torch.nn import functional

from scratch_gpt.config import GPTConfig
from scratch_gpt.model import GPT


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention's output, `[batch time width]`."""
        batch, time, width = x.shape
        query, key, value = (
            part.view(batch, time, self.n_head, -1).transpose(1, 2)
            for part in self.c_attn(x).split(width, dim=-1)
        )
        context = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        output: Tensor = self.c_proj(context.transpose(1, 2).reshape(x.shape))
        return output


class MLP(nn.Module):
    """Two layers with GELU in between."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output, `[batch time width]`."""
        output: Tensor = self.c_proj(functional.gelu(self.c_fc(x), approximate="tanh"))
        return output


class Block(nn.Module):
    """A block, normalized after each residual sum."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(config), MLP(config)
        self.ln_1 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output, `[batch time width]`."""
        x = self.ln_1(x + self.attn(x))
        output: Tensor = self.ln_2(x + self.mlp(x))
        return output


class Textbook(nn.Module):
    """The model without dropout, with the weights of one of ours."""

    def __init__(self, ours: GPT) -> None:
        super().__init__()
        config = ours.config
        self.tokens_embed = nn.Embedding(config.vocab_size, config.n_embd)
        self.positions_embed = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        given = {name: _turned(name, p.detach()) for name, p in ours.named_parameters()}
        self.load_state_dict(given)

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return the logits `[batch time vocab]`; with targets `[batch time]`, the mean loss."""
        x = self.tokens_embed(ids) + self.positions_embed.weight[: ids.shape[1]]
        for block in self.h:
            x = block(x)
        logits = functional.linear(x, self.tokens_embed.weight)
        if targets is None:
            return logits
        return functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradient of every parameter, in our layout."""
        return {n: _turned(n, p.grad) for n, p in self.named_parameters() if p.grad is not None}


def _turned(name: str, tensor: Tensor) -> Tensor:
    """Return a matrix of a linear layer transposed, any other tensor as it is."""
    return tensor.T if tensor.ndim > 1 and "embed" not in name else tensor

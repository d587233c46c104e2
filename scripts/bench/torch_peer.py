"""The decoder of `tokens_per_second.py` in PyTorch: pre-norm, no biases, tied embeddings."""

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """Attention and feed-forward: GPT-2's choices, or rotary positions, normed queries and relu^2."""

    def __init__(self, heads: int, width: int, length: int, gpt2: bool) -> None:
        super().__init__()
        self.heads, self.gpt2 = heads, gpt2
        self.norm1, self.norm2 = norm(width, gpt2), norm(width, gpt2)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        if not gpt2:
            self.q_norm, self.k_norm = norm(width // heads, gpt2), norm(width // heads, gpt2)
            half = width // heads // 2
            angles = torch.arange(length)[:, None] * 10_000.0 ** (-torch.arange(half) / half)
            self.cos, self.sin = angles.cos(), angles.sin()

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Rotary positions of [batch, heads, length, head_dim]."""
        left, right = x.chunk(2, dim=-1)
        cos, sin = self.cos, self.sin
        return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        parts = self.qkv(self.norm1(x)).split(width, dim=-1)
        q, k, v = (y.view(batch, length, self.heads, -1).transpose(1, 2) for y in parts)
        if not self.gpt2:
            q, k = self.rotate(self.q_norm(q)), self.rotate(self.k_norm(k))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        hidden = self.up(self.norm2(x))
        hidden = (
            functional.gelu(hidden, approximate="tanh")
            if self.gpt2
            else functional.relu(hidden).square()
        )
        return x + self.down(hidden)


class Transformer(nn.Module):
    """int64[batch, length] tokens -> float32[batch, length, vocab] logits."""

    def __init__(
        self, layers: int, heads: int, width: int, length: int, vocab: int, *, gpt2: bool
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.positions = nn.Parameter(torch.randn(length, width) * 0.02) if gpt2 else None
        self.blocks = nn.ModuleList(Block(heads, width, length, gpt2) for _ in range(layers))
        self.norm = norm(width, gpt2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        if self.positions is not None:
            x = x + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.embedding.weight.T


def norm(width: int, gpt2: bool) -> nn.Module:
    """LayerNorm without bias, or RMSNorm."""
    return nn.LayerNorm(width, bias=False) if gpt2 else nn.RMSNorm(width)

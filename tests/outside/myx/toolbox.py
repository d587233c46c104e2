import flax.linen as nn


class Layer(nn.Module):
    """A block of flax's own attention, without axis names."""

    heads: int = 2
    cross: bool = False

    @nn.compact
    def __call__(self, x, mask=None, memory=None, memory_mask=None):
        d = x.shape[-1]
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads)(y, y, mask=mask)
        if self.cross:
            y = nn.LayerNorm()(x)
            attend = nn.MultiHeadDotProductAttention(self.heads)
            x = x + attend(y, memory, mask=memory_mask)
        y = nn.LayerNorm()(x)
        return x + nn.Dense(d)(nn.gelu(nn.Dense(4 * d)(y)))

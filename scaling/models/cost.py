"""What a model costs, stated by the model itself; checked against its parameters when it is built."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one unit (a token, an image) passes through; multiply-adds in the forward pass.

    Attributes:
      body: parameters that are neither embedding tables nor the output matrix.
      embedding: parameters of token and position tables.
      head: parameters of an output matrix of its own; 0 where it is the embedding table.
      matmul: multiply-adds with weights, the head's left out.
      head_matmul: multiply-adds of the head over a vocabulary; 0 where it belongs to the body.
      attention: multiply-adds of scores and of weighted values, over all pairs.
      attention_causal: the same, only over the pairs that a causal mask leaves.
      first: the part of `matmul` whose input needs no gradient.
      idle: parameters of the body that a unit does not pass through (experts not chosen).
    """

    body: int
    matmul: int
    embedding: int = 0
    head: int = 0
    head_matmul: int = 0
    attention: float = 0
    attention_causal: float = 0
    first: int = 0
    idle: int = 0

"""Recurrent language models: GRU and LSTM layers, scanned over time.

Legend: B batch, T time, W width of a layer and of its state, J gates times width, V vocabulary.

A layer computes its inputs' part of the gates for all times in one product, then scans over time
(`scaling.ops.recurrence`). The state of every layer is float32.

    GRU   r, z = sigmoid(x + h U);  n = tanh(x + r * (h U));  h = (1 - z) n + z h
          with the reset gate after the product (Cho et al. 2014, 1406.1078, as cuDNN and
          `flax.linen.GRUCell` have it), so that a step is one product.
    LSTM  i, f, g, o of x + h U;  c = sigmoid(f) c + sigmoid(i) tanh(g);  h = sigmoid(o) tanh(c)
          (Hochreiter & Schmidhuber 1997 with Gers' forget gate), the forget gate's bias starts at 1
          (Jozefowicz et al. 2015).

The carried state: with a mutable collection "carry" the state before the first token is read from it
and the one after the last token put there. Gradients stop at it, since it comes in as state: this is
backpropagation truncated to T steps. Without the collection a row starts from zero.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.configs.errors import ConfigError
from scaling.configs.types import Fraction, PositiveInt
from scaling.models.cost import Cost
from scaling.models.dims import known
from scaling.models.layers import Dense, Initializer, fan_in, inside
from scaling.models.next_token import NextToken
from scaling.models.norm import LayerNorm, RMSNorm
from scaling.ops import constrain
from scaling.ops.matmul import lookup
from scaling.ops.recurrence import Cell, State, recurrence


def gru_step(state: State, x_BJ: jax.Array, gates_BJ: jax.Array) -> State:
    """One step of a GRU; see the module."""
    (h_BW,) = state
    x_r, x_z, x_n = jnp.split(x_BJ, 3, axis=-1)
    h_r, h_z, h_n = jnp.split(gates_BJ, 3, axis=-1)
    reset_BW, z_BW = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
    new_BW = jnp.tanh(x_n + reset_BW * h_n)
    return (new_BW + z_BW * (h_BW - new_BW),)


def lstm_step(state: State, x_BJ: jax.Array, gates_BJ: jax.Array) -> State:
    """One step of an LSTM; see the module."""
    _, c_BW = state
    i, f, g, o = jnp.split(x_BJ + gates_BJ, 4, axis=-1)
    c_BW = jax.nn.sigmoid(f) * c_BW + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c_BW), c_BW


class Kind(NamedTuple):
    """A kind of recurrent layer.

    Attributes:
      gates: J / W.
      states: names of the arrays of its state, the output first.
      step: one step in time, element by element.
      remember: the gate whose bias starts at 1; None for none.
    """

    gates: int
    states: tuple[str, ...]
    step: Cell
    remember: int | None = None


KINDS: Mapping[str, Kind] = {
    "gru": Kind(3, ("h",), gru_step),
    "lstm": Kind(4, ("h", "c"), lstm_step, remember=1),
}


class RNN(NextToken):
    """A stack of recurrent layers between an embedding and a head.

    Attributes:
      num_layers: recurrent layers.
      model_dim: W, of the embedding and of every layer.
      cell: what a layer is made of, see the module.
      residual: x + layer(RMSNorm(x)), and a norm before the head; without it a layer reads the plain
        output of the one below, as in the classical stacks.
      dropout: rate on the embedding and on the output of each layer, not from time to time
        (Zaremba et al. 2014, 1409.2329).
      init_scale: multiplies the standard deviation of the initial matrices: sqrt(1 / fan in), and
        orthogonal for each gate's recurrent matrix.
    """

    num_layers: PositiveInt = 2
    model_dim: PositiveInt = 256
    cell: Literal["gru", "lstm"] = "lstm"
    residual: bool = False
    dropout: Fraction = 0.0

    # With a mutable collection "cache" it is applied to the next tokens alone; with "carry" its state
    # goes from window to window.
    caches: ClassVar[bool] = True
    carries: ClassVar[bool] = True

    def setup(self) -> None:  # noqa: D102
        width, dtype = self.model_dim, self.compute_dtype
        self.embedding = self.make_table("embedding", self.vocab_size, "vocab")
        self.layers = [
            Layer(self.cell, width, self.init_scale, dtype) for _ in range(self.num_layers)
        ]
        self.drop = nn.Dropout(self.dropout)
        if self.residual:
            self.norms = [RMSNorm(1e-6, "float32") for _ in range(self.num_layers + 1)]
        if not self.tie_embeddings:
            self.head = self.make_head()

    def hidden(
        self,
        inputs_BT: jax.Array,
        segments_BT: jax.Array | None = None,
        positions_BT: jax.Array | None = None,
        *,
        train: bool,
    ) -> jax.Array:
        """What `head_kernel` multiplies, [B, T, W] of the compute type.

        Args:
          inputs_BT: int32 tokens.
          segments_BT: int32 document of each token: the state starts anew where it changes, and at
            the first token unless its number is 0, which says that the window goes on with the
            document of the window before. None: one document.
          positions_BT: not read; a recurrent model knows its place.
          train: whether dropout is on; it draws from the `dropout` random stream.
        """
        del positions_BT
        keep_BT = None
        if segments_BT is not None:
            before_BT = jnp.pad(segments_BT, ((0, 0), (1, 0)))[:, :-1]
            keep_BT = (segments_BT == before_BT).astype(jnp.float32)
        x_BTW = self.drop(lookup(self.embedding, inputs_BT), deterministic=not train)
        x_BTW = constrain(x_BTW, ("batch", "length", "embed"))
        for i, layer in enumerate(self.layers):
            y_BTW = layer(self.norms[i](x_BTW) if self.residual else x_BTW, keep_BT)
            y_BTW = self.drop(y_BTW, deterministic=not train)
            x_BTW = constrain(
                x_BTW + y_BTW if self.residual else y_BTW, ("batch", "length", "embed")
            )
        x_BTW = self.norms[-1](x_BTW) if self.residual else x_BTW
        return x_BTW.astype(self.compute_dtype)

    def cost(self, seq_len: int) -> Cost:
        """What a token passes through; the same at any sequence length."""
        del seq_len
        width, gates = self.model_dim, KINDS[self.cell].gates
        matmul = self.num_layers * 2 * gates * width**2
        norms = (self.num_layers + 1) * width if self.residual else 0
        table = known("vocab_size", self.vocab_size) * width
        return Cost(
            body=matmul + self.num_layers * gates * width + norms,
            matmul=matmul,
            embedding=table,
            head=0 if self.tie_embeddings else table,
            head_matmul=table,
        )


class Layer(nn.Module):
    """One recurrent layer of W units; `cell` is one of `KINDS`, `dtype` the type of the products."""

    cell: str
    width: int
    init_scale: float
    dtype: str

    @nn.compact
    def __call__(self, x_BTW: jax.Array, keep_BT: jax.Array | None) -> jax.Array:
        """Outputs float32 [B, T, W]; `keep_BT` is 0 where the state starts anew, None nowhere."""
        kind = KINDS[self.cell]
        gates, axes, init = kind.gates * self.width, ("embed", None), fan_in(self.init_scale)
        inputs = Dense(gates, axes, init, dtype=self.dtype, name="inputs")
        orthogonal = nn.with_partitioning(orthogonal_gates(self.init_scale), axes)
        kernel_WJ = self.param("recurrent", orthogonal, (self.width, gates), jnp.float32)
        biases = nn.with_partitioning(gate_biases(self.width, kind.remember), (None,))
        bias_J = self.param("bias", biases, (gates,), jnp.float32)
        x_BTJ = inputs(x_BTW).astype(jnp.float32) + bias_J[None, None]
        state, put = self._carried(kind.states, x_BTW.shape[0])
        kernel_WJ = kernel_WJ.astype(self.dtype)
        h_BTW, last = recurrence(kind.step, x_BTJ, kernel_WJ, state, keep_BT, axes)
        put(last)
        return h_BTW

    def _carried(self, names: tuple[str, ...], rows: int) -> tuple[State, Callable[[State], None]]:
        """The state before the first token, and where to put the one after the last."""
        zeros = nn.with_partitioning(jnp.zeros, ("batch", None))
        shape, starting = (rows, self.width), self.is_initializing()
        decoding = self.is_mutable_collection("cache") and not starting
        collection = "cache" if decoding else "carry"
        if not self.is_mutable_collection(collection):
            return tuple(jnp.zeros(shape) for _ in names), lambda last: None
        held = [self.variable(collection, name, zeros, shape) for name in names]

        def put(last: State) -> None:
            for variable, value in zip(held, last, strict=True):
                variable.value = variable.value if starting else value

        return tuple(variable.value for variable in held), put


def bidirectional(
    x_BTD: jax.Array,
    length_B: jax.Array,
    *,
    layers: int,
    init_scale: float,
    dtype: str,
    drop: nn.Module,
) -> jax.Array:
    """Layers of two GRUs of D / 2 units, one in each direction, as a part of the model that calls it.

    x + drop(both(LayerNorm(x))), and a norm behind. The second of a layer reads from the last of the
    `length_B` tokens that count, what is behind them being padding; other arguments as of `Layer`.

    Raises:
      ConfigError: D is odd.
    """
    width = x_BTD.shape[-1]
    if width % 2:
        raise ConfigError("model.model_dim", f"is {width}", "make it even: each direction has half")
    # Backwards the state is zero before the last that counts.
    goes_on_BT = inside(length_B - 1, x_BTD.shape[1]).astype(jnp.float32)
    for i in range(layers):
        y_BTD = LayerNorm(dtype=dtype, name=f"norm_{i}")(x_BTD)
        ahead, behind = (
            Layer("gru", width // 2, init_scale, dtype, name=f"{way}_{i}")
            for way in ("forward", "backward")
        )
        ways = (ahead(y_BTD, None), behind(y_BTD[:, ::-1], goes_on_BT[:, ::-1])[:, ::-1])
        y_BTD = drop(jnp.concatenate(ways, axis=-1))
        x_BTD = constrain(x_BTD + y_BTD.astype(x_BTD.dtype), ("batch", "length", "embed"))
    return LayerNorm(dtype=dtype, name="final_norm")(x_BTD)


def orthogonal_gates(scale: float) -> Initializer:
    """An orthogonal matrix [W, W] for each gate, side by side (Saxe et al. 2013, 1312.6120)."""
    one = nn.initializers.orthogonal(scale)

    def init(key: jax.Array, shape: tuple[int, int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        width, total = shape
        keys = jax.random.split(key, total // width)
        return jnp.concatenate([one(k, (width, width), dtype) for k in keys], axis=1)

    return init


def gate_biases(width: int, remember: int | None) -> Initializer:
    """Zeros, and ones for the gate `remember`."""

    def init(key: jax.Array, shape: tuple[int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        del key
        gate = jnp.arange(shape[0]) // width
        return (gate == (-1 if remember is None else remember)).astype(dtype)

    return init

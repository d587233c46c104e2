"""Next-token prediction: nats per token, bits per byte, accuracy.

Legend: B batch, T time, D model width, V vocabulary.
"""

import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from scaling.configs import ConfigError
from scaling.configs.types import RuntimeFloat, RuntimeProbability
from scaling.ops.cross_entropy import chunked_loss, cross_entropy, smoothed, softcap
from scaling.tasks.base import (
    CARRY,
    Batch,
    Context,
    Evaluation,
    Hparams,
    Loss,
    LossFunction,
    PyTree,
    Task,
    TaskContext,
    Total,
    Totals,
    Variables,
    call,
    means,
    scoring,
    without_carry,
)
from scaling.tasks.generate import Generate, make_generate
from scaling.tasks.keys import abstract_key
from scaling.tasks.losses import mean_loss, summed


def language_model(
    context: TaskContext,
    *,
    z_loss: RuntimeFloat = 0.0,
    label_smoothing: RuntimeProbability = 0.0,
) -> Task:
    """Next-token prediction with a decoder.

    The model is called as model(inputs_BT, segments_BT, positions_BT, train=...) -> logits_BTV. If it
    also has `hidden` (the same arguments, [B, T, D]) and `head_kernel` ([D, V]), training makes the
    logits a piece at a time (`ops.cross_entropy.chunked_loss`).

    If it has `carries = True` and the data are in lanes (`data.text.lanes`), what it leaves in the
    collection "carry", one row for each row of the batch, is where the next batch starts; so does the
    evaluation, from zero at the beginning of each lane. In any other order it starts each row from zero.

    Args:
      context: config, data, platform; the data give the vocabulary where the model leaves it open.
      z_loss: weight of log(Z)^2, which keeps the logits from drifting (PaLM, 2204.02311, sec. 5).
      label_smoothing: mass moved from the target to the uniform distribution.
    """
    context.need("text")
    info, seq_len = context.info, context.config.data.text.seq_len
    vocab = context.outputs("vocab_size", info.vocab_size)
    model = context.model(vocab_size=vocab)
    given = {"z_loss": z_loss, "label_smoothing": label_smoothing}
    numbers = {name: value for name, value in given.items() if value}
    generate = _generator(model, info.vocab_size or vocab)
    carries = bool(getattr(model, "carries", False)) and context.config.data.text.lanes
    rows = context.config.train.batch_size if carries else 1

    def init(rng: jax.Array, rows: int = rows) -> Variables:
        return model.init(rng, jnp.zeros((rows, seq_len), jnp.int32), train=False)

    def logits(variables: Variables, batch: Batch, context: Context) -> jax.Array:
        return call(model, variables, *inputs_of(batch), context=context)[0]

    def loss(variables: Variables, batch: Batch, context: Context, hparams: Hparams) -> Loss:
        # In evaluation too, so that a batch finds where the one before it ended.
        changing = (CARRY,) if carries else ()
        h = {**numbers, **hparams}
        return token_loss(
            model, variables, inputs_of(batch), batch, context, h, info.token_bytes, changing
        )

    score = scoring(loss, summarize)
    if carries:
        score = carried(loss, lambda rows: jax.eval_shape(partial(init, rows=rows), abstract_key()))
    return Task(
        init=init,
        loss=loss,
        unit="tokens",
        units_per_example=seq_len,
        evaluations={"score": score, "sample": samples(generate, seq_len)},
        merge={CARRY: "rows"} if carries else {},
        functions={"logits": logits, "generate": generate},
        hparams=numbers,
        cost=model.cost(seq_len) if hasattr(model, "cost") else None,
    )


def _generator(model: nn.Module, vocab: int) -> Callable[..., Generate]:
    """(new tokens, top_k) -> what writes them; the error is that of `--tokens`."""

    def generate(new: int, top_k: int | None = None) -> Generate:
        room = getattr(model, "max_len", None)
        if room is not None and new >= room:
            raise ConfigError(
                "--tokens", f"{new} do not fit into model.max_len={room}", "ask for fewer tokens"
            )
        return make_generate(model, vocab, new, top_k)

    return generate


def carried(loss: LossFunction, shapes: Callable[[int], Variables]) -> Evaluation:
    """The score of a model whose state goes from batch to batch, from zero before the first.

    Args:
      loss: of the task; puts the state after the batch into `Loss.state`.
      shapes: rows -> the variables, abstract, of a batch of so many.
    """

    @cache
    def fresh(rows: int) -> PyTree:
        return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), nn.unbox(shapes(rows)[CARRY]))

    def run(
        variables: Variables, batch: Batch, context: Context, carry: PyTree
    ) -> tuple[dict[str, Total], PyTree]:
        result = loss({**variables, CARRY: carry}, batch, context, {})
        return result.metrics, result.state[CARRY]

    return Evaluation(run, summarize, carry=fresh)


def samples(make: Callable[[int], Generate], seq_len: int) -> Evaluation:
    """Continues the beginnings of held-out examples at temperature 1, as text."""
    given = max(1, seq_len // 4)

    def run(variables: Variables, batch: Batch, context: Context) -> dict[str, jax.Array]:
        prompt_BP = batch["inputs"][:, :given]
        new = make(seq_len - given)(dict(variables), prompt_BP, context.rng, jnp.float32(1.0))
        return {"prompt": prompt_BP, "new": new}

    def report(rows: Mapping[str, np.ndarray], artefacts: Mapping[str, Any]) -> dict[str, Any]:
        decode = artefacts["tokenizer"].decode
        pairs = zip(rows["prompt"][:4], rows["new"][:4], strict=True)
        return {"texts": [{"prompt": decode(p), "continued": decode(n)} for p, n in pairs]}

    return Evaluation(without_carry(run), report, keeps="rows")


def inputs_of(batch: Batch) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    """What a model of tokens is called with."""
    return batch["inputs"], batch.get("segments"), batch.get("positions")


def hidden_and_kernel(
    model: nn.Module, *inputs: jax.Array | None, train: bool
) -> tuple[jax.Array, jax.Array]:
    """(hidden states [B, T, D], output matrix [D, V]), for `call` as the method of a model."""
    return model.hidden(*inputs, train=train), model.head_kernel()


def objective(
    logits_xV: jax.Array, targets_x: jax.Array, hparams: Hparams, cap: float | None = None
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """What training minimises, of each token; beside it the plain loss and the log normaliser.

    Args:
      logits_xV: as the model's matrix gives them; `cap` bounds them first.
      targets_x: int32.
      hparams: see `language_model`.
      cap: `model.logit_softcap`; None where the model has bounded them.
    """
    logits_xV = softcap(logits_xV, cap)
    nll_x, log_z_x = cross_entropy(logits_xV, targets_x)
    objective_x = nll_x
    if "label_smoothing" in hparams:
        objective_x = smoothed(nll_x, log_z_x, logits_xV, hparams["label_smoothing"])
    if "z_loss" in hparams:
        objective_x = objective_x + hparams["z_loss"] * log_z_x**2
    return objective_x, (nll_x, log_z_x)


def token_loss(
    model: nn.Module,
    variables: Variables,
    inputs: tuple[jax.Array | None, ...],
    batch: Batch,
    context: Context,
    hparams: Hparams,
    token_bytes: np.ndarray | None = None,
    changing: tuple[str, ...] = (),
) -> Loss:
    """What predicting the targets of a batch costs: cross-entropy over the tokens with a weight.

    Training makes the logits a piece at a time where the model has `hidden` and `head_kernel`;
    evaluation also sums accuracy, text bytes and the moments of the loss.

    Args:
      model: gives logits [B, T, V].
      variables: of the model.
      inputs: what the model is called with.
      batch: has `targets` and `weights`, [B, T].
      context: of the call.
      hparams: of the objective, see `language_model`.
      token_bytes: bytes of text that each token stands for.
      changing: state collections that evaluation changes.
    """
    targets_BT, weights_BT = batch["targets"], batch["weights"]
    in_pieces = context.train and hasattr(model, "hidden") and hasattr(model, "head_kernel")
    method = hidden_and_kernel if in_pieces else None
    output, sown = call(
        model, variables, *inputs, context=context, method=method, changing=changing
    )
    if in_pieces:
        score = partial(objective, cap=getattr(model, "logit_softcap", None))
        objective_BT, (nll_BT, log_z_BT) = chunked_loss(score, *output, targets_BT, hparams)
    else:
        hparams = hparams if context.train else {}
        objective_BT, (nll_BT, log_z_BT) = objective(output, targets_BT, hparams)
    values = {"loss": nll_BT}
    if "z_loss" in hparams:
        values["log_z_squared"] = log_z_BT**2
    if not context.train:
        values["accuracy"] = (jnp.argmax(output, axis=-1) == targets_BT).astype(jnp.float32)
        if token_bytes is not None:
            values["bytes"] = jnp.asarray(token_bytes, jnp.float32)[targets_BT]
    return summed(values, weights_BT, context, sown, objective_BT)


def summarize(totals: Totals, _: object = None) -> dict[str, Any]:
    """Loss (nats per token) with its standard error, perplexity, bits per byte, accuracy."""
    result = mean_loss(totals, "tokens") | means({"accuracy": totals["accuracy"]})
    result["perplexity"] = math.exp(min(result["loss"], 700.0))
    if "bytes" in totals:
        result["bits_per_byte"] = (
            float(totals["loss"][0]) / math.log(2.0) / float(totals["bytes"][0])
        )
    return result

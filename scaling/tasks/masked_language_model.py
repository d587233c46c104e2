"""Masked language modelling: tokens that are hidden are predicted from both sides.

Legend: B batch, T time, D model width, V vocabulary and the mask.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from scaling.configs import ConfigError
from scaling.configs.types import Range
from scaling.ops.cross_entropy import cross_entropy, softcap
from scaling.tasks.base import (
    Batch,
    Context,
    Evaluation,
    Hparams,
    Loss,
    Task,
    TaskContext,
    Total,
    Totals,
    Variables,
    call,
    scoring,
    without_carry,
)
from scaling.tasks.keys import wrap_key
from scaling.tasks.language_model import hidden_and_kernel, inputs_of, summarize, token_loss
from scaling.tasks.losses import mean_loss, moments

# Of the chosen tokens, the share that the mask hides, and that another token replaces; the others stay.
MASKED, REPLACED = 0.8, 0.1

Predicted = tuple[jax.Array, jax.Array]  # hidden states [B, T, D], output matrix [D, V]


def masked_language_model(
    context: TaskContext,
    *,
    mask_rate: Annotated[float, Range(above=0, below=1)] = 0.15,
    whole_words: bool = False,
) -> Task:
    """Predicts chosen tokens of a text from all others (Devlin et al. 2019, 1810.04805, sec. 3.1).

    Of the chosen tokens 80 % are hidden by a mask, 10 % replaced by a random token, 10 % left; the loss
    is over the chosen ones alone, and separators are never chosen. Training chooses anew in each
    microbatch, as dropout does; evaluation always hides the same tokens of a text, whatever the seed of
    the run and the texts beside it.

    The model is one of `language_model` that reads both ways (`model.causal=False`), with one number
    more for the mask; it has `hidden` and `head_kernel`. Evaluations are `score` and
    `pseudo_perplexity`.

    Args:
      context: config, data, platform; the data give the vocabulary where the model leaves it open.
      mask_rate: share of the tokens that is chosen.
      whole_words: choose words instead of tokens. A word begins with a blank; where the tokenizer does
        not say which tokens do (`starts_word`), each token is a word.
    """
    context.need("text")
    info, seq_len = context.info, context.config.data.text.seq_len
    assert info.vocab_size is not None
    mask = info.vocab_size
    model = _model(context, context.outputs("vocab_size", mask + 1))
    starts_V = None
    if whole_words:
        starts_V = np.zeros(mask, bool)
        starts_V[info.facts.get("starts_word", range(mask))] = True
    hide = partial(hidden_tokens, separator=mask - 1, rate=mask_rate, starts_V=starts_V)

    def predict(variables: Variables, batch: Batch, context: Context) -> Predicted:
        inputs = inputs_of(batch)
        return call(model, variables, *inputs, context=context, method=hidden_and_kernel)[0]

    def logits(variables: Variables, batch: Batch, context: Context) -> jax.Array:
        return _logits(model, *predict(variables, batch, context))

    def loss(variables: Variables, batch: Batch, context: Context, hparams: Hparams) -> Loss:
        targets_BT = batch["inputs"]
        if context.train:
            tokens_BT, chosen_BT = hide(targets_BT, context.rng)
        else:
            tokens_BT, chosen_BT = jax.vmap(hide)(targets_BT[:, None], text_keys(targets_BT))
            tokens_BT, chosen_BT = tokens_BT[:, 0], chosen_BT[:, 0]
        scored = {"targets": targets_BT, "weights": batch["weights"] * chosen_BT}
        inputs = inputs_of({**batch, "inputs": tokens_BT})
        return token_loss(model, variables, inputs, scored, context, hparams)

    return Task(
        init=lambda rng: model.init(rng, jnp.zeros((1, seq_len), jnp.int32), train=False),
        loss=loss,
        unit="tokens",
        units_per_example=seq_len,
        evaluations={
            "score": scoring(loss, summarize),
            "pseudo_perplexity": one_by_one(predict, partial(_logits, model), seq_len, mask),
        },
        functions={"logits": logits},
        cost=model.cost(seq_len) if hasattr(model, "cost") else None,
    )


def _model(context: TaskContext, vocab_size: int) -> nn.Module:
    model = context.model("hidden", "head_kernel", "causal", vocab_size=vocab_size)
    if model.causal:
        raise ConfigError(
            "model.causal",
            "is True, and a masked language model reads both ways",
            "give --config.model.causal=False",
        )
    return model


def one_by_one(
    predict: Callable[[Variables, Batch, Context], Predicted],
    score: Callable[[jax.Array, jax.Array], jax.Array],
    seq_len: int,
    mask: int,
) -> Evaluation:
    """`pseudo_perplexity`: every token of a text predicted with it alone hidden.

    Args:
      predict: (variables, batch, context) -> (hidden states, output matrix).
      score: (hidden states, output matrix) -> logits.
      seq_len: T; a batch takes so many forward passes.
      mask: the token that hides; the one before it is the separator, which is not scored.
    """

    def run(variables: Variables, batch: Batch, context: Context) -> dict[str, Total]:
        tokens_BT = batch["inputs"]

        def at(place: jax.Array) -> jax.Array:
            hidden_BT = tokens_BT.at[:, place].set(mask)
            x_BTD, kernel_DV = predict(variables, {**batch, "inputs": hidden_BT}, context)
            return cross_entropy(score(x_BTD[:, place], kernel_DV), tokens_BT[:, place])[0]

        nll_BT = jax.lax.map(at, jnp.arange(seq_len)).T
        weights_BT = batch["weights"] * (tokens_BT != mask - 1)
        loss_B, weight_B = jnp.sum(weights_BT * nll_BT, axis=1), jnp.sum(weights_BT, axis=1)
        total = jnp.sum(loss_B), jnp.sum(weight_B)
        return {"loss": total, "moments": (moments(loss_B, weight_B), total[1])}

    return Evaluation(without_carry(run), pseudo_perplexity)


def text_keys(tokens_BT: jax.Array) -> jax.Array:
    """A random key for each row, a function of its tokens alone; key[B]."""
    factors_T = np.cumprod(np.full(tokens_BT.shape[1], 1_000_003, np.uint32), dtype=np.uint32)
    hash_B = jnp.sum(tokens_BT.astype(jnp.uint32) * factors_T[None], axis=1)
    return jax.vmap(jax.random.fold_in, (None, 0))(wrap_key(jnp.zeros(2, jnp.uint32)), hash_B)


def hidden_tokens(
    tokens_BT: jax.Array,
    rng: jax.Array,
    *,
    separator: int,
    rate: float,
    starts_V: np.ndarray | None = None,
) -> tuple[jax.Array, jax.Array]:
    """(what the model reads int32[B, T], which tokens were chosen bool[B, T]).

    Args:
      tokens_BT: the text.
      rng: random key.
      separator: never chosen, nor put in place of a token; the mask is the number after it.
      rate: share of the tokens.
      starts_V: which tokens begin a word; None makes each token one.
    """
    choice, kind, other = jax.random.split(rng, 3)
    batch, length = tokens_BT.shape
    draw_BT = jax.random.uniform(choice, (batch, length + 1))
    if starts_V is None:
        draw_BT = draw_BT[:, :length]
    else:
        word_BT = jnp.cumsum(jnp.asarray(starts_V)[tokens_BT], axis=1)
        draw_BT = jnp.take_along_axis(draw_BT, word_BT, axis=1)
    chosen_BT = (draw_BT < rate) & (tokens_BT != separator)
    kind_BT = jax.random.uniform(kind, (batch, length))
    other_BT = jax.random.randint(other, (batch, length), 0, separator)
    changed_BT = jnp.where(kind_BT < MASKED + REPLACED, other_BT, tokens_BT)
    changed_BT = jnp.where(kind_BT < MASKED, separator + 1, changed_BT)
    return jnp.where(chosen_BT, changed_BT, tokens_BT), chosen_BT


def pseudo_perplexity(totals: Totals, _: object = None) -> dict[str, Any]:
    """Loss with each token hidden alone, and its exponential (Salazar et al. 2020, 1910.14659)."""
    report = mean_loss(totals, "tokens")
    return report | {"pseudo_perplexity": math.exp(min(report["loss"], 700.0))}


def _logits(model: nn.Module, x_xD: jax.Array, kernel_DV: jax.Array) -> jax.Array:
    logits_xV = jnp.dot(x_xD, kernel_DV, preferred_element_type=jnp.float32)
    return softcap(logits_xV, getattr(model, "logit_softcap", None))

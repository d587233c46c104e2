"""Translation, or any text written after reading another: nats per target token, BLEU and chrF.

Legend: B batch, S source tokens, T target tokens, D model width, K beams, L layers, V vocabulary.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from scaling.configs import ConfigError
from scaling.configs.types import NonNegativeFloat, PositiveInt, RuntimeProbability
from scaling.tasks.base import (
    Batch,
    Context,
    Evaluation,
    Hparams,
    Loss,
    PyTree,
    Task,
    TaskContext,
    Variables,
    call,
    scoring,
    without_carry,
)
from scaling.tasks.beam import Sequences, beam_search
from scaling.tasks.language_model import summarize, token_loss

SAMPLES = 8


def translation(
    context: TaskContext,
    *,
    label_smoothing: RuntimeProbability = 0.0,
    beams: PositiveInt = 5,
    length_penalty: NonNegativeFloat = 0.6,
) -> Task:
    """Predicts each token of a target from its source and from the tokens before it.

    The model is an encoder-decoder as `scaling.models.encoder_decoder`. Its evaluations are `score` and
    `translate`: the held-out sources translated by beam search, BLEU and chrF of sacrebleu against the
    targets as they stand in the files, and a few translations. A translation has at most as many tokens
    as a target may have (`data.source.eval_target_len`).

    Args:
      context: config, data, platform; the data give the vocabulary where the model leaves it open.
      label_smoothing: mass moved from the target to the uniform distribution.
      beams: of the search; 1 takes the most likely token each time.
      length_penalty: alpha of Wu et al. 2016, see `scaling.tasks.beam`.
    """
    context.need("text_pairs")
    context.need_library("sacrebleu", "translate")
    info = context.info
    vocab = context.outputs("vocab_size", info.vocab_size)
    model = context.model("encode", "hidden", "logits", "head_kernel", vocab_size=vocab)
    lengths = tuple(info.spec[key][0][0] for key in ("source", "targets"))
    specs = (info.spec, *info.eval_specs.values())
    longest = max(spec[key][0][0] for spec in specs for key in ("source", "targets"))
    room = getattr(model, "max_len", None)
    if room is not None and longest > room:
        raise ConfigError(
            "model.max_len",
            f"{room} is less than the {longest} of data.source.source_len, target_len, "
            "eval_source_len or eval_target_len",
            f"give --config.model.max_len={longest}",
        )
    numbers = {"label_smoothing": label_smoothing} if label_smoothing else {}

    def init(rng: jax.Array) -> Variables:
        source_BS, inputs_BT = (jnp.zeros((1, length), jnp.int32) for length in lengths)
        return model.init(rng, source_BS, source_BS, inputs_BT, train=False)

    def logits(variables: Variables, batch: Batch, context: Context) -> jax.Array:
        return call(model, variables, *_inputs(batch), context=context)[0]

    def loss(variables: Variables, batch: Batch, context: Context, hparams: Hparams) -> Loss:
        h = {**numbers, **hparams}
        return token_loss(model, variables, _inputs(batch), batch, context, h, info.token_bytes)

    translate = functools.partial(
        search,
        model,
        beams=beams,
        length=max(spec["targets"][0][0] for spec in specs),
        vocab_size=info.vocab_size or vocab,
        alpha=length_penalty,
    )
    return Task(
        init=init,
        loss=loss,
        unit="tokens",
        units_per_example=lengths[1],
        evaluations={"score": scoring(loss, summarize), "translate": translations(translate)},
        functions={"logits": logits, "translate": translate},
        hparams=numbers,
        cost=model.cost(*lengths) if hasattr(model, "cost") else None,
    )


def search(
    model: nn.Module,
    variables: Variables,
    batch: Batch,
    *,
    beams: int,
    length: int,
    vocab_size: int,
    alpha: float,
) -> Sequences:
    """Translates the sources of a batch, a token at a time, with cached keys and values.

    The model has `encode`, `logits` and caches as `EncoderDecoder`, the batch `source` and
    `source_segments`; keywords as of `beam_search`.
    """
    rows = len(batch["source"])
    given = {name: value for name, value in variables.items() if name != "frozen"}
    sources = (batch["source"], batch["source_segments"])
    memory = model.apply(given, *sources, train=False, method=model.encode)
    memory = jax.tree.map(lambda x: jnp.repeat(x, beams, axis=0), memory)

    # Arrays of the cache are [L, B * K, ...], and a number of each layer [L].
    def apart(x: jax.Array) -> jax.Array:
        return x if x.ndim == 1 else x.reshape(x.shape[0], rows, beams, *x.shape[2:])

    def together(x: jax.Array) -> jax.Array:
        return x if x.ndim == 1 else x.reshape(x.shape[0], rows * beams, *x.shape[3:])

    def step(state: PyTree, tokens_BK: jax.Array, place: jax.Array) -> tuple[jax.Array, PyTree]:
        logits_N1V, after = model.apply(
            {**given, **jax.tree.map(together, state)},
            memory,
            tokens_BK.reshape(-1, 1),
            jnp.full((rows * beams, 1), place),
            train=False,
            mutable=["cache"],
            method=model.logits,
        )
        return logits_N1V.reshape(rows, beams, -1), jax.tree.map(apart, dict(after))

    return beam_search(
        step,
        {},
        rows,
        beams=beams,
        length=length,
        vocab_size=vocab_size,
        alpha=alpha,
        axis=1,
        fixed=("memory_key", "memory_value"),
    )


def translations(translate: Callable[[Variables, Batch], Sequences]) -> Evaluation:
    """Translates the held-out sources and compares with the targets as the files have them."""

    def run(variables: Variables, batch: Batch, _: Context) -> dict[str, jax.Array]:
        best = translate(variables, batch)
        return {"tokens": best.tokens, "ended": best.ended, "index": batch["index"]}

    return Evaluation(without_carry(run), compare, keeps="rows")


def compare(rows: Mapping[str, np.ndarray], artefacts: Mapping[str, Any]) -> dict[str, Any]:
    """BLEU and chrF of the translations, and the first of them as text.

    `bleu` and `chrf` are sacrebleu's with its defaults (13a tokens, mixed case; Post 2018, 1804.08771);
    `signature` names them. `length_ratio` is that of BLEU, and `unfinished` the share of translations
    that came to no end within the longest target.
    """
    from sacrebleu.metrics import BLEU, CHRF

    decode, texts = artefacts["tokenizer"].decode, artefacts["held_out_texts"].pairs
    pairs = [texts[i] for i in rows["index"]]
    written = [decode(tokens) for tokens in rows["tokens"]]
    bleu, chrf = BLEU(), CHRF()
    references = [[target for _, target in pairs]]
    score = bleu.corpus_score(written, references)
    return {
        "bleu": score.score,
        "chrf": chrf.corpus_score(written, references).score,
        "length_ratio": score.sys_len / score.ref_len,
        "unfinished": float(np.mean(~np.asarray(rows["ended"], bool))),
        "pairs": len(pairs),
        "signature": {"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())},
        "texts": [
            {"source": source, "target": target, "translation": text}
            for (source, target), text in zip(pairs[:SAMPLES], written, strict=False)
        ],
    }


def _inputs(batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    return batch["source"], batch["source_segments"], batch["inputs"]

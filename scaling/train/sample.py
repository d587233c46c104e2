"""Text from a finished language model: `python -m scaling.main --sample=RUN --prompt=...`."""

import pathlib

import jax
import numpy as np

from scaling.configs import ConfigError
from scaling.tasks.keys import GENERATOR
from scaling.train.reopen import open_run


def sample(
    path: pathlib.Path,
    *,
    prompt: str = "",
    tokens: int = 200,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int = 0,
    step: int | None = None,
) -> int:
    """Prints the prompt and its continuation, up to the end of the document; returns 0.

    Args:
      prompt: text to continue; empty starts a document.
      tokens: how many new tokens at most.
      temperature: divides the logits; 0 takes the most likely token each time.
      top_k: draw from the k most likely tokens; None from all.
      seed: of the draws.
      step: of the checkpoint; None takes the newest.

    Raises:
      ReopenError: there is no run, or no such checkpoint.
      ConfigError: the run's task does not generate text.
    """
    run = open_run(path, jax.devices()[:1])
    make = run.program.task.functions.get("generate")
    tokenizer = run.artefacts.get("tokenizer")
    if make is None or tokenizer is None:
        raise ConfigError(
            "--sample",
            f"{path} is a run of task {run.config.task.name!r}, which does not generate text",
            "name a run of a language model on text",
        )
    separator = tokenizer.vocab_size - 1
    given = np.concatenate([[separator], *tokenizer.encode([prompt])]).astype(np.int32)
    generate = jax.jit(make(new=tokens, top_k=top_k))
    rng = jax.random.key(seed, impl=GENERATOR)
    new = np.asarray(generate(run.variables(step), given[None], rng, np.float32(temperature))[0])
    ends = np.flatnonzero(new == separator)
    written = new[: ends[0]] if len(ends) else new
    print(tokenizer.decode(np.concatenate([given, written])))
    return 0

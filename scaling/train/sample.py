"""Text from a finished language model: `python -m scaling.main --sample=RUN --prompt=...`."""

import dataclasses
import pathlib

import jax
import numpy as np

from scaling.configs import ConfigError
from scaling.tasks.keys import GENERATOR
from scaling.train.reopen import open_run


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """What to write, and how.

    Attributes:
      prompt: text to continue; empty starts a document.
      tokens: how many new tokens at most.
      temperature: divides the logits; 0 takes the most likely token each time.
      top_k: draw from the k most likely tokens; None from all.
      seed: of the draws.
      step: of the checkpoint; None takes the newest.
    """

    prompt: str = ""
    tokens: int = 200
    temperature: float = 0.8
    top_k: int | None = None
    seed: int = 0
    step: int | None = None


def sample(path: pathlib.Path, options: SampleOptions) -> int:
    """Prints the prompt and its continuation, up to the end of the document; returns 0.

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
    prompt = np.concatenate([[separator], *tokenizer.encode([options.prompt])]).astype(np.int32)
    generate = jax.jit(make(new=options.tokens, top_k=options.top_k))
    rng = jax.random.key(options.seed, impl=GENERATOR)
    temperature = np.float32(options.temperature)
    new = np.asarray(generate(run.variables(options.step), prompt[None], rng, temperature)[0])
    ends = np.flatnonzero(new == separator)
    written = new[: ends[0]] if len(ends) else new
    print(tokenizer.decode(np.concatenate([prompt, written])))
    return 0

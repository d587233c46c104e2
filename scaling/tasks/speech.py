"""Speech recognition with connectionist temporal classification (CTC): loss, SpecAugment, error rates.

Evaluation `transcribe` takes the likeliest symbol of each frame, drops repeats and blanks, and
reports word and character error rates over all utterances. `spectrograms` makes a picture of the
first utterances of its batches, of which one is enough.

Legend: B batch, S samples, T frames of the spectrogram, M mel bands, U frames of the encoder, L symbols
of a padded text, V symbols of the vocabulary, the blank among them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from scaling.configs import ConfigError
from scaling.configs.types import PositiveFloat, PositiveInt, Probability
from scaling.data.tokenizers import Fitted
from scaling.models.layers import inside
from scaling.ops.log_mel import num_frames
from scaling.tasks.base import (
    Batch,
    Context,
    Evaluation,
    Hparams,
    Loss,
    LossFunction,
    Sown,
    Task,
    TaskContext,
    Variables,
    call,
    scoring,
    without_carry,
)
from scaling.tasks.losses import mean_loss, summed
from scaling.tasks.sound import Spectrograms, sheet

SHOWN = 20  # transcripts in a report, the wrong ones first
UNREADABLE = "\u25a1"  # a white square

# (variables, batch, context) -> (logits, how many frames of each count, what the model sowed)
Logits = Callable[[Variables, Batch, Context], tuple[jax.Array, jax.Array, Sown]]


def speech(
    context: TaskContext,
    *,
    window_seconds: PositiveFloat = 0.025,
    hop_seconds: PositiveFloat = 0.01,
    mel_bands: PositiveInt = 40,
    frequency_masks: tuple[PositiveInt, ...] = (),
    time_masks: tuple[Probability, ...] = (),
) -> Task:
    """What is said in an utterance, as the probability of its text over all alignments.

    The loss is that of Graves et al. (2006, "Connectionist temporal classification"), in nats per
    utterance; the blank is the tokenizer's separator. The model is called as
    model(features_BTM, frames_B, train=...) -> logits_BUV, with standardised log-mel spectrograms of
    which `frames_B` frames count, and has `encoder_frames(frames)`, the frames with logits of an
    utterance of so many.

    Args:
      context: config, data, platform; the data give sample rate, shapes and vocabulary.
      window_seconds: of samples under a frame.
      hop_seconds: from one frame to the next.
      mel_bands: M.
      frequency_masks: see `scaling.tasks.sound.Spectrograms`.
      time_masks: likewise.
    """
    context.need("utterances")
    context.need_library("jiwer", "transcribe")
    info = context.info
    rate, symbols, blank = info.facts["sample_rate"], info.vocab_size, info.separator
    assert symbols is not None
    assert blank is not None
    sound = (window_seconds, hop_seconds, mel_bands, frequency_masks, time_masks)
    features = Spectrograms(rate, *sound)
    model = context.model("encoder_frames", vocab_size=context.outputs("vocab_size", symbols))
    _refuse_short(info.facts.get("tightest", ()), model.encoder_frames, rate, features.hop)

    def init(rng: jax.Array) -> Variables:
        frames = num_frames(info.spec["audio"][0][0], features.hop)
        x_BTM = jnp.zeros((1, frames, mel_bands))
        return model.init(rng, x_BTM, jnp.ones((1,), jnp.int32), train=False)

    def logits(
        variables: Variables, batch: Batch, context: Context
    ) -> tuple[jax.Array, jax.Array, Sown]:
        x_BTM, frames_B = features(batch, context)
        logits_BUV, sown = call(model, variables, x_BTM, frames_B, context=context)
        return logits_BUV, model.encoder_frames(frames_B), sown

    def loss(variables: Variables, batch: Batch, context: Context, hparams: Hparams) -> Loss:
        logits_BUV, frames_B, sown = logits(variables, batch, context)
        labels_BL = batch["labels"]
        behind_BU = 1.0 - inside(frames_B, logits_BUV.shape[1])
        behind_BL = 1.0 - inside(batch["num_labels"], labels_BL.shape[1])
        nll_B = optax.ctc_loss(logits_BUV, behind_BU, labels_BL, behind_BL, blank_id=blank)
        return summed({"loss": nll_B}, batch["weights"], context, sown)

    return Task(
        init=init,
        loss=loss,
        unit="utterances",
        evaluations=_evaluations(features, loss, logits, symbols, blank),
        functions={"logits": lambda *arguments: logits(*arguments)[0]},
    )


def _evaluations(
    features: Spectrograms, loss: LossFunction, logits: Logits, symbols: int, blank: int
) -> dict[str, Evaluation]:
    """`score`, `transcribe` and `spectrograms`; see the module."""

    def transcribe(variables: Variables, batch: Batch, context: Context) -> dict[str, jax.Array]:
        logits_BUV, frames_B, _ = logits(variables, batch, context)
        best_BU = jnp.argmax(logits_BUV[..., :symbols], axis=-1)
        kept = {key: batch[key] for key in ("labels", "num_labels")}
        return {"best": best_BU, "frames": frames_B, **kept}

    def report(rows: Mapping[str, np.ndarray], artefacts: Mapping[str, Any]) -> dict[str, Any]:
        return error_rates(*texts(rows, artefacts["tokenizer"], blank))

    def show(variables: Variables, batch: Batch, context: Context) -> dict[str, jax.Array]:
        x_BTM, sound_B = features(batch, context)
        return transcribe(variables, batch, context) | {"features": x_BTM, "sound": sound_B}

    def picture(rows: Mapping[str, np.ndarray], artefacts: Mapping[str, Any]) -> dict[str, Any]:
        tokenizer = artefacts["tokenizer"]
        return {"sheet": sheet(rows, *texts(rows, tokenizer, blank), tokenizer, blank)}

    return {
        "score": scoring(loss, lambda totals, _: mean_loss(totals, "utterances")),
        "transcribe": Evaluation(without_carry(transcribe), report, keeps="rows"),
        "spectrograms": Evaluation(without_carry(show), picture, keeps="rows"),
    }


def _refuse_short(
    tightest: Sequence[Sequence[Any]], encoder_frames: Callable[[int], int], rate: int, hop: int
) -> None:
    """Raises ConfigError if an utterance has fewer frames than CTC needs for its text."""
    for needed, samples, where in tightest:
        frames = encoder_frames(num_frames(samples, hop))
        if frames < needed:
            raise ConfigError(
                "data.source.paths",
                f"{where}: has {samples / rate:.2f} seconds, of which the model makes {frames} "
                f"frames, and CTC needs {needed} for its text",
                "leave the line out, or give a smaller task.hop_seconds or model.time_strides, or "
                "longer symbols (data.text.tokenizer)",
            )


def texts(
    rows: Mapping[str, np.ndarray], tokenizer: Fitted, blank: int
) -> tuple[list[str], list[str]]:
    """(what is said, what was heard) in each row of `transcribe`.

    Where a tokenizer of words knows neither, the two would be equal, and a word that nobody can read
    would pass for right: what was heard has UNREADABLE there.
    """
    said, heard = [], []
    for labels, count, best, frames in zip(
        *(rows[key] for key in ("labels", "num_labels", "best", "frames")), strict=True
    ):
        said.append(tokenizer.decode(labels[:count]))
        text = tokenizer.decode(collapsed(best[:frames], blank))
        heard.append(text.replace("\ufffd", UNREADABLE))
    return said, heard


def collapsed(path_U: np.ndarray, blank: int) -> np.ndarray:
    """The symbols of an alignment: repeats once, then without blanks."""
    first_U = np.ones(len(path_U), bool)
    first_U[1:] = path_U[1:] != path_U[:-1]
    return path_U[first_U & (path_U != blank)]


def error_rates(said: list[str], heard: list[str]) -> dict[str, Any]:
    """Word and character error rates over all texts, and how many texts are right as a whole."""
    import jiwer

    pairs = list(zip(said, heard, strict=True))
    shown = sorted(pairs, key=lambda pair: pair[0] == pair[1])[:SHOWN]
    return {
        "wer": jiwer.process_words(said, heard).wer,
        "cer": jiwer.process_characters(said, heard).cer,
        "accuracy": sum(a == b for a, b in pairs) / len(pairs),
        "utterances": len(pairs),
        "transcripts": [f"{a} | {b}" for a, b in shown],
    }

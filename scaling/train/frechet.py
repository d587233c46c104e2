"""`eval.also.NAME.evaluation=frechet`: the run directory of a classifier becomes a judge of images.

eval.also = {"frechet": {"options": {"classifier": "runs/mnist_cnn"}, "batches": 20}}
"""

import functools
import pathlib
from collections.abc import Container

import jax
from flax.traverse_util import unflatten_dict

from scaling import parallel
from scaling.configs import ConfigError
from scaling.configs.types import LocalPath
from scaling.tasks.base import Evaluation, Task, Variables, build_task
from scaling.tasks.frechet import Classifier, compared
from scaling.tasks.keys import abstract_key
from scaling.track.paths import PathError, expand
from scaling.train.checkpoint_reading import flatten, read_info
from scaling.train.checkpoints import CheckpointError, agreed_source
from scaling.train.data_record import DataRecordError
from scaling.train.reopen import ReopenError, recorded

KEY = "options.classifier"
REMEDY = "give the run directory of a classifier of such images, such as runs/mnist_cnn"


def frechet(task: Task, *, classifier: LocalPath = "") -> Evaluation:
    """How far generated images are from held-out ones; see `scaling.tasks.frechet`.

    It makes one image for each held-out one that the entry's `batches` and `batch_size` take. In the
    metrics: `distance`; `halves`, that of two halves of the held-out images; `modes`, classes that get
    at least 1 % of the samples; `top_share`, that of the commonest class; `samples`. Beside them the
    share of every class, and a sheet of a hundred samples.

    Args:
      task: has the function "sample".
      classifier: run directory of a classifier trained with this package on images of that shape; its
        newest checkpoint is taken, averaged where it has an average.

    Raises:
      ConfigError: the task makes no images, or there is not such a classifier.
    """
    if "sample" not in task.functions:
        raise ConfigError(
            "evaluation",
            "frechet judges a task that makes images: this one has no `sample`",
            "leave it out",
        )
    if not classifier:
        raise ConfigError(KEY, "is not set", REMEDY)
    try:
        return compared(task, _opened(expand(classifier, KEY), _made_shape(task)))
    except (PathError, ReopenError, DataRecordError, CheckpointError) as error:
        raise ConfigError(KEY, str(error), REMEDY) from error
    except ConfigError as error:
        if error.key == KEY:
            raise
        raise ConfigError(
            KEY, f"the run in {classifier} is of no use here: {error}", REMEDY
        ) from error


def _made_shape(task: Task) -> tuple[int, ...]:
    """(height, width, channels) of what the task makes; computes nothing."""

    def one(rng: jax.Array) -> jax.Array:
        return task.functions["sample"](parallel.unbox(task.init(rng)), rng, 1)

    return tuple(jax.eval_shape(one, abstract_key()).shape[1:])


def _opened(path: pathlib.Path, shape: tuple[int, ...]) -> Classifier:
    """The classifier of a run directory. Its arrays are read when they are first asked for."""
    config, info, _ = recorded(path)
    if info.image_shape != shape:
        raise ConfigError(
            KEY,
            f"{path} was trained on examples of {info.image_shape}, and these are {shape}",
            REMEDY,
        )
    # In float32, and with the plain kernels, so that a distance is the same wherever it is measured.
    task = build_task(config, info, "cpu")
    if not {"features", "logits"} <= set(task.functions):
        raise ConfigError(KEY, f"{path} is a run of task {config.task.name}", REMEDY)
    read_info(path, say=lambda note: None)  # that it has a checkpoint at all
    names = info.class_names or tuple(str(k) for k in range(info.num_classes or 0))
    return Classifier(task, functools.cache(lambda: _variables(path, task)), names)


def _variables(path: pathlib.Path, task: Task) -> Variables:
    """What the run evaluated at its newest checkpoint, as numpy arrays."""
    step = agreed_source(path) if jax.process_count() > 1 else None
    info = read_info(path, step)
    wanted = flatten(parallel.unbox(jax.eval_shape(task.init, abstract_key())))
    stored = {name: _stored(name, info.leaves) for name in wanted}
    arrays = info.read_arrays(dict.fromkeys(stored.values()))
    return unflatten_dict({name: arrays[leaf] for name, leaf in stored.items()}, sep="/")


def _stored(name: str, leaves: Container[str]) -> str:
    """The path in a train state of what is "COLLECTION/PATH" in variables."""
    collection, _, path = name.partition("/")
    averaged = f"ema/{path}"
    if collection == "params":
        return averaged if averaged in leaves else name
    return name if collection == "frozen" else f"model_state/{name}"

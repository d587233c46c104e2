"""The Frechet distance between generated and held-out images, in the features of a classifier.

Legend: N examples, D features, K classes.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling.tasks.base import Batch, Context, Evaluation, Task, Variables, without_carry
from scaling.tasks.pictures import sheet

# A class counts as covered when at least this share of the samples is given to it.
COVERED = 0.01
# Images of which each half has a covariance.
LEAST = 4


@dataclasses.dataclass(frozen=True)
class Classifier:
    """What judges the images.

    Attributes:
      task: has the functions "logits" and "features".
      variables: gives its variables; they become constants of the compiled evaluation.
      names: of the classes.
    """

    task: Task
    variables: Callable[[], Variables]
    names: tuple[str, ...]


def compared(task: Task, classifier: Classifier) -> Evaluation:
    """For each held-out image one is generated, and the classifier looks at both.

    Args:
      task: has the function "sample", (variables, rng, count) -> uint8[count, H, W, C].
      classifier: of images of that shape.
    """
    sample = task.functions["sample"]
    features, logits = (classifier.task.functions[name] for name in ("features", "logits"))

    def run(variables: Variables, batch: Batch, context: Context) -> dict[str, jax.Array]:
        judge = classifier.variables()
        made_BHWC = sample(variables, context.rng, len(batch["images"]))
        generated = {**batch, "images": made_BHWC}
        return {
            "real": features(judge, batch, context),
            "generated": features(judge, generated, context),
            "class": jnp.argmax(logits(judge, generated, context), axis=-1),
            "images": made_BHWC,
        }

    return Evaluation(
        without_carry(run),
        lambda rows, _: summarize(rows, classifier.names),
        keeps="rows",
        least=LEAST,
    )


def summarize(rows: Mapping[str, np.ndarray], names: tuple[str, ...]) -> dict[str, Any]:
    """Distance, coverage and a sheet of samples.

    `halves` is the distance between two halves of the held-out images themselves: what so few of them
    give by chance, and so about the least that `distance` can be told from.

    Args:
      rows: features of "real" and "generated" images [N, D], "class" [N] and "images" (uint8) of the
        generated ones.
      names: of the classes.
    """
    real_ND = rows["real"]
    share_K = np.bincount(rows["class"], minlength=len(names)) / len(rows["class"])
    return {
        "distance": frechet_distance(real_ND, rows["generated"]),
        "halves": frechet_distance(real_ND[0::2], real_ND[1::2]),
        "modes": int(np.sum(share_K >= COVERED)),
        "top_share": float(share_K.max()),
        "samples": len(rows["class"]),
        "classes": dict(zip(names, share_K.tolist(), strict=True)),
        "sheet": sheet(rows["images"]),
    }


def frechet_distance(x_ND: np.ndarray, y_ND: np.ndarray) -> float:
    """Squared 2-Wasserstein distance of the Gaussians with these samples' means and covariances.

    |mx - my|^2 + tr(Cx + Cy - 2 (Cx Cy)^(1/2)) (Dowson and Landau 1982; of generated images, Heusel et
    al. 2017, 1706.08500), in float64. The trace of the root is the sum of the roots of the eigenvalues
    of Cx^(1/2) Cy Cx^(1/2), which is symmetric: with fewer samples than features the covariances are
    singular, and the root of Cx Cy itself then comes out complex.

    Estimates are biased upwards, the more the fewer samples (Chong and Forsyth 2020, 1911.07023):
    compare only distances of the same number of samples.
    """
    x, y = (np.asarray(a, np.float64) for a in (x_ND, y_ND))
    cov_x, cov_y = (np.atleast_2d(np.cov(a, rowvar=False)) for a in (x, y))
    value_D, vector_DD = np.linalg.eigh(cov_x)
    root_DD = (vector_DD * np.sqrt(np.maximum(value_D, 0.0))) @ vector_DD.T
    shared_D = np.linalg.eigvalsh(root_DD @ cov_y @ root_DD)
    overlap = np.sum(np.sqrt(np.maximum(shared_D, 0.0)))
    mean = np.sum(np.square(x.mean(axis=0) - y.mean(axis=0)))
    return float(mean + np.trace(cov_x) + np.trace(cov_y) - 2.0 * overlap)

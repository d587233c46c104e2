"""What stands beside a type in an annotation: ranges, and marks that other code asks for.

Any component (a dataclass, a flax module, a function) may write them on its own parameters;
`scaling.configs.resolve` then refuses a value outside, whether it comes from the config file,
from the command line or from the default:

    class Decoder(nn.Module):
        num_layers: PositiveInt
        dropout: Annotated[float, Range(0, below=1)] = 0.0
        head_dim: PositiveInt | None = None      # a range may stand inside an optional or a tuple
        rope_base: PositiveFloat = 10_000.0
        cache_dir: Annotated[str, NotInFingerprint()] = ""  # does not change the result

At run time `Annotated[float, ...]` is just `float` to everyone else. A choice of words needs
nothing from here: write `Literal["none", "dots", "full"]`.
"""

import dataclasses
from typing import Annotated

import annotated_types
import pydantic

from scaling.configs.errors import local_path


def Range(  # read as a type beside other types
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> annotated_types.Interval:
    """An interval of numbers: low <= value <= high, or open with `above` < value < `below`."""
    return annotated_types.Interval(ge=low, le=high, gt=above, lt=below)


MultipleOf = annotated_types.MultipleOf


@dataclasses.dataclass(frozen=True)
class NotInFingerprint:
    """Marks a key that says where or how a run goes, not what comes out of it.

    `fingerprint` leaves such keys out: two configs that differ only there are the same experiment.
    """


@dataclasses.dataclass(frozen=True)
class AddedLater:
    """Marks a key that released versions did not have.

    At its default it does not count in `fingerprint`: runs and sweeps that an older version began are
    the same ones still.
    """


@dataclasses.dataclass(frozen=True)
class RuntimeNumber:
    """Marks a number of a task that the compiled step takes as an array.

    One executable serves all its values, and the members of a population may differ in it. Zero
    switches the term off and is compiled in.
    """


@dataclasses.dataclass(frozen=True)
class PerMember:
    """Marks a key that the compiled step does not see: members of a population may differ in it."""


PositiveInt = Annotated[int, Range(low=1)]
NonNegativeInt = Annotated[int, Range(low=0)]
PositiveFloat = Annotated[float, Range(above=0)]
NonNegativeFloat = Annotated[float, Range(low=0)]
Probability = Annotated[float, Range(0, 1)]
Fraction = Annotated[float, Range(0, below=1)]
# As it was typed, since it may count in a fingerprint; `~` is expanded where the path is opened.
LocalPath = Annotated[str, pydantic.AfterValidator(local_path)]
RuntimeFloat = Annotated[float, Range(low=0), RuntimeNumber()]
RuntimeProbability = Annotated[float, Range(0.0, 1.0), RuntimeNumber()]

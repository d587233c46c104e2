"""What a task function is given, and how it refuses what it cannot work with."""

import dataclasses
import importlib.util

import flax.linen as nn

from scaling.configs import ConfigError, build
from scaling.configs.component import FrozenMapping
from scaling.data.info import DataInfo
from scaling.experiment import Experiment
from scaling.models import MODELS


@dataclasses.dataclass(frozen=True)
class TaskContext:
    """What a task function is given.

    Attributes:
      config: the resolved experiment config.
      info: what the data says of itself.
      platform: "cpu", "gpu" or "tpu": where the step will run; decides what `auto` means for
        compute types and kernels.
    """

    config: Experiment
    info: DataInfo
    platform: str

    def model(self, *members: str, **values: object) -> nn.Module:
        """The model of section `model`; `values` replace keys, such as `vocab_size`.

        Raises:
          ConfigError: it has no such key, or lacks one of the `members` (methods or fields) that the
            task uses.
        """
        section = self.config.model
        for key in values:
            if key not in section:
                raise self._lacks(key)
        arguments = FrozenMapping({**section.arguments, **values})
        section = dataclasses.replace(section, arguments=arguments)
        model: nn.Module = build(section, MODELS, platform=self.platform)
        for name in members:
            if not hasattr(model, name):
                raise self._lacks(name)
        return model

    def _lacks(self, name: str) -> ConfigError:
        what = (
            f"{self.config.model.name} has no {name}, which task.name={self.config.task.name} needs"
        )
        return ConfigError("model.name", what, "choose another model or another task")

    def outputs(self, key: str, needed: int | None) -> int:
        """How many outputs the model has: its own number where it states one, else the data's.

        More than the data need are fine (a vocabulary padded to a round number). With fewer, a target
        without a logit would pass for one whose logit is 0, and the loss would fall below any bound.

        Args:
          key: of the number in section `model`, "vocab_size" or "num_classes".
          needed: how many the data have; None where they do not say.

        Raises:
          ConfigError: the model has no such key, has fewer than the data need, or neither says.
        """
        section = self.config.model
        if key not in section:
            raise self._lacks(key)
        stated: int | None = section[key]
        if stated is not None and needed is not None and stated < needed:
            raise ConfigError(
                f"model.{key}",
                f"{stated} is less than the {needed} of the data",
                f"give at least {needed}, or --config.model.{key}=None to take the data's",
            )
        count = stated or needed
        if count is None:
            raise ConfigError(
                f"model.{key}", "is not set and the data gave none", f"give --config.model.{key}=N"
            )
        return count

    def need(self, kind: str) -> None:
        """Raises ConfigError where the data are of another kind."""
        if self.info.kind != kind:
            raise ConfigError(
                "data.source",
                f"gives {self.info.kind}, but task.name={self.config.task.name} learns from {kind}",
                "choose another source or another task",
            )

    def need_library(self, library: str, evaluation: str) -> None:
        """Raises ConfigError where `eval.also` asks for an evaluation whose library is not installed."""
        for name, entry in (self.config.eval.also or {}).items():
            chosen = entry.evaluation or name
            if chosen == evaluation and not importlib.util.find_spec(library):
                raise ConfigError(
                    f"eval.also.{name}",
                    f"needs {library}, which is not installed",
                    "pip install 'scaling[metrics]', or leave this evaluation out",
                )

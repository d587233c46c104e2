"""Models: flax modules, one file a family. No loss, no optimizer, no mesh in here.

Every model is called as `model.apply(variables, inputs..., train=bool)` and names the axes of its
parameters (`nn.with_partitioning`), which `scaling.parallel` maps to mesh axes.
"""

MODELS: dict[str, str] = {
    "transformer": "scaling.models.transformer:Transformer",
    "rnn": "scaling.models.rnn:RNN",
    "mlp": "scaling.models.mlp:MLP",
    "cnn": "scaling.models.cnn:CNN",
}

"""Models: flax modules, one file a family. No loss, no optimizer, no mesh in here.

Every model is called as `model.apply(variables, inputs..., train=bool)` and names the axes of its
parameters (`nn.with_partitioning`), which `scaling.parallel` maps to mesh axes.
"""

MODELS: dict[str, str] = {
    "transformer": "scaling.models.transformer:Transformer",
    "rnn": "scaling.models.rnn:RNN",
    "encoder_decoder": "scaling.models.encoder_decoder:EncoderDecoder",
    "mlp": "scaling.models.mlp:MLP",
    "cnn": "scaling.models.cnn:CNN",
    "resnet": "scaling.models.resnet:ResNet",
    "vit": "scaling.models.vit:ViT",
    "dcgan": "scaling.models.dcgan:DCGAN",
    "unet": "scaling.models.unet:UNet",
    "kim_cnn": "scaling.models.text:KimCNN",
    "text_encoder": "scaling.models.text:TextEncoder",
    "tagger_encoder": "scaling.models.text:EncoderTagger",
    "tagger_gru": "scaling.models.text:GRUTagger",
    "speech_gru": "scaling.models.speech:SpeechGRU",
    "conformer": "scaling.models.speech:Conformer",
    "matrix_factorisation": "scaling.models.recommender:MatrixFactorisation",
    "two_tower": "scaling.models.recommender:TwoTower",
    "towers": "scaling.models.towers:Towers",
}

"""Where data comes from.

A source is a dataclass whose fields are the keys of `data.source`. Every kind of data comes through
two methods:

    describe(context) -> DataInfo     cheap: shapes, units, facts
    open(context) -> Opened           training and held-out examples, an order of its own if it has
                                      one, artefacts

`reads` (a class attribute) names the keys of section `data` that it uses besides the common ones;
others are refused. Text and labelled images have shorter forms, told by a class attribute `kind`:

    text      documents() -> iterator of str; fingerprint(cache) -> str; held_out() -> source | None
    images    describe(), blocks(), fingerprint(cache), held_out(), refuse_overlap(other)

`fingerprint` stands for the contents (a hash), `held_out` is the evaluation data that the source
names itself. What cannot be read or used is a `DataError` that names the file and the line.
"""

SOURCES: dict[str, str] = {
    "stdlib": "scaling.data.sources.stdlib:Stdlib",
    "python_docs": "scaling.data.sources.stdlib:Stdlib",
    "files": "scaling.data.sources.files:Files",
    "tfds": "scaling.data.sources.tfds:Tfds",
    "image_folder": "scaling.data.sources.image_folder:ImageFolder",
    "ratings": "scaling.data.sources.ratings:Ratings",
    "histories": "scaling.data.sources.histories:Histories",
    "labelled_text": "scaling.data.sources.labelled_text:LabelledText",
    "text_pairs": "scaling.data.sources.text_pairs:TextPairs",
    "utterances": "scaling.data.sources.utterances:Utterances",
    "pairs": "scaling.data.sources.pairs:Pairs",
    "tagged_text": "scaling.data.sources.tagged_text:TaggedText",
    "synthetic_zipf": "scaling.data.sources.synthetic:SyntheticZipf",
}

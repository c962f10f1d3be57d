"""The contenders of the quality benchmark, by name, in the order in which they are fitted and shown."""

from __future__ import annotations

from segue.benchmarking import counted, ensembles, generated, sequential
from segue.benchmarking.contender import Contender
from segue.benchmarking.space import Space
from segue.cascade.settings import EsasrecSettings, SasrecSettings, TwoTowerSettings
from segue.errors import ConfigurationError
from segue.generative.settings import GenerativeSettings

_TRAINING = ("training.batches", "training.loop", "training.gradients", "training.ops")
_JUDGING = ("evaluation.protocol", "evaluation.metrics", "ranking", "benchmarking.answers")
_COUNTED = (*_JUDGING, "benchmarking.counted", "cascade.alignment", "cascade.cascade")
_SEQUENTIAL = (
    *_TRAINING,
    *_JUDGING,
    "benchmarking.sequential",
    "cascade.alignment",
    "cascade.cascade",
    "cascade.scorers",
    "cascade.validation",
)
_CONTENT = ("encoders.collaborative", "tokenizers")  # what makes the vectors of a codebook's items
_GENERATED = (
    *_TRAINING,
    *_JUDGING,
    "benchmarking.generated",
    "decoding",
    "generative.binding",
    "generative.contrastive",
    "generative.layers",
    "generative.path",
    "generative.settings",
    "generative.store",
    "generative.training",
    *_CONTENT,
)
_HOUSE = ("generative.house", "generative.neighbours", "generative.towers")
_SASREC = Space(
    {"learning_rate": (1e-3, 8e-3, True), "dropout": (0.1, 0.6, False), "temperature": (0.05, 0.25, True)},
    {"dimensions": (64, 128)},
)


def _generated(name: str, *modules: str) -> Contender:
    return Contender(
        name=name,
        settings=GenerativeSettings,
        defaults=generated.defaults(name),
        space=generated.space(name),
        fit=generated.fit_generative,
        code=(*_GENERATED, "training.pooling", *modules),
        generative=True,
    )


_ALL = (
    Contender(
        name="popularity",
        settings=counted.PopularitySettings,
        defaults=lambda _: counted.PopularitySettings(),
        space=Space({}, {"half_life_days": (None, 7.0, 30.0, 90.0, 365.0)}),
        fit=counted.fit_popularity,
        code=(*_COUNTED, "cascade.popularity"),
        seeded=False,
    ),
    Contender(
        name="item_knn",
        settings=counted.ItemKnnSettings,
        defaults=counted.item_knn_defaults,
        space=Space(
            {"shrinkage": (0.5, 50.0, True)},
            {"neighbours": (50, 200, 1000), "half_life": (None, 1.0, 2.0, 5.0, 20.0)},
        ),
        fit=counted.fit_item_knn,
        code=(*_COUNTED, "cascade.item_knn"),
        seeded=False,
    ),
    Contender(
        name="two_tower",
        settings=TwoTowerSettings,
        defaults=sequential.two_tower_defaults,
        space=Space(
            {
                "learning_rate": (1e-3, 8e-3, True),
                "temperature": (0.05, 0.25, True),
                "id_dropout": (0.0, 0.5, False),
            },
            {"dimensions": (64, 128)},
        ),
        fit=sequential.fit_two_tower,
        code=(*_SEQUENTIAL, *_CONTENT, "cascade.two_tower", "training.pooling"),
    ),
    Contender(
        name="sasrec",
        settings=SasrecSettings,
        defaults=sequential.sasrec_defaults,
        space=_SASREC,
        fit=sequential.fit_sasrec,
        code=(*_SEQUENTIAL, "cascade.sasrec"),
    ),
    Contender(
        name="sasrec_content",
        settings=sequential.ContentSasrecSettings,
        defaults=sequential.content_sasrec_defaults,
        space=Space({**_SASREC.ranges, "content_scale": (0.1, 10.0, True)}, _SASREC.choices),
        fit=sequential.fit_content_sasrec,
        code=(*_SEQUENTIAL, *_CONTENT, "cascade.sasrec"),
    ),
    Contender(
        name="sasrec_pair",
        settings=ensembles.PairSettings,
        defaults=lambda _: ensembles.PairSettings(),
        fit=ensembles.fit_pair,
        code=(*_SEQUENTIAL, "benchmarking.ensembles"),
        needs=("sasrec", "sasrec_content"),
    ),
    Contender(
        name="sasrec_two_tower",
        settings=ensembles.SasrecTwoTowerSettings,
        defaults=lambda _: ensembles.SasrecTwoTowerSettings(),
        fit=ensembles.fit_sasrec_two_tower,
        code=(*_SEQUENTIAL, "benchmarking.ensembles"),
        needs=("sasrec", "two_tower"),
    ),
    Contender(
        name="sasrec_trio",
        settings=ensembles.SasrecTwoTowerSettings,
        defaults=lambda _: ensembles.SasrecTwoTowerSettings(),
        fit=ensembles.fit_trio,
        code=(*_SEQUENTIAL, "benchmarking.ensembles"),
        needs=("sasrec", "sasrec_content", "two_tower"),
    ),
    Contender(
        name="esasrec",
        settings=EsasrecSettings,
        defaults=sequential.esasrec_defaults,
        space=Space({**_SASREC.ranges, "popularity_share": (0.0, 1.0, False)}, _SASREC.choices),
        fit=sequential.fit_esasrec,
        code=(*_SEQUENTIAL, "cascade.sasrec", "cascade.esasrec"),
    ),
    Contender(
        name="hstu_items",
        settings=GenerativeSettings,
        defaults=sequential.hstu_items_defaults,
        space=Space(
            {
                "learning_rate": (1e-3, 8e-3, True),
                "dropout": (0.1, 0.6, False),
                "dense_temperature": (0.05, 0.25, True),
            },
            {"dimensions": (64, 128)},
        ),
        fit=sequential.fit_hstu_items,
        code=(
            *_SEQUENTIAL,
            "decoding",
            "generative.hstu_items",
            "generative.hstu_kernel",
            "generative.hstu_layer",
            "generative.layers",
            "generative.settings",
            "training.jagged",
        ),
    ),
    Contender(
        name="cascade",
        settings=ensembles.CascadeOfPartsSettings,
        defaults=lambda world: ensembles.CascadeOfPartsSettings(
            recall_per_route=world.params.cascade.recall_per_route
        ),
        fit=ensembles.fit_cascade,
        code=(*_SEQUENTIAL, "benchmarking.ensembles", "cascade.rank", "cascade.recall"),
        needs=("sasrec", "item_knn", "two_tower", "popularity"),
    ),
    _generated("house", *_HOUSE),
    _generated(
        "hstu",
        *_HOUSE,
        "generative.hstu",
        "generative.hstu_kernel",
        "generative.hstu_layer",
        "training.jagged",
    ),
    _generated("tiger", "generative.tiger"),
    _generated("cobra", "generative.cobra"),
)

CONTENDERS = {each.name: each for each in _ALL}


def contender(name: str) -> Contender:
    """Raises ConfigurationError naming those that exist."""
    if name not in CONTENDERS:
        raise ConfigurationError(f"there is no contender {name!r}; contenders: {', '.join(CONTENDERS)}")
    return CONTENDERS[name]

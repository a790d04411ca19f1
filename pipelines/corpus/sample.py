"""`sample:`: real photographs that packages carry, so that the pipeline runs where nothing was prepared."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from pipelines.classes import ClassSet
from pipelines.corpus.base import Asset, Corpus, CorpusError, facts

# package, folder in it, files, terms
PHOTOGRAPHS = (
    (
        "skimage",
        "data",
        ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg"),
        "scikit-image, data/README.txt has the terms",
    ),
    (
        "sklearn",
        "datasets/images",
        ("china.jpg", "flower.jpg"),
        "scikit-learn, datasets/images/README.txt has the terms",
    ),
    ("matplotlib", "mpl-data/sample_data", ("grace_hopper.jpg",), "matplotlib, sample_data/README.txt has the terms"),
)


# What a person who knows the photographs would tag them with: the sample shows labeling from image tags.
TAGS = {
    "astronaut.png": ("person",),
    "chelsea.png": ("cat",),
    "coffee.png": ("cup",),
    "motorcycle_left.png": ("motorcycle",),
    "motorcycle_right.png": ("motorcycle",),
    "rocket.jpg": ("rocket",),
    "china.jpg": ("building",),
    "flower.jpg": ("flower",),
    "grace_hopper.jpg": ("person",),
}


class SampleCorpus(Corpus):
    """Nine photographs out of scikit-image, scikit-learn and matplotlib; none of the packages is imported."""

    root = "sample:"

    def default_classes(self) -> ClassSet:
        return ClassSet.load("sample")

    def list(self) -> Iterator[Asset]:
        for package, folder, files, terms in PHOTOGRAPHS:
            spec = find_spec(package)
            if spec is None or not spec.submodule_search_locations:
                raise CorpusError(f"the sample photographs need the package {package}: pip install it")
            for name in files:
                uri = str(Path(spec.submodule_search_locations[0]) / folder / name)
                tags = [{"class": tag, "present": True} for tag in TAGS[name]]
                weak = {"tags": tags, "tags_complete": True, "unknown_classes": "ignore"}
                yield Asset(f"{package}/{name}", uri, *facts(uri), weak, {"source": terms})

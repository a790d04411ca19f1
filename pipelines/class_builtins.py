"""The class sets that ship (`--classes voc`, `camvid`, `sample`), in the form that a class set file has."""

from typing import Any

TEMPLATES = (
    "a photo of a {}.",
    "a clean origami {}.",
    "a photo of the {} in the scene.",
    "a close-up photo of a {}.",
)

# What photographs show besides their subjects. A group leaves together: where `road` is a class, `street` must not
# compete with it as background. The words follow CLIP-ES (Lin et al., 2023), with rooms and gardens added.
BACKGROUND_WORDS = (
    ("sky", "cloud"),
    ("grass", "lawn", "field"),
    ("ground", "land", "soil", "sand"),
    ("tree", "forest", "bush"),
    ("building", "house"),
    ("wall",),
    ("floor", "carpet"),
    ("water", "lake", "river", "sea", "ocean"),
    ("road", "street"),
    ("mountain", "rock"),
    ("railway", "railroad"),
    ("fence",),
    ("curtain", "window"),
    ("sign",),
    ("snow",),
    ("helmet",),
    ("keyboard",),
)


def _entry(id: int, name: str, *texts: str, synonyms: tuple[str, ...] = (), color: str = "") -> dict[str, Any]:
    entry: dict[str, Any] = {"id": id, "name": name, "prompts": list(texts or (name,)), "synonyms": list(synonyms)}
    return entry | ({"color": color} if color else {})


VOC: dict[str, Any] = {
    "classes": [
        _entry(1, "aeroplane", "aeroplane", "airplane", synonyms=("airplane", "plane", "aircraft")),
        _entry(2, "bicycle", "bicycle", synonyms=("bike",)),
        _entry(3, "bird"),
        _entry(4, "boat", "boat", "ship", synonyms=("ship",)),
        _entry(5, "bottle"),
        _entry(6, "bus", synonyms=("coach",)),
        _entry(7, "car", synonyms=("automobile",)),
        _entry(8, "cat", synonyms=("kitten",)),
        _entry(9, "chair"),
        _entry(10, "cow", synonyms=("cattle",)),
        _entry(11, "diningtable", "dining table", "table", synonyms=("dining table", "table")),
        _entry(12, "dog", synonyms=("puppy",)),
        _entry(13, "horse", synonyms=("pony",)),
        _entry(14, "motorbike", "motorbike", "motorcycle", synonyms=("motorcycle",)),
        _entry(15, "person", "person", "people", "human", synonyms=("people", "human", "man", "woman", "child")),
        _entry(16, "pottedplant", "potted plant", synonyms=("potted plant", "houseplant")),
        _entry(17, "sheep", synonyms=("lamb",)),
        _entry(18, "sofa", "sofa", "couch", synonyms=("couch",)),
        _entry(19, "train", synonyms=("locomotive",)),
        _entry(
            20,
            "tvmonitor",
            "television screen",
            "tv monitor",
            synonyms=("television screen", "tv monitor", "television", "tv", "monitor"),
        ),
    ],
}

CAMVID: dict[str, Any] = {
    "background": False,
    "classes": [
        _entry(0, "sky", color="#808080"),
        _entry(1, "building", color="#800000"),
        _entry(2, "pole", "pole", "lamp post", color="#c0c080"),
        _entry(3, "road", "road", "street", color="#804080", synonyms=("street",)),
        _entry(4, "pavement", "pavement", "sidewalk", color="#3c28de", synonyms=("sidewalk",)),
        _entry(5, "tree", color="#808000", synonyms=("vegetation",)),
        _entry(6, "sign", "traffic sign", color="#c08080", synonyms=("traffic sign",)),
        _entry(7, "fence", color="#404080"),
        _entry(8, "car", color="#400080"),
        _entry(9, "pedestrian", "pedestrian", "person", color="#404000", synonyms=("person",)),
        _entry(10, "bicyclist", "bicyclist", "cyclist", color="#0080c0", synonyms=("cyclist",)),
    ],
}

SAMPLE: dict[str, Any] = {
    "classes": [
        _entry(1, "cat", synonyms=("kitten",), color="#e6194b"),
        _entry(
            2,
            "person",
            "person",
            "astronaut",
            "man",
            synonyms=("people", "human", "man", "woman", "astronaut"),
            color="#3cb44b",
        ),
        _entry(3, "motorcycle", "motorcycle", "motorbike", synonyms=("motorbike",), color="#4363d8"),
        _entry(4, "cup", "cup of coffee", "cup", synonyms=("coffee cup", "mug"), color="#f58231"),
        _entry(5, "rocket", "rocket", synonyms=("spacecraft",), color="#911eb4"),
        _entry(6, "flower", synonyms=("blossom",), color="#f032e6"),
        _entry(7, "building", "building", "temple", synonyms=("temple", "palace", "house"), color="#ffe119"),
    ],
}

BUILTINS: dict[str, dict[str, Any]] = {"voc": VOC, "camvid": CAMVID, "sample": SAMPLE}

"""Named background: things and stuff that photographs show beside their subjects (SemiOVS, 2025, lists about 150).

Their scores are max-pooled to background, so that each of them can only take pixels away from classes. A concept must
never be a class, a part of one or what holds one: the list is cut to fit every class set, by `background_concepts`.
"""

import re
from collections.abc import Iterable

# (What a class may be called that takes in the whole line, concepts). Synonyms have "/" between; the first is asked.
# Parts of what is often a class (wheels, faces, clothes) are left out: as background they would eat it.
CONCEPTS: tuple[tuple[str, str], ...] = (
    ("nature/landscape/scenery/sky", "sky/heaven, cloud, sun, moon, star, fog/mist, smoke, rain, rainbow, lightning"),
    ("ground/terrain/earth", "grass/lawn/turf, soil/dirt/mud/ground, sand, gravel/pebble, field/meadow, hay/straw"),
    ("ground/terrain/earth", "snow, ice, mountain, hill, rock/stone/boulder, cliff, cave, valley, desert, beach/coast"),
    ("water", "sea/ocean, lake/pond, river/stream, waterfall, wave, swimming pool"),
    ("plant/vegetation/greenery/tree", "tree/trunk, forest/wood/jungle, branch/twig, log, palm"),
    ("plant/vegetation/greenery", "bush/shrub/hedge, flower/blossom/plant, leaf/foliage/plant, moss, vine/ivy, garden"),
    (
        "ground/flat/surface/road/street",
        "road/street/highway/asphalt, crosswalk, bridge, railway/railroad/track, runway/tarmac, parking lot",
    ),
    (
        "ground/flat/surface",
        "pavement/sidewalk/footpath/path, floor/tile, carpet/rug/mat, stairs/staircase/step, playground, court",
    ),
    (
        "building/house/architecture/construction/structure",
        "building/house/skyscraper, wall/brick, roof, chimney, tower, church/temple/mosque/chapel, castle/palace, "
        "barn/shed/hut, ceiling, pillar/column, arch, balcony, window/pane, door, garage, stadium, ruin",
    ),
    (
        "construction/structure",
        "fence/railing/gate, tent, tunnel, pier/dock/harbour, stage, fountain, statue/sculpture/monument, scaffold",
    ),
    (
        "furniture/furnishing/household",
        "shelf/bookcase/rack, cabinet/cupboard, drawer, bed/mattress, lamp/light/lantern, mirror, curtain/drape/blind, "
        "fireplace, bathtub, sink, toilet",
    ),
    ("furniture/furnishing/household/chair/seat", "bench, stool"),
    ("furniture/furnishing/household/table/diningtable/dining table", "desk, counter"),
    ("furniture/furnishing/household/sofa/couch/bed", "pillow/cushion, blanket/quilt/towel"),
    ("furniture/furnishing/household/plant/pottedplant/potted plant", "vase"),
    (
        "appliance/electronics/device/machine",
        "refrigerator/fridge, oven/stove, microwave, washing machine, fan, radiator/heater, "
        "telephone/phone, camera, loudspeaker/speaker, clock, cable/wire/cord, remote control",
    ),
    ("appliance/electronics/device/machine/tv/monitor/tvmonitor/screen", "computer/laptop, keyboard"),
    ("sign/symbol/text", "sign/board/signboard, billboard/advertisement, banner, flag, poster, traffic light, mailbox"),
    ("object/street furniture", "pole/post/lamp post, hydrant, trash can/bin/dustbin, traffic cone, barrier, awning"),
    (
        "object/thing/tool/container",
        "box/carton/crate, basket, bucket/barrel, plate/dish, bowl, cup/mug, knife/fork/spoon/cutlery, pan/pot, paper, "
        "book/magazine, newspaper, picture/painting/photograph, rope/chain/net, ladder, hose/pipe, brush/broom, tray, "
        "candle, toy/doll, balloon, ball, pen/pencil, umbrella, suitcase/luggage, plastic bag, helmet, hammer",
    ),
    ("food/meal", "fruit/apple/orange, vegetable/salad, bread/cake, meat, soup, pizza, cheese, drink/juice"),
    ("vehicle/transport", "tractor, wagon/cart/carriage, helicopter, crane/digger"),
    ("vehicle/transport/car", "truck/lorry/pickup, trailer"),
    ("vehicle/transport/boat/ship", "canoe"),
    ("animal/creature", "fish, insect/butterfly, snake/lizard, nest, cage, kennel"),
    ("equipment", "surfboard, skateboard, ski, racket, goal net"),
)
SMALL = frozenset(["a", "an", "the", "of", "in", "on", "with", "and"])
JOINED = 4
"""A word of so many letters also counts inside a longer one's end: no `board` beside a class `skateboard`."""


def background_concepts(class_names: Iterable[str]) -> tuple[str, ...]:
    """The concepts that name no class.

    class_names: everything that a class is called: names, synonyms, prompts. A concept goes if any word of it or of its
    synonyms is a word of a class (or singular or plural of it, or its end, as `boat` of `sailboat`), and with its whole
    line if a class is called what that is called (`vehicle`).
    """
    names = [" ".join(name.casefold().replace("_", " ").split()) for name in class_names]
    whole = {form for name in names for form in (name, name.removesuffix("s"))}
    targets = {token for name in names for token in _tokens(name)}
    found: dict[str, None] = {}
    for categories, line in CONCEPTS:
        if whole & set(categories.split("/")):
            continue
        for concept in line.split(","):
            synonyms = [name.strip() for name in concept.split("/")]
            if not any(_speaks_of(token, targets) for name in synonyms for token in _tokens(name)):
                found[synonyms[0]] = None
    return tuple(found)


def _speaks_of(token: str, targets: set[str]) -> bool:
    if token in targets:
        return True
    return any(
        (len(token) >= JOINED and target.endswith(token)) or (len(target) >= JOINED and token.endswith(target))
        for target in targets
    )


def _tokens(text: str) -> set[str]:
    """Words of a text and what may be their singulars, small words left out."""
    words = set(re.findall(r"[^\W_]+", text.casefold())) - SMALL
    singulars = {word.removesuffix(end) for word in words for end in ("s", "es") if len(word) > len(end) + 2}
    return words | singulars | {word[:-3] + "y" for word in words if word.endswith("ies")}

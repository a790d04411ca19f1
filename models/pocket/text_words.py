"""Words that the pocket text tower learns: names of things and stuff, ways to say them, and how prompts are built.

Only training reads this. The 1,000 ImageNet names come from torchvision.
"""

import numpy as np

TEMPLATES = (
    "{}", "a {}", "the {}", "a photo of a {}.", "a photo of the {}.", "a photo of {}.", "a photo of a {}",
    "an image of a {}.", "a picture of a {}.", "a picture of the {}.", "a close-up photo of a {}.",
    "a cropped photo of a {}.", "a photo of a small {}.", "a photo of a large {}.", "a photo of one {}.",
    "a photo of many {}.", "a blurry photo of a {}.", "a bright photo of a {}.", "a dark photo of a {}.",
    "a black and white photo of a {}.", "a good photo of a {}.", "a bad photo of a {}.", "a clean origami {}.",
    "there is a {} in the scene.", "this is a {}.", "a {} in the scene.", "itap of a {}.", "a close-up of a {}.",
    "a low resolution photo of a {}.", "a photo of my {}.", "a photo of a nice {}.", "a rendering of a {}.",
)  # fmt: skip

ATTRIBUTES = (
    "red", "green", "blue", "white", "black", "brown", "yellow", "grey", "old", "new", "young", "small", "large",
    "wooden", "metal", "wet", "dirty", "sleeping", "standing", "sitting", "running", "wild", "toy", "open", "empty",
)  # fmt: skip

WORDS = """
person people man men woman women boy girl child baby human face head hand arm leg foot hair eye body crowd player
rider pedestrian cyclist bicyclist driver soldier officer admiral astronaut pilot worker farmer dancer bride student
bicycle bike motorcycle motorbike car truck bus train aeroplane airplane plane aircraft jet helicopter boat ship
sailboat canoe van taxi tram tractor scooter vehicle wheel rocket spacecraft missile bench bird cat kitten dog puppy
horse pony foal sheep lamb ram cow bull calf cattle elephant bear zebra giraffe animal pet mammal fish duck goose
swan chicken hen rooster eagle parrot owl pigeon insect butterfly bee snake lizard turtle frog rabbit mouse rat
squirrel fox wolf deer lion tiger leopard monkey goat pig donkey camel kangaroo whale dolphin shark spider backpack
umbrella handbag bag tie suitcase frisbee skis snowboard ball kite skateboard surfboard bottle cup mug coffee saucer
plate dish fork knife spoon bowl food fruit vegetable banana apple sandwich orange broccoli carrot pizza donut cake
bread meat cheese rice soup salad drink water milk juice beer wine chair armchair couch sofa settee houseplant plant
bed table desk toilet tv television monitor screen computer laptop keyboard remote phone telephone microwave oven
toaster sink refrigerator book clock vase scissors toothbrush lamp light candle camera mirror picture painting
poster curtain pillow blanket carpet rug shelf bookcase cabinet cupboard drawer wardrobe door window wall floor
ceiling stairs stove kitchen bathroom bedroom office room box basket bucket bin tool hammer saw rope chain pipe wire
cable pole post column fence railing gate building house skyscraper tower church temple pagoda palace castle bridge
barn shed hut tent garage shop store hospital school station airport stadium monument statue sculpture fountain roof
chimney brick tile glass stone wood metal plastic paper cloth fabric leather sand gravel concrete asphalt road
street highway lane pavement sidewalk path railway track runway crosswalk sign symbol billboard banner flag sky
cloud sun moon star rain snow ice fog fire smoke air space sea ocean lake river pond pool waterfall wave beach shore
island mountain hill valley cliff cave rock desert forest jungle tree bush hedge branch leaf trunk grass lawn field
meadow hay garden park farm soil ground earth mud flower rose tulip daisy sunflower lily lotus dahlia petal
vegetation landscape scenery nature background texture t-shirt blouse sweater jumper jacket coat suit dress skirt
pants trousers jeans shorts leggings socks stockings tights shoes boots sandals heels sneakers loafers flats clogs
pumps wedges belt scarf hat cap gloves glasses sunglasses watch bracelet ring necklace earrings purse wallet vest
cardigan hoodie sweatshirt blazer romper bodysuit intimate swimwear bra underwear uniform helmet mask skin
accessories top cape doctor nurse fur feather toy doll game guitar piano violin drum trumpet sport football soccer
basketball tennis golf baseball hockey skiing swimming riding cooking wheelchair ladder engine machine robot wing
tail paw nose ear mouth beak horn hoof saddle bridle collar leash plough crane digger excavator ambulance lorry
minivan wagon cart carriage stroller tank cannon gun weapon sword shield coin money map letter pen pencil brush
paint ink stamp ticket card calendar newspaper magazine photo photograph drawing logo text word clothing clothes
shirt
"""

PHRASES = """
space rocket, space shuttle, traffic light, fire hydrant, stop sign, parking meter, baseball bat, baseball glove,
tennis racket, wine bottle, wine glass, coffee cup, cup of coffee, tea cup, hot dog, potted plant, flower pot,
dining table, tv monitor, cell phone, teddy bear, hair drier, living room, trash can, dirt track, road marking,
traffic sign, sign symbol, traffic cone, street light, clear sky, blue sky, green grass, empty background, plain
background, space suit, military uniform, fire engine, police car, pickup truck, sports car
"""


def thing_names() -> list[str]:
    """Names of things and stuff, in order, none twice."""
    return list(dict.fromkeys([*WORDS.split(), *(phrase.strip() for phrase in PHRASES.split(","))]))


def imagenet_names() -> list[str]:
    """The 1,000 ImageNet class names, in the order of the classifier, in lower case."""
    from models import torchvision_cpu

    torchvision_cpu.ensure()
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    return [name.lower() for name in _IMAGENET_CATEGORIES]


def prompts(names: list[str], count: int, seed: int) -> list[str]:
    """`count` random prompts: a template around a name, an attributed name, or two names."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        phrase = names[rng.integers(len(names))]
        kind = rng.random()
        if kind < 0.2:
            phrase = f"{ATTRIBUTES[rng.integers(len(ATTRIBUTES))]} {phrase}"
        elif kind < 0.3:
            phrase = f"{phrase} {('and', 'on', 'in', 'with')[rng.integers(4)]} {names[rng.integers(len(names))]}"
        template = TEMPLATES[0] if rng.random() < 0.1 else TEMPLATES[rng.integers(len(TEMPLATES))]
        made.append(template.format(phrase))
    return made

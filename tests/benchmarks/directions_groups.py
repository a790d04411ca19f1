"""What `bench_directions.py` measures over groups of frames: bias, frequency, references."""

from collections.abc import Iterator, Sequence

import numpy as np
from directions import Frame, Line, Maps, Tally, skipped, wins
from scipy import ndimage

from models.corpus import bias, cosegment, frequency
from models.corpus.clusters import clusters, unit
from models.corpus.index import Index
from models.decide.config import HEAT_ONLY
from models.decide.text_match import class_embeddings
from models.refine.grids import resize_maps, resize_nearest

# Row 8: what always comes with a class but is not it.


def ground_below(thing: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Ground under each connected part of a thing, as deep as the part is high."""
    out = np.zeros_like(thing)
    parts, _ = ndimage.label(thing)
    for number, (rows, columns) in enumerate(ndimage.find_objects(parts), 1):
        window = slice(rows.start, 2 * rows.stop - rows.start), columns
        out[window] |= np.maximum.accumulate(parts[window] == number, axis=0) & ground[window]
    return out


def bias_lines(frames: Sequence[Frame], names: Sequence[str]) -> Iterator[Line]:
    ground_ids = [names.index(name) for name in ("road", "pavement")]
    for name in ("car", "pedestrian", "bicyclist"):
        row = names.index(name)
        shown = sum(bool(frame.present[row]) for frame in frames)
        what = f"precision of {name} after the ground below it was planted and biased parts removed"
        if min(shown, len(frames) - shown) < 10:
            yield skipped(8, what, f"{shown} frames with, {len(frames) - shown} without: 10 of each are needed")
            continue
        planted = {}
        for frame in frames:
            thing = frame.gold == row
            label = thing | ground_below(thing, np.isin(frame.gold, ground_ids))
            grid = frame.evidence.features.shape[:2]
            planted[frame] = thing, label, resize_maps(label[None].astype(np.float32), grid)
        for margin in (0.0, 0.05):
            config = bias.BiasConfig(margin=margin)
            stats = []
            for frame, (_, _, share) in planted.items():
                inside = np.where(share[0] > config.hot * share.max(), 0, -2)
                labels = np.where(share[0] == 0, bias.BACKGROUND, inside)
                present = frame.present[row : row + 1]
                stats.append(bias.map_background(frame.evidence.features, labels, present, frame.photo.name, config))
            known = bias.reduce(stats, config)
            right = kept = before = total = 0
            for frame, (thing, label, share) in planted.items():
                rows, key = np.zeros(1, int), frame.photo.name
                cleaned = bias.remove(frame.evidence.features, share, rows, known, config, key)
                gone = resize_nearest(((cleaned == 0) & (share > 0))[0].astype(np.uint8), thing.shape) > 0
                right, kept = right + (label & thing & ~gone).sum(), kept + (label & ~gone).sum()
                total, before = total + thing.sum(), before + label.sum()
            after, share_before, lost = right / kept, total / before, float(1 - right / total)
            gone_share = float(1 - (kept - right) / (before - total))
            note = f"{gone_share:.1%} of the planted went, {lost:.1%} of the thing; {shown} of {len(frames)} frames"
            told = f"{what}, margin {margin:g}"
            holds = bool(after > share_before and lost < 0.02)
            yield Line(
                8,
                told,
                "removed",
                after,
                "planted",
                share_before,
                holds,
                note,
                {"recall_lost": lost, "planted_gone": gone_share},
            )


# Row 31: what a group of frames has in common.


def frequency_lines(frames: Sequence[Frame], names: Sequence[str]) -> Iterator[Line]:
    recurring: dict[str, float] = {}
    alone: dict[str, float] = {}
    for row, name in enumerate(names):
        group = [frame for frame in frames if (frame.gold == row).mean() >= 0.01][:20]
        if len(group) < 5:
            continue
        regions, pooled = [], []
        for frame in group:
            features = unit(frame.evidence.features)
            flat = features.reshape(-1, features.shape[-1])
            regions.append(clusters(flat - flat.mean(0), 8)[1].reshape(features.shape[:2]))
            pooled.append(frequency.pool_regions(features, regions[-1]))
        often = frequency.frequency(*(list(part) for part in zip(*pooled, strict=True)), frequency.FrequencyConfig())
        # What stands out: patches that look like the whole picture, as its own embedding sees it.
        standing = [stretched(unit(one.evidence.features) @ one.evidence.embedding) for one in group]
        both = [frequency.cosalience(*one) for one in zip(often, regions, standing, strict=True)]
        alone[name] = f_measure(standing, group, row)
        recurring[name] = f_measure([stretched(one) for one in both], group, row)
    a, b = float(np.mean(list(recurring.values()))), float(np.mean(list(alone.values())))
    note = f"{wins(list(recurring.values()), list(alone.values()))} groups"
    more = {name: recurring[name] - alone[name] for name in alone}
    yield Line(31, "best F of the shared class", "frequency x saliency", a, "saliency", b, a > b, note, more)


def stretched(map_: Maps) -> Maps:
    return np.asarray((map_ - map_.min()) / max(float(np.ptp(map_)), 1e-6), np.float32)


def f_measure(maps: Sequence[Maps], group: Sequence[Frame], row: int) -> float:
    """The best over all thresholds, as co-saliency is judged: of mean precision and recall, beta squared 0.3."""
    precision, recall = [], []
    levels = np.linspace(0, 1, 51)[:, None]
    for map_, frame in zip(maps, group, strict=True):
        judged = frame.gold >= 0
        found = frame.enlarged(map_[None])[0][judged][None] >= levels
        hit = (found & (frame.gold == row)[judged]).sum(1)
        precision.append(hit / np.maximum(found.sum(1), 1))
        recall.append(hit / (frame.gold == row).sum())
    p, r = np.mean(precision, 0), np.mean(recall, 0)
    return float((1.3 * p * r / np.maximum(0.3 * p + r, 1e-9)).max())


# Row 46: retrieval and co-segmentation.


def reference_lines(frames: Sequence[Frame], names: Sequence[str], k: int = 20) -> Iterator[Line]:
    config = cosegment.CosegmentConfig()
    embeddings, words = class_embeddings(frames[0].text, len(names))
    index = Index(embeddings.shape[1])
    index.add([str(n) for n in range(len(frames))], np.stack([frame.evidence.embedding for frame in frames]))
    found = index.query(embeddings, k)[0].astype(int)
    shown = np.stack([frame.present for frame in frames])
    varying = [row for row in range(len(names)) if 5 <= shown[:, row].sum() <= len(frames) - 5]
    recall = {names[row]: float(shown[found[row], row].sum() / min(k, shown[:, row].sum())) for row in varying}
    chance = float(np.mean([shown[:, row].mean() for row in varying]))
    at = float(np.mean(list(recall.values())))
    note = f"{len(varying)} classes that 5 frames show and 5 do not"
    yield Line(
        46,
        f"recall@{k} of frames with a class by its name",
        "retrieved",
        at,
        "chance",
        chance,
        at > chance,
        note,
        recall,
    )

    features = [frame.evidence.features.astype(np.float32) for frame in frames]
    mean = np.mean([unit(one).mean((0, 1)) for one in features], axis=0)
    scores = [unit(one) @ embeddings.T for one in features]
    references: dict[str, list[cosegment.Reference]] = {"20 images": [], "one image": []}
    for row in range(len(names)):
        context = cosegment.context_of(row, embeddings, words, np.zeros(len(names), bool), config.near)
        for name, used in (("20 images", found[row]), ("one image", found[row, :1])):
            looks, texts = [features[n] for n in used], [scores[n][..., row] for n in used]
            references[name].append(cosegment.reference(looks, texts, context, config, mean))
    tallies = {name: Tally(name, len(names)) for name in (*references, "text attention", "text heat")}
    for frame, look_, score in zip(frames, features, scores, strict=True):
        rows = np.flatnonzero(frame.present)
        maps = {
            name: np.stack([cosegment.apply(look_, of[row], score[..., row], config) for row in rows])
            for name, of in references.items()
        }
        maps["text attention"] = np.stack([cosegment.attention(score[..., row], config) for row in rows])
        for name, one in maps.items():
            tallies[name].add(frame.gold, rows[frame.enlarged(one).argmax(0)])
        tallies["text heat"].add(frame.gold, frame.decided(**HEAT_ONLY))
    for other in ("text attention", "text heat"):
        yield tallies["20 images"].line(
            46, f"mIoU of labels by references, tags known, against {other}", tallies[other], True
        )
    yield tallies["20 images"].line(
        46, "mIoU of labels by references, tags known, of 20 retrieved and of one", tallies["one image"]
    )

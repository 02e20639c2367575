"""What features say of labels: which are probably wrong, and which pictures are like no others of their class."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from tlearn.data.findings import Finding, Suspect, many
from tlearn.data.manifest import File
from tlearn.doctor.listed import merged
from tlearn.evaluation import confident, probe

_LEAST = 10
"""Pictures of a class, and different ones in all, without which nothing is said."""
_NUM_NEAREST = 5
_UNLIKE = 8.0
"""How far below the median of its class a likeness is, in steps from there to the lower quartile. Of 2,100 photographs
of cats and dogs two are named: a dog in a star, and one on a tenth of a white page."""


def find(files: Sequence[File], points: Tensor, groups: Sequence[int]) -> list[Finding]:
    """Of labelled files, their points (N, channels) and the groups of copies that they are in (N,)."""
    names = merged(sorted({file.label for file in files}))
    counts = Counter(names[file.label] for file in files)
    chosen = [number for number, file in enumerate(files) if counts[names[file.label]] >= _LEAST]
    classes = sorted({names[files[number].label] for number in chosen})
    if len(classes) < 2 or len({groups[number] for number in chosen}) < _LEAST:
        return []
    places = {name: place for place, name in enumerate(classes)}
    labels = torch.tensor([places[names[files[number].label]] for number in chosen])
    files, points = [files[number] for number in chosen], points[chosen]
    doubted = _wrong(files, points, labels, classes, torch.tensor(groups)[chosen])
    wrong = {suspect.path for suspect in doubted}
    unlike = [suspect for suspect in _unlike(files, points, labels) if suspect.path not in wrong]
    found = []
    if doubted:
        what = f"{many(len(doubted), 'label is', 'labels are')} probably wrong"
        found.append(Finding("wrong_label", what, tuple(doubted), "Look at them; move what is in the wrong folder."))
    if unlike:
        what = f"{many(len(unlike), 'picture is', 'pictures are')} unlike all others of the class"
        found.append(Finding("unlike_its_class", what, tuple(unlike), "Look at them; exclude what shows no class."))
    return found


def _wrong(
    files: Sequence[File], points: Tensor, labels: Tensor, classes: Sequence[str], groups: Tensor
) -> list[Suspect]:
    scores = probe.out_of_fold(points, labels, len(classes), groups)
    judged = confident.judge(scores, labels)
    if judged is None:
        return []
    suspects = [
        Suspect(files[row].path, f"relabel:{classes[int(judged.classes[row])]}", float(judged.sure[row]))
        for row in (judged.classes != labels).nonzero()[:, 0].tolist()
    ]
    return sorted(suspects, key=lambda suspect: -suspect.score)


def _unlike(files: Sequence[File], points: Tensor, labels: Tensor) -> list[Suspect]:
    """Those whose nearest pictures of the class are much farther than is usual in it."""
    found = []
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0]
        cosines = torch.cat([part @ points[rows].T for part in points[rows].split(1024)])
        nearest = cosines.topk(min(_NUM_NEAREST + 1, len(rows))).values[:, 1:].mean(1)  # without itself
        low, middle = torch.quantile(nearest, torch.tensor([0.25, 0.5])).tolist()
        distance = (middle - nearest) / max(middle - low, 1e-3)
        for place in (distance >= _UNLIKE).nonzero()[:, 0].tolist():
            sure = 1 - _UNLIKE / (2 * float(distance[place]))
            found.append(Suspect(files[int(rows[place])].path, "look", sure))
    return sorted(found, key=lambda suspect: -suspect.score)

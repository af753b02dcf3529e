"""What a data set's own file finds in its archives, for `core.py` to make: pairs, lists and counts.

Not here: reading or writing anything.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from training.prepare.archives import Member
from training.prepare.labels import Ids


@dataclass(frozen=True)
class Pair:
    """An image and its labels. Targets are relative to the prepared folder, with `/`.

    read_label gives what `decode` (picklable; ValueError says what is wrong) makes class ids of. label_bytes:
    about what the labels take on the disk. order: place in the archive, in which pairs are read.
    """

    image: Member
    image_target: str
    label_target: str
    label_name: str
    read_label: Callable[[], bytes]
    decode: Callable[[bytes], Ids]
    label_bytes: int
    order: int


@dataclass(frozen=True)
class Check:
    """A count that the published data set has: one of `allowed`."""

    what: str
    found: int
    allowed: tuple[int, ...]

    @property
    def holds(self) -> bool:
        return self.found in self.allowed


@dataclass(frozen=True)
class Plan:
    """What to make of the sources.

    lists: pairs by the name of their list. mend: what to do where a check fails. unpaired: images without
    labels and labels without images. left_out: files known to be unusable. notes: what people should know.
    options: what else decides the result.
    """

    dataset: str
    lists: Mapping[str, Sequence[Pair]]
    checks: Sequence[Check]
    mend: str
    unpaired: Sequence[str] = ()
    left_out: Sequence[str] = ()
    notes: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


def file_pair(
    image: Member, image_target: str, label: Member, label_target: str, decode: Callable[[bytes], Ids]
) -> Pair:
    """A pair whose labels are a file of their own."""
    return Pair(image, image_target, label_target, str(label), label.read, decode, label.size, label.order)


def match(
    images: Mapping[str, Member], labels: Mapping[str, Member]
) -> tuple[list[tuple[str, Member, Member]], list[str]]:
    """(key, image, label) of the keys that both have, sorted; and the names of those without a partner."""
    both = sorted(images.keys() & labels.keys())
    alone = [str(images[key]) for key in sorted(images.keys() - labels.keys())]
    alone += [str(labels[key]) for key in sorted(labels.keys() - images.keys())]
    return [(key, images[key], labels[key]) for key in both], alone

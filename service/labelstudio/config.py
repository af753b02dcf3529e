"""What a Label Studio project wants painted, read from its labelling interface (XML).

    <View>
      <Image name="image" value="$image"/>
      <BrushLabels name="brush" toName="image" model_scales="0.75,1,1.25" model_flip="true">
        <Label value="Road"/>
        <Label value="Green" predicted_values="tree,sign symbol"/>
      </BrushLabels>
    </View>

The first BrushLabels over an Image counts. A label stands for the classes in its `predicted_values`, else for
the class of its name, whatever the case. `model_name`, `model_scales`, `model_flip`: which model, and how.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from xml.etree import ElementTree  # nosec B405 - no DTD is let in, see `_parse`

from inference.bundle import ModelInfo
from service.errors import Problem
from service.parameters import bad_parameter, read_scales
from service.settings import Settings

_LONGEST = 1 << 18
_MEND = 'write <Image name="image" value="$image"/> and <BrushLabels name="brush" toName="image"> with labels'


@dataclass(frozen=True, kw_only=True)
class Label:
    """A label of the project, and the names of classes that it stands for."""

    value: str
    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """from_name, to_name: the brush and what it paints on; key: of a task's data, where the image is; model,
    scales, flip: as asked for in the interface."""

    from_name: str
    to_name: str
    key: str
    labels: tuple[Label, ...]
    model: str | None
    scales: tuple[float, ...]
    flip: bool

    def match(self, info: ModelInfo) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The labels that stand for classes of a model, with those; a class is the first one's that wants it.

        Raises Problem 422, code `no_common_label`.
        """
        free = {name.casefold(): class_id for class_id, name in enumerate(info.class_names)}
        matched = []
        for label in self.labels:
            ids = [free.pop(name) for name in label.classes if name in free]
            if ids:
                matched.append((label.value, tuple(ids)))
        if not matched:
            raise Problem(
                422,
                "no_common_label",
                f"None of the project's labels ({_listed(label.value for label in self.labels)}) is a "
                f"class of {info.name} ({_listed(info.class_names)}): name the labels so, or say which "
                'classes they stand for: <Label value="Green" predicted_values="tree,bush"/>.',
                title="No label in common",
            )
        return tuple(matched)


def read_label_config(text: str, settings: Settings) -> LabelConfig:
    """Raises Problem 422, code `bad_label_config` or `bad_parameter`."""
    root = _parse(text)
    brush, image = _brush_on_image(root)
    labels = []
    for element in brush.iter("Label"):
        value = element.get("value", "")
        named = element.get("predicted_values") or value
        classes = dict.fromkeys(name.strip().casefold() for name in named.split(","))
        labels.append(Label(value=value, classes=tuple(classes)))
    if not labels:
        raise _bad(f"its BrushLabels has no Label: {_MEND}")
    flip = brush.get("model_flip", "false").strip().lower()
    if flip not in ("true", "false"):
        raise bad_parameter("model_flip", f"true or false, not {flip[:64]!r}")
    return LabelConfig(
        from_name=brush.get("name", ""),
        to_name=image.get("name", ""),
        key=image.get("value", "").removeprefix("$"),
        labels=tuple(labels),
        model=brush.get("model_name"),
        scales=read_scales(brush.get("model_scales", "1"), settings),
        flip=flip == "true",
    )


def _parse(text: str) -> ElementTree.Element:
    if len(text) > _LONGEST:
        raise _bad(f"it has {len(text)} characters, at most {_LONGEST} are read")
    if "<!" in text.replace("<!--", "").replace("<![CDATA[", ""):
        raise _bad("it has a document type, which no labelling interface needs")
    try:
        return ElementTree.fromstring(text)  # nosec B314 - without a DTD there are no entities to expand
    except (ElementTree.ParseError, ValueError) as error:
        raise _bad(f"it is no XML ({error})") from None


def _brush_on_image(root: ElementTree.Element) -> tuple[ElementTree.Element, ElementTree.Element]:
    images = {element.get("name"): element for element in root.iter("Image")}
    for brush in root.iter("BrushLabels"):
        image = images.get(brush.get("toName"))
        if image is not None and brush.get("name") and image.get("value", "").startswith("$"):
            return brush, image
    raise _bad(f"it has no BrushLabels over an Image: {_MEND}")


def _listed(names: Iterable[str]) -> str:
    text = ", ".join(names)
    return text if len(text) <= 400 else f"{text[:400]}…"


def _bad(reason: str) -> Problem:
    detail = f"The labelling interface cannot be used: {reason}."
    return Problem(422, "bad_label_config", detail, title="Labelling interface")

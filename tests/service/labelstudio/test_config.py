"""Labelling interfaces: what is painted where, with which classes of which model."""

import pytest

from service.errors import Problem
from service.labelstudio.config import read_label_config
from service.settings import Settings
from tests.service.fakes import tiny_info

SETTINGS = Settings()
IMAGE = '<Image name="image" value="$image"/>'


def interface(labels: str, *, brush: str = "", around: str = IMAGE) -> str:
    return f'<View>{around}<BrushLabels name="brush" toName="image" {brush}>{labels}</BrushLabels></View>'


def test_labels_stand_for_the_classes_of_their_names_or_of_predicted_values() -> None:
    text = interface(
        '<Label value="Red Thing" background="#f00"/><Label value="Cat"/>'
        '<Label value="Life" predicted_values="green thing, cat"/>'
    )
    config = read_label_config(text, SETTINGS)
    assert (config.from_name, config.to_name, config.key) == ("brush", "image", "image")
    assert (config.model, config.scales, config.flip) == (None, (1.0,), False)
    assert config.match(tiny_info()) == (("Red Thing", (1,)), ("Life", (2,)))


def test_a_class_goes_to_the_first_label_that_wants_it() -> None:
    labels = '<Label value="a" predicted_values="red thing,dark"/><Label value="Dark"/>'
    assert read_label_config(interface(labels), SETTINGS).match(tiny_info()) == (("a", (1, 0)),)


def test_the_model_and_how_it_is_asked_stand_in_the_interface() -> None:
    brush = 'model_name="other" model_scales="0.5,1" model_flip="True"'
    config = read_label_config(interface('<Label value="x"/>', brush=brush), SETTINGS)
    assert (config.model, config.scales, config.flip) == ("other", (0.5, 1.0), True)


def test_the_brush_that_paints_on_an_image_counts() -> None:
    text = (
        '<View><Image name="photo" value="$picture"/><Text name="text" value="$text"/>'
        '<BrushLabels name="a" toName="text"><Label value="no"/></BrushLabels>'
        '<RectangleLabels name="box" toName="photo"><Label value="neither"/></RectangleLabels>'
        '<BrushLabels name="b" toName="photo"><Label value="this"/></BrushLabels></View>'
    )
    config = read_label_config(text, SETTINGS)
    assert (config.from_name, config.to_name, config.key) == ("b", "photo", "picture")
    assert [label.value for label in config.labels] == ["this"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no XML"),
        ("<View>", "no XML"),
        ("<View/>", "no BrushLabels over an Image"),
        (interface("", around='<Image name="other" value="$image"/>'), "no BrushLabels over an Image"),
        (interface("", around='<Image name="image" value="fixed.jpg"/>'), "no BrushLabels over an Image"),
        (interface(""), "no Label"),
        ("<View>" + " " * 2**18 + "</View>", "at most 262144"),
        ('<!DOCTYPE lolz [<!ENTITY lol "lol">]><View>&lol;</View>', "document type"),
    ],
)
def test_interfaces_that_cannot_be_used_are_told_so(text: str, says: str) -> None:
    with pytest.raises(Problem, match=says) as caught:
        read_label_config(text, SETTINGS)
    assert (caught.value.status, caught.value.code) == (422, "bad_label_config")


@pytest.mark.parametrize("brush", ['model_flip="perhaps"', 'model_scales="99"', 'model_scales="a"'])
def test_parameters_without_meaning_are_told_by_name(brush: str) -> None:
    with pytest.raises(Problem, match=brush.partition("=")[0].removeprefix("model_")) as caught:
        read_label_config(interface('<Label value="x"/>', brush=brush), SETTINGS)
    assert caught.value.code == "bad_parameter"


def test_comments_and_verbatim_text_are_no_document_type() -> None:
    text = interface('<!-- the <brush> --><Label value="dark"/><![CDATA[<x>]]>')
    assert read_label_config(text, SETTINGS).match(tiny_info()) == (("dark", (0,)),)


def test_without_a_label_in_common_both_sides_are_listed() -> None:
    config = read_label_config(interface('<Label value="Dog"/>'), SETTINGS)
    with pytest.raises(Problem, match=r"\(Dog\) is a class of tiny \(dark, red thing") as caught:
        config.match(tiny_info())
    assert caught.value.code == "no_common_label"

"""Tests of the common parts of all pages."""

import pytest

from cigan_tf.evaluation import page


@pytest.mark.parametrize(
    ("seconds", "text"), [(59.6, "1 min 0 s"), (340, "5 min 40 s"), (7260, "2 h 1 min")]
)
def test_duration(seconds, text):
    assert page.duration(seconds) == text


def test_values_are_escaped_and_none_may_be_missing():
    values = {"title": "<b>", "lead": "a & b", "facts": [("<i>", "1")], "settings": "</pre>"}
    text = page.render("page.html.jinja", **values)
    assert "<h1>&lt;b&gt;</h1>" in text
    assert "<b>1</b>&lt;i&gt;" in text
    assert "<pre>&lt;/pre&gt;</pre>" in text
    assert "<th>tensorflow</th>" in text
    del values["lead"]
    with pytest.raises(Exception, match="'lead' is undefined"):
        page.render("page.html.jinja", **values)

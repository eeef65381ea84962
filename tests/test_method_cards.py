"""What methods declare, by value: their numbers, names in tables and plots, and what a card may not say."""

import pytest

from kdbench.errors import BadInput
from kdbench.methods.base import (
    METHODS,
    Method,
    RecipeField,
    Style,
    Term,
    all_methods,
    distilled_methods,
    known_terms,
    method_in,
    recipe_fields,
    student_methods,
    style_of,
    title_of,
)
from kdbench.methods.response import scale

STYLE = Style("#117733", "-", "h")


def term(name="mse", **fields):
    return Term(name, name, STYLE, RecipeField(f"{name}_weight", 1.0, "weight of it"), loss="nowhere:at_all", **fields)


def method(**fields):
    return Method(**{"name": "mse", "title": "MSE", "help": "", "style": STYLE, **fields})


def test_weights_temperatures_and_their_bounds_are_the_documented_ones():
    """Hinton's and CWD's τ = 4, CWD's weight 3, DIST's 1 and 1: those of the papers' segmentation code."""
    found = {field.name: (field.default, field.above, field.at_least, field.at_most, field.choices)
             for field in recipe_fields().values()}  # fmt: skip
    assert found == {
        "beta": (0.7, None, 0, None, ()),
        "temperature": (4.0, 0, None, None, ()),
        "kl_reduction": ("pixel", None, None, None, ("pixel", "batchmean")),
        "gamma": (0.5, None, 0, None, ()),
        "feature_loss": ("cosine", None, None, None, ("cosine", "pearson")),
        "cwd_weight": (3.0, None, 0, None, ()),
        "cwd_temperature": (4.0, 0, None, None, ()),
        "dist_weight": (1.0, None, 0, None, ()),
        "dist_temperature": (1.0, 0, None, None, ()),
    }
    assert list(recipe_fields()) == list(found)


def test_terms_say_what_they_read_and_how_their_axis_is_scaled():
    terms = known_terms()
    assert {
        name: (one.weight.name, one.legend, one.loss, one.adapted, one.features) for name, one in terms.items()
    } == {
        "response": ("beta", "response", "trainers.methods:response", False, False),
        "feature": ("gamma", "feature", "trainers.methods:feature", True, True),
        "cwd": ("cwd_weight", "channel-wise", "trainers.methods:cwd", False, False),
        "dist": ("dist_weight", "relations", "trainers.methods:dist", False, False),
    }
    pixel, batchmean = {"kl_reduction": "pixel"}, {"kl_reduction": "batchmean"}
    assert [terms["response"].scale_in(recipe) for recipe in (pixel, batchmean, {})] == [
        "mean per labelled pixel", "response summed over pixels", "mean per labelled pixel",
    ]  # fmt: skip
    assert terms["response"].scale is scale
    assert [terms[name].scale_in(batchmean) for name in ("feature", "cwd", "dist")] == [
        "mean per labelled pixel",
        "",
        "",
    ]


def test_names_in_tables_and_plots_of_a_method_its_variant_and_nobodys():
    assert [method_in(run) for run in ("cwd", "student=x/cwd", "a/b/cwd")] == ["cwd"] * 3
    assert [title_of(run) for run in ("cwd", "student=x/cwd", "nobody's", "a/b/nobody's")] == [
        "Channel-Wise (CWD)", "Channel-Wise (CWD), student=x", "nobody's", "nobody's, a/b",
    ]  # fmt: skip
    assert style_of("cwd") is style_of("student=x/cwd") is METHODS["cwd"].style
    assert style_of("nobody's") == style_of("x/nobody's") == ("#999999", "-", "")


def test_what_a_card_leaves_out_is_the_usual():
    plain = method()
    assert (plain.terms, plain.cross_entropy, plain.in_all, plain.time_matched, plain.student, plain.distils) == (
        (), True, False, False, True, False,
    )  # fmt: skip
    assert method(terms=(term(),)).distils is True
    assert (term().fields, term().adapted, term().features, term().scale_in({})) == ((), False, True, "")
    field = RecipeField("x", 1.0, "said")
    assert (field.above, field.at_least, field.at_most, field.choices) == (None, None, None, ())


@pytest.mark.parametrize("letters", [0, 24, 30])
def test_a_title_that_tables_have_no_room_for_is_refused(letters):
    with pytest.raises(BadInput) as caught:
        method(title="t" * letters)
    assert str(caught.value) == (
        f"method 'mse': title: got '{'t' * letters}' of {letters} letters, expected 1 to 23, which tables have room for"
    )


@pytest.mark.parametrize("letters", [1, 23])
def test_and_one_that_just_fits_is_not(letters):
    assert method(title="t" * letters).title == "t" * letters


@pytest.mark.parametrize("name", ["epoch", "lr", "loss", "ce", "miou", "seconds"])
def test_a_term_may_not_be_named_as_a_column_of_the_history(name):
    said = f"method 'mse': a term is named '{name}', which another column of the history is: give it another name"
    with pytest.raises(BadInput) as caught:
        method(terms=(term(), term(name)))
    assert str(caught.value) == said


def test_two_terms_may_not_have_one_name():
    assert method(terms=(term("a"), term("b"))).distils
    with pytest.raises(BadInput, match="a term is named 'a', which another column"):
        method(terms=(term("a"), term("b"), term("a")))


def test_a_name_that_two_methods_declare_otherwise_is_told(monkeypatch):
    other = term("response")
    monkeypatch.setitem(METHODS._items, "mse", method(terms=(other,)))
    with pytest.raises(BadInput) as caught:
        known_terms()
    assert str(caught.value) == (
        "method 'mse' declares the term 'response' otherwise than another method does: "
        "give it another name, or import that method's"
    )
    monkeypatch.setitem(METHODS._items, "mse", method(terms=(known_terms_of("response"),)))
    assert list(known_terms()) == ["response", "feature", "cwd", "dist"]  # the same term is no other


def known_terms_of(name):
    return next(one for one in METHODS["response"].terms if one.name == name)


@pytest.mark.parametrize("where", ["weight", "fields"])
def test_a_field_that_two_terms_declare_otherwise_is_told(monkeypatch, where):
    field = RecipeField("beta", 0.9, "weight of the response loss, in response and combined", at_least=0)
    own = RecipeField("mse_weight", 1.0, "weight of it")
    weight, fields = (field, ()) if where == "weight" else (own, (field,))
    monkeypatch.setitem(METHODS._items, "mse", method(terms=(Term("mse", "mse", STYLE, weight, "a:b", fields),)))
    with pytest.raises(BadInput) as caught:
        recipe_fields()
    assert str(caught.value) == (
        "term 'mse' declares the recipe's field 'beta' otherwise than another term does: give it another name"
    )


def test_which_methods_are_students_distilled_and_meant_by_all():
    students = ("baseline", "response", "feature", "combined", "cwd", "dist", "imitation", "baseline-long")
    assert student_methods() == students
    assert distilled_methods() == students[1:-1]
    assert all_methods() == ("baseline", "response", "feature", "combined", "teacher")


def test_a_name_that_is_none_or_taken_is_told():
    with pytest.raises(BadInput) as caught:
        METHODS["kd"]
    assert str(caught.value).startswith("--method: got 'kd', expected one of baseline, response, feature, ")
    with pytest.raises(BadInput) as caught:
        METHODS.add(METHODS["cwd"])
    assert str(caught.value) == "method 'cwd' is declared twice: give the second another name"

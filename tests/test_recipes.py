"""Recipes: what ships, how a field is checked and named, and what a recorded one is compared by."""

from __future__ import annotations

import tomllib

import pytest

from kdbench.data.open import DATASETS
from kdbench.errors import BadInput
from trainers.arm import lr_factor
from trainers.recipe import RECIPES, Recipe, TeacherRecipe, load_recipe, recipe_of


def test_every_shipped_recipe_is_valid():
    names = sorted(path.stem for path in RECIPES.glob("*.toml"))
    assert {"guide", "shapes", "camvid", "voc", "folder", "demo"} <= set(names)
    for name in names:
        load_recipe(name, {})


def test_every_dataset_has_a_recipe():
    for layout in (layout for layout in DATASETS if layout.file is None):  # files are those that other tests opened
        load_recipe(recipe_of(layout.name), {})
    assert load_recipe("voc2012", {}) == load_recipe("voc", {})


def test_the_guides_preset_is_the_guides():
    guide = load_recipe("guide", {})
    assert (guide.alpha, guide.beta, guide.temperature, guide.gamma) == (1.0, 0.7, 4.0, 0.5)
    assert (guide.epochs, guide.batch_size, guide.optimizer, guide.lr) == (30, 8, "adam", 1e-3)
    assert (guide.schedule, guide.size) == ("cosine", (512, 512))
    assert (guide.kl_reduction, guide.feature_loss) == ("batchmean", "cosine")


def test_a_misspelt_field_is_named(tmp_path):
    (tmp_path / "r.toml").write_text("epoch = 3\n")
    with pytest.raises(BadInput, match="epoch: got 3, extra inputs are not permitted"):
        load_recipe(str(tmp_path / "r.toml"), {})


def test_an_adjustment_needs_the_weights_that_it_adjusts(tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text("logit_adjustment = 0.5")
    with pytest.raises(BadInput, match=r"'mine.toml': logit_adjustment 0.5 without class weights.* add class_weights"):
        load_recipe(str(recipe), {})


def test_learning_rate_schedule():
    recipe = Recipe(warmup_steps=10, schedule="cosine")
    assert lr_factor(0, 110, recipe) == pytest.approx(0.1)
    assert lr_factor(10, 110, recipe) == pytest.approx(1.0)
    assert lr_factor(60, 110, recipe) == pytest.approx(0.5)
    assert lr_factor(110, 110, recipe) == pytest.approx(0.0)
    assert lr_factor(55, 110, Recipe(schedule="poly")) == pytest.approx(0.5**0.9)


FLOATS = [name for name, field in Recipe.model_fields.items() if field.annotation is float]


@pytest.mark.parametrize("model", [Recipe, TeacherRecipe])
def test_every_field_is_documented(model):
    undocumented = [name for name, field in model.model_fields.items() if len(field.description or "") < 8]
    assert not undocumented


def test_a_shipped_recipe_repeats_no_default_that_it_could_leave_out():
    """But for the guide's, which spells the assignment's numbers out, and sizes and budgets, which a reader looks for."""
    spelt_out = {"size", "epochs", "batch_size", "optimizer", "lr", "schedule", "teacher"}
    for path in RECIPES.glob("*.toml"):
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
        default = Recipe().model_dump()
        repeated = [key for key in fields.keys() - spelt_out if path.stem != "guide" and fields[key] == default[key]]
        assert not repeated, path.name


def test_published_defaults_are_the_authors():
    recipe = Recipe()
    assert (recipe.cwd_weight, recipe.cwd_temperature) == (3.0, 4.0)
    assert (recipe.dist_weight, recipe.dist_temperature) == (1.0, 1.0)


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_no_float_of_a_file_may_be_infinite_or_nan(tmp_path, value):
    assert {"lr", "weight_decay", "jitter", "scale_min", "scale_max", "temperature", "cwd_weight"} <= set(FLOATS)
    text = "".join(f"{name} = {value}\n" for name in FLOATS) + f"[teacher]\nlr = {value}\n"
    (tmp_path / "r.toml").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput) as refused:
        load_recipe(str(tmp_path / "r.toml"), {})
    for name in (*FLOATS, "teacher.lr"):
        assert f"{name}: got {value}, input should be a finite number" in str(refused.value)


def test_a_recorded_recipe_without_newer_fields_had_their_defaults():
    recorded = Recipe(lr=0.5).model_dump(mode="json")
    del recorded["cwd_weight"], recorded["dist_temperature"]
    assert Recipe(lr=0.5).changes_since(recorded) == []
    assert Recipe(lr=0.25).changes_since(recorded) == ["lr 0.5 → 0.25"]
    assert Recipe(lr=0.5, cwd_weight=4.0).changes_since(recorded) == ["cwd_weight 3.0 → 4.0"]

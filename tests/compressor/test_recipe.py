"""Recipes: every error at once, with the key, the choices and the nearest name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compressor.distillation.plan import RULES, SELF_TEACHERS, SUPERVISIONS, build_plan
from compressor.distillation.presets import PRESETS, parse_method
from compressor.recipe import Recipe, TrainingSettings
from compressor.recipe_file import dump_recipe, example_recipe, load_recipe, parse_recipe, recipe_from_options
from compressor.recipes import DEMO
from serving.errors import UserError

SMALL = "name: run\ntasks: {intent: {data: supportdesk, label: intent}}\n"


def test_all_errors_of_a_file_come_together_with_the_nearest_names() -> None:
    """Catches a user who mends one typo per run."""
    text = "name: a b\ntasks: {intent: {data: x, lable: y}}\nmethod: kdd\ntraning: {}\nmax_length: 4\n"
    with pytest.raises(UserError) as caught:
        parse_recipe(text)
    message = str(caught.value)
    assert "5 errors" in message
    for part in ("name:", "Did you mean label?", "Did you mean kd?", "Did you mean training?", "max_length"):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [\n", "line 2"),
        ("name: x\n  tasks: 3\n", "line 2"),
        ("- 1\n", "expected a mapping"),
        ("", "expected a mapping"),
        ("name: x\n", "'tasks' is missing"),
        (SMALL + "training: {epochs: 0}", "training.epochs"),
        (SMALL + "training: {dtype: fp8}", "training.dtype"),
        (SMALL + "method: {kd: {tempreture: 2}}", "Did you mean temperature?"),
        (SMALL + "method: {kd: {alpha: 1.5}}", "kd.alpha is 1.5"),
        (SMALL + "method: {kd: {temperature: 0}}", "kd.temperature is 0"),
        (SMALL + "method: {kd: {alpha: yes}}", "expected a number"),
        (SMALL + "method: [none, kd]", "cannot be combined"),
        (SMALL + "method: [kd, kd]", "stands twice"),
        (SMALL + "method: []", "no method given"),
        (SMALL + "method: 3", "expected a name"),
        (SMALL + "export: {precisions: [int8]}", "fp32 is missing"),
        (SMALL + "teacher: {epoch: 3}", "Did you mean epochs?"),
        (SMALL + "teacher: {model: null}", "neither 'model' nor 'predictions'"),
        (SMALL + "student: {init: teacher, model: other}", "no student.model"),
        ("name: x\ntasks: {'a-b': {data: f}}", "task name 'a-b'"),
        ("name: x\ntasks: {a: {data: f, text: [a, b, c]}}", "one column or two"),
        ("name: x\ntasks: {}", "tasks"),
    ],
)
def test_a_wrong_recipe_says_where_and_what(text: str, said: str) -> None:
    """Catches a wrong value that is taken, or an error that does not name its place."""
    with pytest.raises(UserError) as caught:
        parse_recipe(text)
    assert said in str(caught.value)


def test_files_that_cannot_be_read_are_user_errors(tmp_path: Path) -> None:
    """Catches tracebacks for the most common slips: a wrong path, a folder, another encoding."""
    with pytest.raises(UserError, match="no recipe"):
        load_recipe(tmp_path / "absent.yaml")
    with pytest.raises(UserError, match="not a UTF-8 text file"):
        load_recipe(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: café\n".encode("latin-1"))
    with pytest.raises(UserError, match="not a UTF-8 text file"):
        load_recipe(tmp_path / "latin.yaml")


def test_set_overrides_a_nested_key() -> None:
    """Catches --set that is accepted and ignored."""
    recipe = parse_recipe(SMALL, ["training.epochs=7", "method={kd: {alpha: 0.5}}", "student.layers=[0, 5]"])
    assert recipe.training.epochs == 7
    assert recipe.method == {"kd": {"alpha": 0.5}}
    assert recipe.student.layers == [0, 5]


@pytest.mark.parametrize("override", ["training.epochs", "=3", "name.first=3", "training.epochs=[", "training.epoch=3"])
def test_a_set_that_makes_no_sense_is_an_error(override: str) -> None:
    """Catches an override with a typo that changes nothing."""
    with pytest.raises(UserError):
        parse_recipe(SMALL, [override])


def test_the_teachers_own_training_keys_override_and_nothing_else_does() -> None:
    """Catches a teacher trained with the student's epochs, or a default that overrides the recipe."""
    recipe = parse_recipe(SMALL + "training: {epochs: 9, batch_size: 4}\nteacher: {epochs: 2}")
    assert recipe.teacher.training(recipe.training) == recipe.training.model_copy(update={"epochs": 2})
    plain = parse_recipe(SMALL + "training: {epochs: 9}")
    assert plain.teacher.training(plain.training) == plain.training


def test_a_written_recipe_reads_back_the_same() -> None:
    """Catches a run folder whose recipe.yaml gives another run."""
    recipe = parse_recipe(SMALL + "training: {epochs: 9}\nteacher: {epochs: 2}\nstudent: {layers: 3}")
    again = parse_recipe(dump_recipe(recipe))
    assert again == recipe
    assert again.teacher.training(again.training) == recipe.teacher.training(recipe.training)


def test_the_example_is_a_recipe_with_every_key_described() -> None:
    """Catches an example that its own program refuses, and undocumented knobs."""
    text = example_recipe()
    assert parse_recipe(text).training == TrainingSettings()

    def described(schema: dict[str, Any]) -> None:
        for name, definition in schema["$defs"].items():
            for key, value in definition.get("properties", {}).items():
                assert value.get("description"), f"{name}.{key} is not described"

    described(Recipe.model_json_schema())


def test_options_make_the_recipe_of_one_task() -> None:
    """Catches `run --data` that names its task or its run in a way no folder can have."""
    recipe = recipe_from_options(
        {"data": "my data.csv", "text": ["a", "b"], "label": "the label", "layers": 2, "method": "none"}
    )
    assert recipe.name == "my-data"
    assert recipe.tasks.keys() == {"the_label"}
    assert recipe.tasks["the_label"].text == ["a", "b"]
    assert (recipe.student.layers, recipe.method) == (2, {"none": {}})
    assert recipe_from_options({"data": "org/name:config@main", "label": "3"}).tasks.keys() == {"label_3"}
    with pytest.raises(UserError, match="needs a recipe or --data"):
        recipe_from_options({})


def test_the_demo_recipe_is_valid() -> None:
    """Catches a demo that fails after its installation."""
    assert load_recipe(DEMO).name == "demo"


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_method_is_planned_documented_and_excludes_both_ways(name: str) -> None:
    """Catches a registered name without loss terms, knobs without explanation, and one-sided exclusions."""
    planned = SUPERVISIONS.keys() | SELF_TEACHERS.keys() | RULES.keys()
    assert planned == {known for known, preset in PRESETS.items() if preset.place in ("targets", "weights")}
    assert build_plan(parse_method(name), patience=None).terms
    preset = PRESETS[name]
    assert preset.knobs.__doc__
    for other in preset.excludes:
        assert name in PRESETS[other].excludes
        with pytest.raises(ValueError, match="cannot be combined"):
            parse_method([name, other])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("teacher: {ensemble: 0}", "teacher.ensemble"),
        ("teacher: {ensemble: 2, train: false}", "train: false trains no teacher"),
        ("teacher: {ensemble: 2, predictions: p.csv}", "teacher.predictions trains no teacher"),
        ("teacher: {model: [a, b]}", "only one checkpoint can be trained"),
        ("teacher: {model: [], train: false}\nstudent: {model: s}", "empty list"),
        ("teacher: {model: [a, b], train: false}", "student.model is missing"),
        ("teacher: {ensemble: 2}\nstudent: {init: teacher}", "one teacher model"),
        ("order_seed: -1", "order_seed"),
        ("order_seed: 4294967296", "order_seed"),
        ("method: swa\ntraining: {early_stopping: 2}", "early_stopping"),
        ("method: bam\ntraining: {early_stopping: 2}", "early_stopping is 2 beside 'bam'"),
        ("method: {bam: {constant: 0.5}}", "bam.constant is 0.5 beside"),
        ("training: {layer_decay: 0}", "training.layer_decay"),
        ("training: {layer_decay: 1.1}", "training.layer_decay"),
        ("training: {head_learning_rate: 0}", "training.head_learning_rate"),
        ("training: {task_exponent: 1.5}", "training.task_exponent"),
        ("method: [swa, ema]", "cannot be combined"),
        ("method: {sda: {weight: -1}}", "sda.weight is -1"),
    ],
)
def test_seeds_ensembles_and_rules_that_cannot_be_are_named(text: str, said: str) -> None:
    """Catches wrong use that is found only after a teacher was trained."""
    with pytest.raises(UserError) as caught:
        parse_recipe(SMALL + text)
    assert said in str(caught.value)


def test_a_tasks_subset_is_a_whole_number_of_rows() -> None:
    """Catches train_rows: 0, which would mean all rows to whoever wrote `if train_rows`."""
    for wrong in ("train_rows: 0", "train_rows: 0.5", "train_rows_seed: -1"):
        with pytest.raises(UserError, match=r"tasks\.intent\.train_rows"):
            parse_recipe(f"name: run\ntasks: {{intent: {{data: supportdesk, {wrong}}}}}\n")


def test_the_order_seed_is_the_seed_unless_it_is_set() -> None:
    """Catches 0 taken for 'not set'."""
    assert parse_recipe(SMALL + "seed: 4").student_order_seed == 4
    assert parse_recipe(SMALL + "seed: 4\norder_seed: 0").student_order_seed == 0


def test_teachers_are_counted() -> None:
    """Catches an ensemble that is reported as one model."""
    assert parse_recipe(SMALL).teacher.num_members == 1
    assert parse_recipe(SMALL + "teacher: {ensemble: 3}").teacher.num_members == 3
    several = parse_recipe(SMALL + "teacher: {model: [a, b], train: false}\nstudent: {model: s}").teacher
    assert (several.models, several.num_members) == (["a", "b"], 2)
    stored = parse_recipe(SMALL + "teacher: {predictions: p.csv}").teacher
    assert (stored.models, stored.num_members) == ([], 1)

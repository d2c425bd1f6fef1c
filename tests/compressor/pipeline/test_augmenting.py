"""Methods that add texts, on toys: from a recipe to a student, with what is shared, refused and kept."""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from compressor.comparison.added_texts import added_texts_of
from compressor.comparison.cells import Cell, CellRun
from compressor.data.batches import Collator, TaskExamples, tokenise
from compressor.data.leakage import text_keys
from compressor.data.mixture import TaskMixture
from compressor.data.order import LengthGroupedBatchSampler
from compressor.data.splits import ADDED, TaskData
from compressor.distillation.augmentation.candidates import load_candidates
from compressor.distillation.augmentation.chains import generate
from compressor.distillation.augmentation.knobs import RefillKnobs
from compressor.distillation.augmentation.selector.view import present
from compressor.distillation.presets import label_of, parse_method
from compressor.distillation.trainer import DistillationTrainer
from compressor.models.initialise import load_tokenizer
from compressor.pipeline import augmenting, selecting
from compressor.pipeline.added import CANDIDATES_FILE, KEPT_FILE, with_added
from compressor.pipeline.augmentation_facts import augmentation_facts
from compressor.pipeline.augmenting_stages import AugmentingStages, added_texts
from compressor.pipeline.checks import check_before_training, check_with_data
from compressor.pipeline.graph import Pipeline
from compressor.pipeline.learning import TARGETS_FILE, load_data
from compressor.pipeline.run import RunFolder
from compressor.pipeline.selecting import SELECTION_FILE
from compressor.pipeline.stages import Stage, StageStore, needed_for, read_json, run_stages
from compressor.recipe import Recipe
from export.fingerprint import hash_rows
from serving.errors import UserError

FILLERS = ["please", "help", "now", "my", "never", "thanks"]
TOPICS = {"billing": ["money", "refund", "card"], "delivery": ["late", "arrived", "order"]}
TRAINING = {"steps": 6, "batch_size": 8, "dtype": "fp32", "threads": 1, "learning_rate": 1e-3}
SHORT = "rounds=1:per_row=2:min_confidence=0:min_margin=0:max_edit_ratio=1:mlm_steps=6"
LEARNED = f"l2a:{SHORT}:episodes=6:updates=2:episode_size=8:full_every=3"


@pytest.fixture(scope="module")
def model(masked_model: Path) -> str:
    """A tiny masked language model over the toy words."""
    return str(masked_model)


def rows(number: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    found = []
    for row in range(number):
        topic = list(TOPICS)[row % 2]
        words = [*rng.choice(FILLERS, size=6), *rng.choice(TOPICS[topic], size=2)]
        value = float(rng.integers(0, 4)) / 2 + 3.0 * (row % 2)
        flags = ["angry", "polite"] if row % 2 else ["calm"]
        text, other = " ".join(words), " ".join(rng.choice(FILLERS, size=3))
        found.append({"text": text, "other": other, "topic": topic, "urgency": value, "flags": flags})
    return found


def write_rows(path: Path, number: int, seed: int) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows(number, seed)) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Rows of the target and of its source."""
    folder = tmp_path_factory.mktemp("rows")
    return {"target": write_rows(folder / "target.jsonl", 90, 1), "source": write_rows(folder / "source.jsonl", 40, 2)}


Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def recipe(files: dict[str, str], model: str) -> Make:
    """A recipe of one task with a source; keys of its first level and of its task replaced."""

    def make(method: object, task: dict[str, Any] | None = None, **changes: Any) -> Recipe:
        topic = {"data": files["target"], "text": "text", "label": "topic", "source": {"data": files["source"]}}
        values = {
            "name": "toy",
            "tasks": {"topic": {key: value for key, value in {**topic, **(task or {})}.items() if value is not None}},
            "teacher": {"model": model, "steps": 40, "learning_rate": 3e-3},
            "student": {"layers": 1},
            "training": TRAINING,
            "max_length": 24,
            "method": method,
        }
        return Recipe.model_validate({**values, **changes})

    return make


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StageStore:
    """Shared, so that teachers are trained once."""
    return StageStore(tmp_path_factory.mktemp("stages"))


def trained(recipe: Recipe, store: StageStore) -> Pipeline:
    pipeline = Pipeline(recipe, store)
    run_stages(store, needed_for(pipeline.student))
    return pipeline


def weights(pipeline: Pipeline) -> dict[str, torch.Tensor]:
    return load_file(pipeline.path(pipeline.student) / "model.safetensors")


def candidates_stage(pipeline: Pipeline, task: str = "topic") -> Stage:
    return pipeline.added_stages(pipeline.recipe.method)[task]["candidates"]


@pytest.mark.parametrize("method", ["source", "refill", "l2a"])
def test_texts_that_weigh_nothing_are_plain_kd(method: str, recipe: Make, store: StageStore) -> None:
    """Catches a gamma of 0 that still changes batches, steps or the random state: the control would be another."""
    plain, weightless = trained(recipe("kd"), store), trained(recipe({method: {"weight": 0}}), store)
    assert weightless.student.folder_name != plain.student.folder_name
    assert not weightless.added_stages(weightless.recipe.method)
    own = weights(plain)
    assert all(torch.equal(tensor, own[name]) for name, tensor in weights(weightless).items())


def test_source_texts_are_read_with_the_teachers_targets(recipe: Make, store: StageStore) -> None:
    """Catches source rows that never reach the student, or that bring their gold labels along."""
    pipeline = trained(recipe("source"), store)
    assert label_of(pipeline.recipe.method) == "kd+source"
    data = pipeline._all_data()
    targets = {"topic": np.load(pipeline.path(pipeline.targets["topic"]) / "targets.npy")}
    found, logits = with_added(data, targets, pipeline.added_places(pipeline.recipe.method))
    added = found["topic"].splits[ADDED]
    assert added.labels is None
    assert added.texts == data["topic"].splits["source"].texts
    answers = load_candidates(pipeline.path(candidates_stage(pipeline)) / CANDIDATES_FILE).logits
    np.testing.assert_array_equal(logits["topic"], np.concatenate([targets["topic"], np.asarray(answers)]))
    plain = weights(trained(recipe("kd"), store))
    assert any(not torch.equal(tensor, plain[name]) for name, tensor in weights(pipeline).items())


def test_gold_source_rows_need_no_teacher(recipe: Make, store: StageStore) -> None:
    """Catches a control on source labels for which a teacher is trained, or whose labels are in another order."""
    pipeline = trained(recipe("source:labels=gold", task={"teacher": "none"}), store)
    assert not pipeline.teachers
    (place,) = pipeline.added_places(pipeline.recipe.method).values()
    assert place.gold
    found, _ = with_added(pipeline._all_data(), {}, {"topic": place})
    own = found["topic"].splits["source"]
    assert found["topic"].splits[ADDED].texts == own.texts
    assert (np.asarray(found["topic"].splits[ADDED].labels) == np.asarray(own.labels)).all()


def test_the_nearest_and_surest_source_texts_are_kept(recipe: Make, store: StageStore) -> None:
    """Catches filters that a recipe names and nothing applies."""
    pipeline = trained(recipe("source:nearest=0.5"), store)
    folder = pipeline.path(candidates_stage(pipeline))
    kept, everything = load_candidates(folder / CANDIDATES_FILE), trained(recipe("source"), store)
    scores = load_candidates(everything.path(candidates_stage(everything)) / CANDIDATES_FILE).domain_scores
    assert len(kept) == 20
    assert kept.domain_scores.min() >= np.sort(scores)[-20]
    assert read_json(folder / "candidates.json")["dropped"] == {"far": 20, "unsure": 0}
    sure = Pipeline(recipe("source:min_confidence=0.999"), store)
    run_stages(store, needed_for(candidates_stage(sure)))
    assert read_json(sure.path(candidates_stage(sure)) / "candidates.json")["dropped"]["unsure"] > 0


def test_refilled_texts_come_from_both_domains_and_are_new(recipe: Make, store: StageStore) -> None:
    """Catches candidates that copy rows, that are evaluation texts, or that start from one domain only."""
    pipeline = trained(recipe(f"refill:{SHORT}"), store)
    found = load_candidates(pipeline.path(candidates_stage(pipeline)) / CANDIDATES_FILE)
    data = load_data(pipeline.path(pipeline.data))["topic"]
    assert 0 < found.is_source.sum() < len(found)
    assert found.logits is not None
    assert found.logits.shape == (len(found), 2)
    assert not np.isnan(found.domain_scores).any()
    keys = set(text_keys(found.texts))
    assert len(keys) == len(found)
    for split in ("train", "validation", "test"):
        assert not keys & set(text_keys(data.splits[split].texts))
    assert not (pipeline.path(candidates_stage(pipeline)) / "chunks").exists()


def test_a_refilled_text_of_an_evaluation_split_is_dropped_and_counted(
    recipe: Make, store: StageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a leak: the refill writes a test text, in other case and punctuation."""
    data = load_data(trained(recipe("kd"), store).path(Pipeline(recipe("kd"), store).data))["topic"]
    ((leaked,), *_), real = data.splits["test"].texts, generate

    def leaking(*given: Any, **named: Any) -> Any:
        made = real(*given, **named)
        made.texts[0] = (f"{leaked.upper()}?!",)
        return made

    monkeypatch.setattr(augmenting, "generate", leaking)
    pipeline = Pipeline(recipe(f"refill:{SHORT}:top_k=3"), store)
    run_stages(store, needed_for(candidates_stage(pipeline)))
    folder = pipeline.path(candidates_stage(pipeline))
    assert read_json(folder / "candidates.json")["dropped"]["evaluation"] == 1
    assert leaked.upper() not in {text.rstrip("?!") for (text,) in load_candidates(folder / CANDIDATES_FILE).texts}


def test_the_same_seed_makes_the_same_candidates_and_choice(recipe: Make, store: StageStore, tmp_path: Path) -> None:
    """Catches a draw that depends on anything but the recipe."""
    first, second = trained(recipe(LEARNED), store), trained(recipe(LEARNED), StageStore(tmp_path))
    files = {"candidates": CANDIDATES_FILE, "selection": KEPT_FILE}
    for role, name in files.items():
        pair = [
            (pipeline.path(pipeline.added_stages(pipeline.recipe.method)["topic"][role]) / name).read_bytes()
            for pipeline in (first, second)
        ]
        assert pair[0] == pair[1], role
    own = weights(second)
    assert all(torch.equal(tensor, own[name]) for name, tensor in weights(first).items())


def test_selectors_share_the_selection_and_keep_equal_numbers(recipe: Make, store: StageStore) -> None:
    """Catches controls of the selector that have other candidates, another number or another class balance."""
    pipelines = [trained(recipe(f"{LEARNED}:selector={name}"), store) for name in ("learned", "random", "filter")]
    stages = [pipeline.added_stages(pipeline.recipe.method)["topic"] for pipeline in pipelines]
    assert len({stage["selection"].folder_name for stage in stages}) == 1
    assert len({pipeline.student.folder_name for pipeline in pipelines}) == 3
    places = [pipeline.added_places(pipeline.recipe.method)["topic"] for pipeline in pipelines]
    assert [place.selector for place in places] == ["learned", "random", "filter"]
    kept = [place.kept() for place in places]
    balance = [np.bincount(np.argmax(np.asarray(one.logits), axis=1), minlength=2).tolist() for one in kept]
    assert balance[0] == balance[1] == balance[2]
    facts = read_json(pipelines[0].path(stages[0]["selection"]) / SELECTION_FILE)
    assert len(facts["curve"]) == 6
    assert {row["share"] for row in facts["shares"]} == {0.25, 0.5, 0.75, 1.0}
    assert facts["reward_rows"] == pytest.approx(20, abs=3)
    assert not (pipelines[0].path(stages[0]["selection"]) / "students").exists()


def test_a_share_that_is_given_is_kept(recipe: Make, store: StageStore, tmp_path: Path) -> None:
    """Catches a share that is chosen on the reward rows all the same, and students that judge no episode."""
    asked = f"{LEARNED}:share=0.5:reward=student:episodes=3"
    places = [trained(recipe(f"{asked}:selector={name}"), store) for name in ("learned", "random")]
    kept = [len(next(iter(one.added_places(one.recipe.method).values())).kept().texts) for one in places]
    stages = places[0].added_stages(places[0].recipe.method)["topic"]
    facts = read_json(places[0].path(stages["selection"]) / SELECTION_FILE)
    made = len(load_candidates(places[0].path(stages["candidates"]) / CANDIDATES_FILE).texts)
    assert kept == [(made + 1) // 2] * 2
    assert [row["share"] for row in facts["shares"]] == [0.5]
    runs = [CellRun(tmp_path / str(seed), store.folder, one.recipe) for seed, one in enumerate(places)]
    cells = [Cell("l2a", seed, tmp_path, (run,)) for seed, run in enumerate(runs)]
    counted = {"candidates": made, "kept": kept[0], "share": 0.5, "rho": facts["correlation"]["rho"]}
    assert added_texts_of(cells) == {"topic": {"0": counted, "1": counted}}
    assert [full for _, full in facts["correlation"]["pairs"]] == [row["reward"] for row in facts["curve"]]


def test_a_cell_and_its_stages_keep_to_their_threads(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches two cells at a time that use all CPUs each: their threads spin against one another."""
    seen: dict[str, int] = {}

    def remember(name: str) -> Callable[..., int]:
        return lambda *_, **__: seen.setdefault(name, torch.get_num_threads())

    others = torch.get_num_threads() + 2
    asked = recipe(LEARNED, training={**TRAINING, "threads": others})
    monkeypatch.setattr(selecting, "select_candidates", remember("selection"))
    monkeypatch.setattr(selecting.Selecting, "read", remember("read"))
    monkeypatch.setattr(augmenting, "make_candidates", remember("candidates"))
    for stage in Pipeline(asked, StageStore(tmp_path)).added_stages(asked.method)["topic"].values():
        monkeypatch.setattr(AugmentingStages, "_material", lambda *_: None)
        monkeypatch.setattr(AugmentingStages, "_task_data", lambda *_: None)
        stage.build(tmp_path)
    monkeypatch.setattr(RunFolder, "run", remember("cell"))
    run = CellRun(tmp_path / "cell", tmp_path / "stages", asked)
    (tmp_path / "cell").mkdir()
    run.run()
    assert seen == dict.fromkeys(("candidates", "read", "selection", "cell"), others)
    assert torch.get_num_threads() == others - 2


def test_what_only_the_loss_reads_changes_no_candidate(recipe: Make, store: StageStore) -> None:
    """Catches candidates made again for another weight, share or selector: the most expensive stage."""
    one, other = (
        Pipeline(recipe(f"{LEARNED}{more}"), store) for more in ("", ":weight=0.5:target_share=0.5:selector=random")
    )
    assert candidates_stage(one).folder_name == candidates_stage(other).folder_name
    refilled = Pipeline(recipe(f"refill:{SHORT}"), store)
    assert candidates_stage(one).folder_name == candidates_stage(refilled).folder_name
    assert candidates_stage(one).key != candidates_stage(Pipeline(recipe(f"{LEARNED}:top_k=5"), store)).key


def test_every_arm_takes_as_many_steps(recipe: Make, store: StageStore) -> None:
    """Catches a gain that is a longer training: added texts make no training longer, by steps and by epochs."""
    for training in (TRAINING, {**TRAINING, "steps": None, "epochs": 1}):
        done = {
            method: json.loads((pipeline.path(pipeline.student) / "history.json").read_text())["steps"]
            for method in ("none", "kd", "source", f"refill:{SHORT}")
            for pipeline in [trained(recipe(method, training=training), store)]
        }
        assert len(set(done.values())) == 1, done


@pytest.mark.parametrize("length", [{"steps": 21}, {"steps": None, "epochs": 2}])
def test_validation_is_looked_at_as_often_with_added_texts(
    length: dict[str, Any], recipe: Make, store: StageStore
) -> None:
    """Catches added texts that make validation rarer: a pass over all rows is many passes over the own ones."""
    points = {}
    for method in ("kd", "source"):
        pipeline = trained(recipe(method, training={**TRAINING, **length}), store)
        history = json.loads((pipeline.path(pipeline.student) / "history.json").read_text())
        points[method] = [point["step"] for point in history["curve"] if "eval_score" in point]
    assert points["source"] == points["kd"]
    assert len(points["kd"]) > 1


def test_a_share_of_target_rows_is_drawn(recipe: Make, store: StageStore) -> None:
    """Catches a target_share that reaches no batch."""
    half, few = (weights(trained(recipe(f"source:target_share={share}"), store)) for share in (0.5, 0.05))
    assert any(not torch.equal(tensor, few[name]) for name, tensor in half.items())


def test_a_task_without_source_is_refilled_from_itself(recipe: Make, store: StageStore) -> None:
    """Catches a refill that needs a source."""
    pipeline = trained(recipe(f"refill:{SHORT}", task={"source": None}), store)
    found = load_candidates(pipeline.path(candidates_stage(pipeline)) / CANDIDATES_FILE)
    assert not found.is_source.any()
    assert np.isnan(found.domain_scores).all()
    assert augmentation_facts(pipeline)["topic"]["domain"] is None


@pytest.mark.parametrize(("label", "kind"), [("urgency", "regression"), ("flags", "multilabel")])
def test_every_task_type_is_selected_for(label: str, kind: str, recipe: Make, store: StageStore) -> None:
    """Catches losses, classes or facts that only a classification has."""
    pipeline = trained(recipe(LEARNED, task={"label": label}), store)
    assert pipeline._all_data()["topic"].task.type == kind
    facts = augmentation_facts(pipeline)["topic"]
    assert facts["counts"]["kept"] == len(pipeline.added_places(pipeline.recipe.method)["topic"].kept())
    assert sum(row["kept"] for row in facts["classes"]) > 0


def test_pairs_change_one_side(recipe: Make, store: StageStore) -> None:
    """Catches pairs of which both sides are rewritten, or that are read as one text."""
    pipeline = trained(recipe(LEARNED, task={"text": ["text", "other"]}), store)
    found = load_candidates(pipeline.path(candidates_stage(pipeline)) / CANDIDATES_FILE)
    changed = [
        sum(old != new for old, new in zip(start, text, strict=True))
        for start, text in zip(found.starts, found.texts, strict=True)
    ]
    assert max(changed) == 1


@pytest.mark.parametrize(
    ("method", "without"),
    [
        (["bam", "swa", {"refill": {**parse_method(f"refill:{SHORT}")["refill"], "tasks": ["topic"]}}], "bam+swa"),
        (f"{LEARNED}+swa", "kd+swa"),
        (f"bam+{LEARNED}", "bam"),
    ],
    ids=["bam+swa+refill", "l2a+swa", "bam+l2a"],
)
def test_it_composes_for_the_scarce_task_of_two(
    method: object, without: str, files: dict[str, str], recipe: Make, store: StageStore, student_trainer: TrainerOf
) -> None:
    """Catches added rows of one task that shift the other's rows or targets, or how often a task is drawn."""
    task = {"data": files["target"], "text": "text"}
    scarce = {**task, "label": "topic", "train_rows": 48, "source": {"data": files["source"]}}
    tasks = {"topic": scarce, "urgency": {**task, "label": "urgency"}}
    training = {**TRAINING, "steps": None, "epochs": 1}
    asked, plain = (recipe(one, tasks=tasks, training=training) for one in (method, without))
    trainer, before = student_trainer(asked), student_trainer(plain)
    ((name, place),) = Pipeline(asked, store).added_places(asked.method).items()
    kept = place.kept()
    own, other = read_rows(trainer, 0), read_rows(trainer, 1)
    assert name == "topic"
    assert own[:48] == read_rows(before, 0)
    assert other == read_rows(before, 1)
    tokens = tokenise(load_tokenizer(asked.student_model()), kept.texts, 24)
    assert [row.tokens for row in own[48:]] == [tokens[row]["input_ids"].tolist() for row in range(len(kept))]
    assert [row.targets for row in own[48:]] == np.asarray(kept.logits).tolist()
    assert {(row.is_added, row.has_label) for row in own[48:]} == {(True, False)}
    assert not any(row.is_added for row in (*own[:48], *other))
    shares = mixture_of(trainer).probabilities.tolist()
    assert mixture_of(trainer).sizes == (48, len(kept), len(other))
    assert [shares[0] + shares[1], shares[2]] == pytest.approx(mixture_of(before).probabilities.tolist())
    assert shares[0] / shares[1] == pytest.approx(48 / len(kept))
    assert trainer.state.global_step == before.state.global_step == -(-(48 + len(other)) // 8)
    assert trainer.plan.rule.name.startswith("mean of") == ("swa" in asked.method)
    assert all(bool(tensor.isfinite().all()) for tensor in trainer.model.parameters())


TrainerOf = Callable[[Recipe], DistillationTrainer]


@pytest.fixture
def student_trainer(store: StageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainerOf:
    """A factory: recipe -> the trainer of its student, which was trained to the end."""
    trainers: list[DistillationTrainer] = []
    train = DistillationTrainer.resume_or_start

    def remember(self: DistillationTrainer, folder: Path) -> None:
        trainers.append(self)
        train(self, folder)

    monkeypatch.setattr(DistillationTrainer, "resume_or_start", remember)

    def make(asked: Recipe) -> DistillationTrainer:
        student = Pipeline(asked, store).student
        run_stages(store, needed_for(*student.inputs.values()))
        student.build(Path(tempfile.mkdtemp(dir=tmp_path)))
        return trainers[-1]

    return make


class ReadRow(NamedTuple):
    """What a student reads of one training row."""

    tokens: list[int]
    label: object
    has_label: bool
    targets: list[float]
    is_added: bool


def read_rows(trainer: DistillationTrainer, task: int) -> list[ReadRow]:
    """The rows of one task, by its position."""
    examples, collator = trainer.loader.dataset, trainer.loader.collate_fn
    assert isinstance(examples, TaskExamples)
    assert isinstance(collator, Collator)
    found, tokens = collator.tasks[task], examples.tokens[task]
    ids = [tokens[row]["input_ids"].tolist() for row in range(len(tokens))]
    is_added = found.are_added(torch.arange(len(tokens)))
    columns = (found.labels, found.has_label, present(found.targets), is_added)
    return list(map(ReadRow, ids, *(column.tolist() for column in columns)))


def mixture_of(trainer: DistillationTrainer) -> TaskMixture:
    sampler = trainer.loader.batch_sampler
    assert isinstance(sampler, LengthGroupedBatchSampler)
    assert sampler.mixture is not None
    return sampler.mixture


def test_the_report_tells_what_was_learned(recipe: Make, store: StageStore) -> None:
    """Catches a section with figures of another choice than the student's."""
    pipeline = trained(recipe(LEARNED), store)
    facts = augmentation_facts(pipeline)["topic"]
    counts = facts["counts"]
    assert counts["generated"] == counts["candidates"] + sum(counts["dropped"].values())
    assert sum(row["kept"] for row in facts["classes"]) == counts["kept"] == sum(facts["edits"]["kept"])
    assert sum(facts["domain"]["candidates"]) == counts["candidates"]
    assert {"masked_lm", "generate", "teacher", "student", "selector"} <= facts["seconds"].keys()
    dropped, kept = ([row["score"] for row in facts["examples"][name]] for name in ("dropped", "kept"))
    assert kept == sorted(kept, reverse=True)
    assert dropped == sorted(dropped)
    assert augmentation_facts(trained(recipe("kd"), store)) == {}
    json.dumps(facts)


@pytest.mark.parametrize("mlm", ["adapt", "given"])
def test_the_bundle_says_where_the_texts_come_from(mlm: str, recipe: Make, store: StageStore, model: str) -> None:
    """Catches a bundle that names its own rows and keeps silent about the source, what was made, and by what."""
    method = f"refill:{SHORT}" + (f":mlm={model}" if mlm == "given" else "")
    pipeline = trained(recipe(method), store)
    found = pipeline.provenance()
    (task,) = pipeline.recipe.tasks.values()
    splits = found["data"]["topic"]["splits"]
    assert task.source is not None
    assert splits["source"]["name"] == task.source.data
    kept = load_candidates(pipeline.path(candidates_stage(pipeline)) / CANDIDATES_FILE).texts
    assert splits["added"] == {
        "rows": len(kept),
        "sha256": hash_rows(kept, None),
        "name": label_of(parse_method(method)),
    }
    assert "name" not in splits["train"]
    assert len(found["models"]["masked language model"]) == 64
    assert json.loads(json.dumps(found["data"])) == found["data"]
    without = trained(recipe("kd"), store).provenance()
    assert "added" not in without["data"]["topic"]["splits"]
    assert "masked language model" not in without["models"]


def test_given_students_read_no_texts_of_this_run(recipe: Make, store: StageStore) -> None:
    """Catches a bundle of averaged folders that asks for candidates which nobody made."""
    members = [trained(recipe(f"refill:{SHORT}", order_seed=seed), store) for seed in (0, 1)]
    folders = [str(member.path(member.student)) for member in members]
    pipeline = trained(recipe({**parse_method(f"refill:{SHORT}:top_k=7"), "avg": {"of": folders}}), store)
    found = pipeline.provenance()
    assert "added" not in found["data"]["topic"]["splits"]
    assert "masked language model" not in found["models"]
    assert augmentation_facts(pipeline) == {}


@pytest.mark.parametrize(
    ("method", "task", "said"),
    [
        ("source", {"source": None}, "method 'source' reads the source of task 'topic', which names none"),
        ("refill:rounds=0", {"source": None}, "refill has no source text and masks nothing"),
        ("l2a:rate=0", {"source": None}, "l2a has no source text and masks nothing"),
        ("refill", {"teacher": "none"}, "method 'kd+refill' learns from a teacher, but no task"),
        ("refill", {"teacher": {"predictions": "p.csv"}}, "teacher.predictions are stored for known texts only"),
        ({"refill": {"tasks": ["other"]}}, {}, "refill.tasks names 'other'. Choose from: topic"),
        (["none", "l2a"], {}, "'none' and 'l2a' cannot be combined: added texts have the teacher's targets only"),
        (["source", "l2a"], {}, "'source' and 'l2a' cannot be combined"),
        ("refill:rounds=0:start=target", {}, "refill has no source text and masks nothing"),
        (["l2a", {"kd": {"alpha": 0}}], {}, "kd.alpha is 0 beside 'l2a': no teacher is read"),
        ({"refill": {"tasks": []}}, {}, "refill.tasks is [], expected at least one task"),
        ("l2a:rounds=-1", {}, "l2a.rounds is -1, expected a whole number of at least 0"),
        ("source:nearest=0", {}, "source.nearest is 0.0, expected a number above 0"),
        ("l2a:share=0", {}, "l2a.share is 0.0, expected a number above 0 and at most 1"),
        ("l2a:share=1.5", {}, "l2a.share is 1.5, expected a number above 0 and at most 1"),
        ("source:labels=gold:min_margin=0.2", {}, "source.labels is gold, where no teacher is asked"),
    ],
)
def test_what_cannot_be_is_said_when_the_recipe_is_read(
    method: object, task: dict[str, Any], said: str, recipe: Make
) -> None:
    """Catches a mistake that is found after the teacher was trained, or never."""
    with pytest.raises(ValueError) as caught:
        recipe(method, task=task, student={"layers": 1, "model": "m"})
    assert said in str(caught.value)


def test_a_task_without_teacher_gets_no_texts(files: dict[str, str], recipe: Make) -> None:
    """Catches texts for a task that nobody answers, beside one that has a teacher."""
    topic = {"data": files["target"], "text": "text", "label": "topic"}
    tasks = {"topic": topic, "urgency": {**topic, "label": "urgency", "teacher": "none"}}
    with pytest.raises(ValueError, match="refill gives task 'urgency' texts that a teacher answers"):
        recipe({"refill": {"tasks": ["urgency"]}}, tasks=tasks)
    assert recipe("refill", tasks=tasks).augmented_tasks(RefillKnobs()) == ("topic",)


def test_a_shared_teacher_begins_with_sources_of_all_its_tasks_or_of_none(
    files: dict[str, str], recipe: Make, model: str
) -> None:
    """Catches a teacher that begins with all own labels of a task, those that train_rows or a fold keeps from it."""
    topic = {"data": files["target"], "text": "text", "label": "topic"}
    tasks = {"topic": {**topic, "source": {"data": files["source"]}}, "urgency": {**topic, "label": "urgency"}}
    with pytest.raises(ValueError, match="task 'urgency' shares its teacher"):
        recipe("kd", tasks=tasks, teacher={"model": model, "multitask": True})
    recipe("kd", tasks=tasks, teacher={"model": model, "multitask": True, "source": "together"})


def test_what_the_rows_decide_is_said_before_training(files: dict[str, str], recipe: Make, tmp_path: Path) -> None:
    """Catches too few rows to judge by, and a source with other labels, found after hours."""
    few = recipe("l2a", task={"train_rows": 6})
    pipeline = Pipeline(few, StageStore(tmp_path))
    run_stages(pipeline.store, [pipeline.data])
    with pytest.raises(UserError, match="needs at least 8"):
        check_with_data(few, load_data(pipeline.path(pipeline.data)))
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "never late", "topic": "returns"}\n')
    wrong = Pipeline(recipe("l2a", task={"source": {"data": str(other)}}), StageStore(tmp_path))
    with pytest.raises(UserError, match=r"the source .*no train row has the label 'returns'.*source\.where"):
        run_stages(wrong.store, [wrong.data])


def test_a_checkpoint_without_masked_lm_is_said_before_training(
    recipe: Make, model: str, checkpoint: Callable[..., Path]
) -> None:
    """Catches candidates refilled by a random head, and a tokenizer that knows no mask, found after the teacher."""
    check_before_training(recipe("refill"))
    check_before_training(recipe(f"refill:mlm={model}"))
    with pytest.raises(UserError, match="mask token"):
        check_before_training(recipe("refill", teacher={"model": str(checkpoint())}, student={"layers": 1}))


@pytest.mark.parametrize("method", ["source", f"refill:{SHORT}", LEARNED], ids=["source", "refill", "l2a"])
def test_a_teacher_below_the_majority_is_refused(method: str, recipe: Make, store: StageStore, tmp_path: Path) -> None:
    """Catches a useless teacher whose answers label a thousand texts, by whichever way these were found."""
    taught = Pipeline(recipe(method), store)
    run_stages(store, needed_for(taught.targets["topic"]))
    pipeline = Pipeline(taught.recipe, StageStore(tmp_path))
    for stage in needed_for(pipeline.targets["topic"]):
        shutil.copytree(taught.path(stage), pipeline.path(stage))
    train = load_data(pipeline.path(pipeline.data))["topic"].splits["train"]
    wrong = np.eye(2, dtype=np.float32)[1 - np.asarray(train.labels)]
    np.save(pipeline.path(pipeline.targets["topic"]) / TARGETS_FILE, wrong)
    with pytest.raises(UserError, match="so it cannot label further texts") as caught:
        run_stages(pipeline.store, needed_for(pipeline.student))
    assert "\n" not in str(caught.value)
    assert not pipeline.store.is_done(candidates_stage(pipeline))
    assert not list(tmp_path.glob("masked-lm*")), "the costly stages come after the check"


def test_the_teacher_reads_the_source_as_the_recipe_says(recipe: Make, store: StageStore, tmp_path: Path) -> None:
    """Catches source rows that the teacher never saw, and a source teacher that is trained again for every subset."""
    first = Pipeline(recipe("kd", task={"train_rows": 20}), store)
    again = Pipeline(recipe("kd", task={"train_rows": 20, "train_rows_seed": 1}), store)
    alone, both = (
        Pipeline(
            recipe("kd", task={"train_rows": 20}, teacher={**first.recipe.teacher.model_dump(), "source": way}), store
        )
        for way in ("none", "together")
    )
    before = [pipeline.teachers["topic"].inputs.get("before") for pipeline in (first, again, alone, both)]
    assert before[0]
    assert before[1]
    assert before[0].folder_name == before[1].folder_name
    assert first.teachers["topic"].folder_name != again.teachers["topic"].folder_name
    assert before[2] is None
    assert before[3] is None
    steps = {}
    for name, pipeline in (("first", first), ("together", both), ("none", alone)):
        run_stages(store, needed_for(pipeline.teachers["topic"]))
        steps[name] = load_file(pipeline.path(pipeline.teachers["topic"]) / "model.safetensors")
    assert {len(rows) for rows in [load_data(first.path(first.data))["topic"].splits["train"].texts]} == {20}
    for one, other in itertools.combinations(steps.values(), 2):
        assert any(not torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_added_texts_are_none_without_such_a_method() -> None:
    """Catches a method taken for one that adds texts."""
    assert added_texts(parse_method("kd+swa")) is None
    assert added_texts(parse_method("l2a:weight=0")) is None


def test_the_task_data_of_a_student_is_not_changed(toy_data: TaskData) -> None:
    """Catches added rows that stay in the task after its training."""
    found, logits = with_added({"topic": toy_data}, {"topic": np.zeros((108, 3))}, {})
    assert found == {"topic": toy_data}
    assert len(logits["topic"]) == 108

"""`lm-eval:TASK`: a task of lm-evaluation-harness, by its name or a YAML file of its own form.

The harness reads the data, writes the question, filters the answer and scores it; the models are
asked by kanna, in their own runtimes (https://github.com/EleutherAI/lm-evaluation-harness).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna._util import extras
from kanna._util.nearest import nearest, no_file
from kanna.errors import NotFoundError, UsageError
from kanna.tasks.base import Task, TaskAnswer, TaskPrompt

COUNT = 100
"""Questions where nobody says how many: the tasks have thousands."""
_YAML = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class HarnessQuestion:
    """A document of a task.

    Attributes:
        task: The task, as the harness has it.
        doc: The document.
        context: The question, after the examples that the task puts before it.
        metric: What says whether an answer is right.
    """

    task: Any
    doc: Any
    context: str
    metric: str

    @property
    def chooses(self) -> bool:
        """Whether it is answered by the likeliest choice."""
        return self.task.OUTPUT_TYPE == "multiple_choice"

    def score(self, answer: TaskAnswer) -> float:
        """What the harness gives for an answer, by the metric."""
        return float(_metrics(self.task, self.doc, self.context, answer)[self.metric])


def _examples(argument: str, count: int | None) -> list[HarnessQuestion]:
    """The first documents of a task, each a question."""
    extras.require("tasks", f"lm-eval:{argument}")
    task = _task(argument)
    if task.OUTPUT_TYPE not in ("multiple_choice", "generate_until"):
        raise UsageError(
            f"{argument} of lm-evaluation-harness is scored by likelihoods alone",
            expected="a task of questions that are answered right or wrong",
            todo="measure KL divergence and perplexity with --text",
        )
    metrics = list(getattr(task, "_metric_fn_list", {}))
    if getattr(task, "multiple_input", 0) or "acc_mutual_info" in metrics:
        raise UsageError(
            f"{argument} of lm-evaluation-harness compares questions, not answers",
            expected="a task whose choices follow one question",
        )
    made = list(_documents(task, argument, count or COUNT))
    if not made:
        raise UsageError(f"{argument} of lm-evaluation-harness has no document")
    metric = _metric(task, metrics, *made[0])
    return [HarnessQuestion(task, doc, context, metric) for doc, context in made]


def _task(argument: str) -> Any:
    """The task of a name or a YAML file."""
    from lm_eval.tasks import TaskManager

    path = Path(argument)
    given = path.suffix.lower() in _YAML
    if given and not path.is_file():
        raise NotFoundError(no_file(path), expected="a YAML file of lm-evaluation-harness")
    with _quiet():
        # Its own definitions are thousands of files: a YAML file needs none of them.
        manager = TaskManager(include_defaults=not given)
        if not given and argument not in manager.all_tasks:
            raise UsageError(
                f"lm-evaluation-harness has no task {argument!r}"
                f"{_meant(argument) or nearest(argument, manager.all_subtasks)}",
                expected="a name of `lm-eval ls tasks`, or a YAML file",
            )
        if argument in manager.all_groups:
            raise UsageError(
                f"{argument} of lm-evaluation-harness is a group of tasks",
                expected="one of its tasks",
            )
        try:
            leaves = manager.load(str(path) if given else argument)["tasks"]
        except Exception as error:  # whatever a definition or a dataset can raise
            raise UsageError(
                f"{argument} of lm-evaluation-harness cannot be loaded: {_first_line(error)}",
                todo="fetch its data where there is a network, or name local files in a YAML file: "
                "dataset_path: json, dataset_kwargs: {data_files: {test: FILE.jsonl}}",
            ) from error
    if len(leaves) != 1:
        raise UsageError(
            f"{argument} of lm-evaluation-harness is a group of {len(leaves)} tasks",
            expected=f"one of them, such as {', '.join(sorted(leaves)[:3])}",
        )
    return next(iter(leaves.values()))


def _meant(argument: str) -> str:
    """` (did you mean …?)` of a YAML file here that is called like the task; "" for none."""
    files = [argument + ending for ending in _YAML if Path(argument + ending).is_file()]
    return f" (did you mean lm-eval:{files[0]}?)" if files else ""


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """The harness logs what it looks for, and the data have bars of their own."""
    import datasets

    logger = logging.getLogger("lm_eval")
    before, bars = logger.level, datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(before)
        if not bars:
            datasets.enable_progress_bars()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


def _documents(task: Any, argument: str, count: int) -> Iterator[tuple[Any, str]]:
    shots = task.config.num_fewshot or 0
    for doc in itertools.islice(task.eval_docs, count):
        try:
            context = task.fewshot_context(doc, num_fewshot=shots)
        except Exception as error:  # a template of a stranger, over data of another
            raise UsageError(
                f"{argument} of lm-evaluation-harness cannot write a question: {_first_line(error)}"
            ) from error
        yield doc, context


def _requests(task: Any, doc: Any, context: str) -> list[Any]:
    made = task.construct_requests(doc=doc, ctx=context)
    return made if isinstance(made, list) else [made]


def _metrics(task: Any, doc: Any, context: str, answer: TaskAnswer) -> Mapping[str, Any]:
    """What the harness makes of an answer."""
    requests = _requests(task, doc, context)
    if task.OUTPUT_TYPE == "multiple_choice":
        sizes = [len(_choice(request).encode()) for request in requests]
        likely = [score * size for score, size in zip(answer.scores, sizes, strict=True)]
        return task.process_results(doc, [(value, False) for value in likely])
    request = requests[0]
    request.resps = [answer.last]
    task._instances = requests
    task.apply_filters()
    filtered = next(iter(request.filtered_resps.values()), answer.last)
    return task.process_results(doc, [filtered])


def _choice(request: Any) -> str:
    """The text of a choice, without what stands between the question and it."""
    return request.args[1].removeprefix(" ")


def _metric(task: Any, metrics: Sequence[str], doc: Any, context: str) -> str:
    """The first metric that is 0 or 1 for an answer."""
    choices = len(_requests(task, doc, context))
    silent = TaskAnswer(texts=("",), scores=(-1.0,) * choices)
    values = _metrics(task, doc, context, silent)
    for name in [*metrics, *values]:
        if isinstance(values.get(name), (bool, int, float)) and values[name] in (0, 1):
            return name
    raise UsageError(
        f"a task of lm-evaluation-harness is scored by {', '.join(values)}",
        expected="a metric that says right or wrong",
    )


def _prompt(question: HarnessQuestion, chat: bool) -> TaskPrompt:
    requests = _requests(question.task, question.doc, question.context)
    expected = str(question.task.doc_to_target(question.doc))
    if question.chooses:
        choices = tuple(_choice(request) for request in requests)
        joint = requests[0].args[1].removesuffix(choices[0])
        return TaskPrompt(
            turns=(question.context,), choices=choices, expected=expected, joint=joint
        )
    how: Mapping[str, Any] = requests[0].args[1]
    until = how.get("until") or []
    stop = (until,) if isinstance(until, str) else tuple(str(text) for text in until)
    return TaskPrompt(
        turns=(question.context,),
        stop=tuple(text for text in stop if text),
        expected=expected,
        max_tokens=int(how.get("max_gen_toks", 256)),
    )


def _score(question: HarnessQuestion, answer: TaskAnswer, reference: TaskAnswer | None) -> str:
    return "" if question.score(answer) >= 1 else f"{question.metric} is 0"


TASK = Task(
    summary="A task of lm-evaluation-harness: its questions, its filters, its score",
    count=COUNT,
    examples=_examples,
    prompt=_prompt,
    score=_score,
    max_tokens=256,
    argument="TASK or FILE.yaml",
)

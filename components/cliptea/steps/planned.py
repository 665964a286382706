"""The outputs that the steps of a run will look for, known before any of them exists."""

from cliptea.data.catalogue import Catalogue
from cliptea.data.datasets import open_dataset
from cliptea.errors import ConfigError
from cliptea.manifest import Manifest, Output
from cliptea.run import Run
from cliptea.steps.clip_time import clip_time_output
from cliptea.steps.evaluation_tasks import evaluation_tasks, scores_output
from cliptea.steps.speed import speed_output
from cliptea.steps.split import BOTH, VAL, Splits, split_output
from cliptea.steps.teacher import TeacherCache, text_sets
from cliptea.steps.tokens import view_outputs
from cliptea.steps.train import TrainInputs, model_output
from cliptea.teacher.demo_clip import demo_output
from cliptea.teacher.outputs import text_output

__all__ = ["planned"]


def planned(run: Run) -> list[Output]:
    """All outputs of a run, except for its report, whose fingerprint depends on the scores.

    Raises:
        ConfigError: two variants would train the same student at the same time.
        StorageError: a file of weights or text features does not exist.
    """
    config = run.config
    others = {name: further.data(name, config.data) for name, further in config.evaluation.sets.items()}
    splits = Splits(
        own=_promised(split_output(config.data, run.data_digest, BOTH), open_dataset(config.data).catalogue),
        others={
            name: _promised(split_output(data, run.evaluation_digests[name], VAL), open_dataset(data).catalogue)
            for name, data in others.items()
        },
    )
    views = view_outputs(run, splits.own.fingerprint)
    texts = {label: text_output(config, prompt) for label, prompt in text_sets(config, splits).items()}
    teacher = TeacherCache(
        tokens=_promised(views.tokens),
        regions={key: _promised(wanted.output) for key, wanted in views.regions.items()},
        text={label: _promised(output) for label, output in texts.items()},
    )
    outputs = [splits.own.output, *(split.output for split in splits.others.values()), *texts.values()]
    outputs += [*views.all, clip_time_output(views.tokens)]
    outputs += [model.output for model in run.initial.values()]
    if config.teacher.source.kind == "demo":
        outputs.append(demo_output(config))
    trained: dict[Output, str] = {}
    for variant in run.variants:
        model = model_output(TrainInputs(run=run, variant=variant, splits=splits, teacher=teacher))
        if (other := trained.setdefault(model, variant.label)) != variant.label:
            raise ConfigError(
                f"the variants {other} and {variant.label} would train the same student, because their settings differ "
                "only in what does not change its weights",
                "variants whose weights differ",
                "remove one of them",
            )
        tasks = evaluation_tasks(variant.config, splits, teacher)
        outputs += [model, *(scores_output(variant.config, task, _promised(model)) for task in tasks)]
        outputs.append(speed_output(variant.config, tasks[0].text, _promised(model)))
    return outputs


def _promised(output: Output, catalogue: Catalogue | None = None) -> Manifest:
    """A manifest with everything that the fingerprints of later outputs depend on."""
    return Manifest(**output._asdict(), info={"catalogue": catalogue.model_dump()} if catalogue else {})

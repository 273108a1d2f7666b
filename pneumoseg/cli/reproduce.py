"""The command that reproduces the paper's pipeline on a data set in the competition's format."""

import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from pneumoseg.backend import require_backend
from pneumoseg.cli.app import Backend, app
from pneumoseg.cli.steps import Builder, Step, require_files

PAPERS_CLASSIFIER = "experiments/classifier_augmentation.yaml"
PAPERS_SEGMENTER = "experiments/segmenter_window_swa.yaml"
_TRUTH_OF_TEST = "test-rle.csv"
_SPEC = "spec.json"  # of a bundle
# Names in the folder of results that a run, which bears the name of its experiment, cannot have.
_RESERVED = {"pipeline", "predictions", "scores", "test", "cache"}


class Goal(str, Enum):
    """Goals of `pneumoseg reproduce`, in the order in which a first run makes them."""

    INDEX = "index"
    SHOW_MASKS = "show-masks"
    SHOW_AUGMENTATIONS = "show-augmentations"
    TRAIN_CLASSIFIER = "train-classifier"
    TRAIN_SEGMENTER = "train-segmenter"
    TUNE = "tune"
    SUBMIT = "submit"
    EVALUATE = "evaluate"
    REPORT = "report"
    SHOW_PREDICTIONS = "show-predictions"


@dataclass(frozen=True)
class DataSet:
    """Paths of the files of a data set in the competition's format.

    Attributes:
        train: Folder of the training DICOM files.
        test: Folder of the test DICOM files.
        annotations: CSV of the training images' masks.
        sample: CSV with the ids of a submission.
        id_map: CSV from image ids to NIH file names; None if there is none.
        truth: CSV of the test images' masks, which the competition does not give; None if there is none.
        test_id_map: The id map of the test images; None if it lists none of them.
    """

    train: Path
    test: Path
    annotations: Path
    sample: Path
    id_map: Path | None
    truth: Path | None
    test_id_map: Path | None

    @classmethod
    def find(cls, folder: Path, named: dict[str, Path | None]) -> "DataSet":
        """Find the files of a data set by their usual names, stage 2 before stage 1.

        Args:
            folder: The data set's folder.
            named: Paths that replace what would be found, by attribute; None where nothing was named.

        Example:
            >>> DataSet.find(Path("siim"), {}).train.as_posix()
            'siim/dicom-images-train'
        """
        given = {name: path for name, path in named.items() if path is not None}
        truth = _first(folder, _TRUTH_OF_TEST)
        id_map = given.get("id_map") or _first(folder, "nih_id.csv")
        found: dict[str, Any] = {
            "train": folder / "dicom-images-train",
            "test": _first(folder, "stage_2_images", "dicom-images-test") or folder / "dicom-images-test",
            "annotations": _first(folder, "stage_2_train.csv", "train-rle.csv") or folder / "train-rle.csv",
            "sample": _first(folder, "stage_2_sample_submission.csv", "sample_submission.csv")
            or folder / "stage_2_sample_submission.csv",
            "id_map": id_map,
            "truth": truth,
            "test_id_map": id_map if id_map and truth and _shares_ids(truth, id_map) else None,
        }
        return cls(**{**found, **given})


def _first(folder: Path, *names: str) -> Path | None:
    return next((folder / name for name in names if (folder / name).exists()), None)


def _shares_ids(truth: Path, id_map: Path) -> bool:
    """Return whether an id map lists any of the test images."""
    from pneumoseg.annotations.competition import read_runs
    from pneumoseg.data.id_map import read_id_map

    return bool(set(read_runs(truth)["image_id"]) & set(read_id_map(id_map).index))


@dataclass(frozen=True)
class Plan:
    """The steps from a data set to every result.

    Attributes:
        data: The data set.
        runs: Folder for manifests, runs and results.
        classifier: Experiment file of the classifier; its run has the file's name.
        segmenter: Experiment file of the segmenter; its run has the file's name.
        tuned: Whether the decision rule is chosen on validation images.
        flip: Whether the report also shows predictions averaged over mirrored images.
        engine: Engine of the networks: "keras", or the export to make and use, such as "openvino-int8".
        backend: Backend of Keras that networks are trained on; None for the one in the environment.
    """

    data: DataSet
    runs: Path
    classifier: Path
    segmenter: Path
    tuned: bool = True
    flip: bool = False
    engine: str = "keras"
    backend: str | None = None

    def __post_init__(self) -> None:
        """Refuse experiments whose runs would overwrite each other or other results, and unknown names."""
        if self.backend is not None:
            require_backend(self.backend)
        from pneumoseg.engines.export_record import EXPORT_NAMES

        if self.engine not in ("keras", *EXPORT_NAMES):
            raise ValueError(f"--engine is {self.engine!r}, expected keras, {', '.join(EXPORT_NAMES)}")
        names = [self.classifier.stem, self.segmenter.stem]
        if names[0] == names[1] or _RESERVED & set(names):
            raise ValueError(
                f"{self.classifier} and {self.segmenter}: a run bears the name of its experiment file, so names must "
                f"differ, and be none of {', '.join(sorted(_RESERVED))}: rename a file"
            )

    def steps(self, goal: Goal) -> list[Step]:
        """Return the steps to make for a goal, in order; each brings the steps that it needs."""
        makers: dict[Goal, Callable[[], list[Step]]] = {
            Goal.INDEX: lambda: [self.index()],
            Goal.SHOW_MASKS: lambda: [self._picture("show-masks", "masks.png")],
            Goal.SHOW_AUGMENTATIONS: lambda: [self._picture("show-augmentations", "augmentations.png")],
            Goal.TRAIN_CLASSIFIER: lambda: [self.train(self.classifier)],
            Goal.TRAIN_SEGMENTER: lambda: [self.train(self.segmenter)],
            Goal.TUNE: lambda: [self.tune()],
            Goal.SUBMIT: self.submit,
            Goal.EVALUATE: lambda: [self.evaluate()],
            Goal.REPORT: lambda: [self.report()],
            Goal.SHOW_PREDICTIONS: lambda: [self.show_predictions()],
        }
        return makers[goal]()

    def index(self) -> Step:
        """Read the training files and annotations into a manifest."""
        return self._index(self.data.train, self.data.annotations, self.data.id_map, self.runs / "manifest.csv")

    def train(self, experiment: Path) -> Step:
        """Train a network as its experiment file says; a finished run stays, a stopped one is resumed."""
        from pneumoseg.config import experiment_files, load_experiment
        from pneumoseg.training.run import Run

        index, run = self.index(), Run(self.runs / experiment.stem)
        command = ("train", str(experiment), "--manifest", str(index.output), "--out", str(run.folder), "--resume")
        start = getattr(load_experiment(experiment), "start_from", None)
        patterns = ((Path(start), _SPEC),) if start else ()
        options = ("--backend", self.backend) if self.backend else ()
        files = tuple(experiment_files(experiment))
        return Step(command, run.metrics_file, (index,), files, patterns, options=options)

    def assemble(self) -> Step:
        """Join the networks of both runs to a pipeline."""
        trained = [self.train(experiment) for experiment in (self.classifier, self.segmenter)]
        runs = [str(step.output.parent) for step in trained if step.output]
        command = ("assemble", *runs, "--out", str(self._pipeline))
        patterns = tuple((Path(run), pattern) for run in runs for pattern in (f"**/{_SPEC}", "*.json"))
        return Step(command, self._pipeline / "pipeline.json", tuple(trained), patterns=patterns)

    def networks(self) -> Step:
        """Join the networks to a pipeline, and export it for another engine than Keras."""
        assembled = self.assemble()
        if self.engine == "keras":
            return assembled
        from pneumoseg.engines.export_record import EXPORTS, RECORD

        library, precision = self.engine.split("-")
        out, index = self._pipeline / EXPORTS / self.engine / RECORD, self.index()
        command = ["export", "--pipeline", str(self._pipeline), "--engine", library, "--precision", precision]
        command += ["--calibrate" if precision == "int8" else "--images", str(index.output)]
        return Step(tuple(command), out, (assembled, index))

    def cache(self, *, scored: bool, flip: bool = False) -> Step:
        """Run the networks once over the images that neither was trained on.

        Args:
            scored: Whether these are the images to score; otherwise those to choose the rule on.
            flip: Whether mirrored images are averaged.
        """
        index = self._scored_index() if scored else self.index()
        name = "flip" if flip else "test" if scored and self.data.truth else "validation"
        out = self.runs / "predictions" / name
        command = ["cache-predictions", "--manifest", str(index.output), "--pipeline", str(self._pipeline)]
        command += ["--out", str(out), *(["--flip"] if flip else []), *self._engine]
        return Step(tuple(command), out / "predictions.csv", (self.networks(), index))

    def tune(self) -> Step:
        """Choose the decision rule.

        Where the test images' masks are known, these images are scored, and all validation images choose the rule.
        Otherwise half of the validation images choose it and the other half is scored.
        """
        cached, fraction = self.cache(scored=False), "1" if self.data.truth else "0.5"
        command = ("tune", "--predictions", _folder(cached), "--pipeline", str(self._pipeline), "--fraction", fraction)
        return Step(command, self._pipeline / "tuning.json", (cached,))

    def submit(self) -> list[Step]:
        """Predict the test images, and check the submission against the sample."""
        out = self.runs / "submission.csv"
        command = ["submit", str(self.data.test), "--pipeline", str(self._pipeline), "--out", str(out)]
        command += ["--ids", str(self.data.sample), *self._rule, *self._engine]
        made = Step(tuple(command), out, (self._decided(),), (self.data.sample,), folders=(self.data.test,))
        check = ("validate-submission", str(out), "--expected", str(self.data.sample))
        return [made, Step(check, None, (made,))]

    def evaluate(self) -> Step:
        """Score the pipeline and print every table."""
        cached = self.cache(scored=True)
        command = ["evaluate", "--predictions", _folder(cached), "--pipeline", str(self._pipeline)]
        command += ["--out", str(self.runs / "scores"), *self._rule]
        return Step(tuple(command), None, (self._decided(), cached))

    def report(self) -> Step:
        """Write the page with every score, table, curve and image."""
        cached, out = self.cache(scored=True), self.runs / "report.html"
        flipped = (self.cache(scored=True, flip=True),) if self.flip else ()
        command = ["report", "--predictions", _folder(cached), "--pipeline", str(self._pipeline), "--out", str(out)]
        command += [*self._rule, *(word for step in flipped for word in ("--compare", _folder(step)))]
        return Step(tuple(command), out, (self._decided(), cached, *flipped))

    def show_predictions(self) -> Step:
        """Draw true and predicted masks over images that were not trained on."""
        index, out = self._scored_index(), self.runs / "predictions.png"
        command = ["show-masks", "--manifest", str(index.output), "--pipeline", str(self._pipeline)]
        command += ["--out", str(out), *self._rule, *self._engine]
        return Step(tuple(command), out, (self._decided(), index))

    @property
    def _pipeline(self) -> Path:
        return self.runs / "pipeline"

    @property
    def _rule(self) -> tuple[str, ...]:
        return () if self.tuned else ("--assembled",)

    @property
    def _engine(self) -> tuple[str, ...]:
        return () if self.engine == "keras" else ("--engine", self.engine)

    def _decided(self) -> Step:
        """Return the step that gives the pipeline the decision rule in force."""
        return self.tune() if self.tuned else self.networks()

    def _scored_index(self) -> Step:
        if self.data.truth is None:
            return self.index()
        return self._index(self.data.test, self.data.truth, self.data.test_id_map, self.runs / "test" / "manifest.csv")

    def _index(self, folder: Path, annotations: Path, id_map: Path | None, out: Path) -> Step:
        mapped = ("--id-map", str(id_map)) if id_map else ()
        command = ("index", str(folder), str(annotations), "--out", str(out), *mapped)
        return Step(command, out, inputs=(annotations, *([id_map] if id_map else [])), folders=(folder,))

    def _picture(self, name: str, file: str) -> Step:
        index, out = self.index(), self.runs / file
        return Step((name, "--manifest", str(index.output), "--out", str(out)), out, (index,))


def _folder(step: Step) -> str:
    return str(step.output.parent) if step.output else ""


def _path(text: str) -> Path:
    """Parse a path; a shell may have left the ~ to us."""
    if not text:
        raise typer.BadParameter("is empty: name a file or a folder")
    return Path(text).expanduser()


def _option(text: str) -> typer.models.OptionInfo:
    return typer.Option(parser=_path, metavar="PATH", help=text)


@app.command()
def reproduce(
    data: Annotated[Path, typer.Argument(parser=_path, metavar="DATA", help="Folder with the data set.")],
    goals: Annotated[
        list[Goal] | None, typer.Argument(help="Goals to reach.", show_default="submit evaluate report")
    ] = None,
    runs: Annotated[Path, _option("Folder for manifests, runs and results.")] = Path("runs"),
    experiment: Annotated[
        list[Path] | None,
        _option("Experiment file instead of the paper's, for the network that its `kind` names; repeatable."),
    ] = None,
    train: Annotated[Path | None, _option("Folder of the training images instead of DATA/dicom-images-train.")] = None,
    test: Annotated[Path | None, _option("Folder of the test images instead of DATA/stage_2_images.")] = None,
    annotations: Annotated[Path | None, _option("Training masks instead of DATA/stage_2_train.csv.")] = None,
    sample: Annotated[Path | None, _option("Ids to submit instead of DATA/stage_2_sample_submission.csv.")] = None,
    id_map: Annotated[Path | None, _option("Image ids to NIH file names instead of DATA/nih_id.csv.")] = None,
    test_id_map: Annotated[Path | None, _option("The same of the test images, if their masks are known.")] = None,
    tuned: Annotated[
        bool, typer.Option("--tune/--no-tune", help="Choose the decision rule on validation images.")
    ] = True,
    flip: Annotated[bool, typer.Option("--flip", help="Also show in the report what mirrored images change.")] = False,
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="Engine of the networks: keras, or an export such as openvino-int8.")
    ] = "keras",
    backend: Backend = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the commands that would run.")] = False,
) -> None:
    """Make all missing or stale results of a data set.

    The data set is in the competition's format.

    Prints each command before it runs, so that any of them can be repeated by hand. A file is made again if its command
    or anything that the command reads has changed. A finished run is never overwritten: where it would have to be
    trained again, the command says so and stops.
    """
    named = {"train": train, "test": test, "annotations": annotations, "sample": sample}
    named |= {"id_map": id_map, "test_id_map": test_id_map}
    chosen = goals or [Goal.SUBMIT, Goal.EVALUATE, Goal.REPORT]
    found = DataSet.find(data, named)
    plan = Plan(found, runs, *_experiments(experiment or [], chosen), tuned, flip, engine, backend)
    required = [(found.annotations, "--annotations")]
    require_files([*required, (found.sample, "--sample")] if Goal.SUBMIT in chosen else required)
    builder = Builder(runs / ".made_of", _show if dry_run else _run, dry_run=dry_run)
    for step in (step for goal in chosen for step in plan.steps(goal)):
        builder.make(step)


def _experiments(files: Sequence[Path], goals: Sequence[Goal]) -> tuple[Path, Path]:
    """Return the experiment files of the classifier and of the segmenter.

    Raises:
        ValueError: If two are of one kind, or a training is asked for and only the other one's experiment is named.
    """
    from pneumoseg.config import load_experiment

    chosen = {"classifier": Path(PAPERS_CLASSIFIER), "segmenter": Path(PAPERS_SEGMENTER)}
    given: dict[str, Path] = {}
    for file in files:
        kind = load_experiment(file).kind
        if kind in given:
            raise ValueError(f"{given[kind]} and {file} are both experiments of a {kind}: name one of them")
        given[kind] = file
    for missing in chosen.keys() - given.keys():
        if given and Goal(f"train-{missing}") in goals:
            raise ValueError(f"train-{missing}: {files[0]} is not an experiment of a {missing}: name one that is")
    chosen |= given
    return chosen["classifier"], chosen["segmenter"]


def _show(command: Sequence[str]) -> None:
    typer.echo(shlex.join(["pneumoseg", *command]))


def _run(command: Sequence[str]) -> None:
    """Run a command in a process of its own, which gives its memory back when it ends."""
    _show(command)
    sys.stdout.flush()
    status = subprocess.run([sys.executable, "-m", "pneumoseg", *command], check=False).returncode
    if status:
        raise typer.Exit(status if status > 0 else 1)

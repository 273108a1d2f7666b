"""Score a cross-validated classifier and segmenter with the same folds, each image by the networks of its own fold.

This suits a data set that is too small to keep a part of it apart: every image is scored by networks that have not seen
it. The rule is the assembled one, with a threshold of 0.5 in both networks. It is compared with a rule that is chosen
for each fold on the out-of-fold predictions of the other folds.

Run with: python experiments/out_of_fold.py CLASSIFIER_RUN SEGMENTER_RUN MANIFEST FOLDER
Both runs have cross_validate: true and the same split. Predictions, tables and report.html are written to the folder.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pandas as pd

from pneumoseg.data.index import load_manifest
from pneumoseg.data.patients import patient_groups
from pneumoseg.evaluation import STAGED, Evaluation, ablation, evaluate
from pneumoseg.evaluation.measures import measure
from pneumoseg.evaluation.tables import gains_over
from pneumoseg.evaluation.tuning import tune
from pneumoseg.inference import assemble_pipeline, load_pipeline
from pneumoseg.models.bundle import read_data_split
from pneumoseg.postprocessing import DecisionRule
from pneumoseg.predictions import Predictions, pool, predict
from pneumoseg.report.page import write_report
from pneumoseg.training.run import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("classifier", "segmenter", "manifest", "folder"):
        parser.add_argument(name, type=Path)
    arguments = parser.parse_args()
    folds = zip(Run(arguments.classifier).folds(), Run(arguments.segmenter).folds(), strict=True)
    table = load_manifest(arguments.manifest)
    parts = [of_fold(*fold, table, arguments.folder / fold[0].folder.name) for fold in folds]
    pooled = pool(parts)
    evaluation = evaluate(pooled, DecisionRule())
    for title, table in evaluation.summaries().items():
        print(f"{title}\n{table.to_string(float_format='{:.3f}'.format, na_rep='')}\n")
    print(f"With the rule chosen on the other folds\n{tuned_on_others(parts, pooled, evaluation).to_string()}")
    write_report(evaluation, arguments.folder / "report.html")


def of_fold(classifier: Run, segmenter: Run, manifest: pd.DataFrame, folder: Path) -> Predictions:
    """Predict the images that the networks of a fold were not trained on."""
    (first,), (second,) = classifier.deployable(), segmenter.deployable()
    kept_out, trained_on = read_data_split(first).validation, read_data_split(second).training
    if both := kept_out & trained_on:
        raise SystemExit(f"{second} was trained on {len(both)} images kept out of {first}: other folds")
    assemble_pipeline(first, second, folder / "pipeline", classifier_threshold=0.5)
    table = manifest[manifest["image_id"].isin(kept_out)].reset_index(drop=True)
    return predict(load_pipeline(folder / "pipeline", 8), table, folder / "predictions", progress=True)


def tuned_on_others(parts: list[Predictions], pooled: Predictions, evaluation: Evaluation) -> pd.DataFrame:
    """Return the gain of the rules chosen on the other folds over the assembled rule."""
    cases = []
    for number, part in enumerate(parts):
        rule = tune(pool([other for n, other in enumerate(parts) if n != number]), DecisionRule()).rule
        print(f"fold {number + 1}: {rule}")
        measures = measure(part, [rule.mask_threshold, rule.top_threshold], [rule.minimum_area])
        cases.append(ablation(part, measures, rule)[STAGED])
    tuned = pd.concat(cases, ignore_index=True)
    arms = {"tuned": tuned, "as assembled": evaluation.cases}
    gains = gains_over(arms, "tuned", patient_groups(pooled.manifest))
    return gains.assign(mean_dice=tuned["dice"].mean())


if __name__ == "__main__":
    main()

"""Scores of a cross-validated classifier and segmenter: each image by the networks that were not trained on it.

For a data set that is too small to set a part of it apart. Both networks have the same folds. The rule is the assembled
one, with a threshold of 0.5 for both networks. It is compared with the rule that is chosen for each fold on the
out-of-fold predictions of the others.

Run with: python experiments/out_of_fold.py CLASSIFIER_RUN SEGMENTER_RUN MANIFEST FOLDER
Both runs have cross_validate: true and the same split. Predictions, tables and report.html are written to the folder.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pandas as pd

from pneumoseg.data.index import load_manifest
from pneumoseg.data.masks import has_mask
from pneumoseg.data.patients import patient_groups
from pneumoseg.decision import DecisionRule
from pneumoseg.evaluation import STAGED, Evaluation, ablation, evaluate, table_columns
from pneumoseg.evaluation.pixel_counts import count_pixels
from pneumoseg.evaluation.tables import paired_differences
from pneumoseg.evaluation.tuning import tune
from pneumoseg.inference import assemble_pipeline, load_pipeline
from pneumoseg.models.bundle_spec import read_bundle_spec
from pneumoseg.predictions import Predictions, cache_predictions, pool
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
    kept_out, trained_on = read_bundle_spec(first).images.validation, read_bundle_spec(second).images.training
    if both := kept_out & trained_on:
        raise SystemExit(f"{second} was trained on {len(both)} images kept out of {first}: other folds")
    assemble_pipeline(first, second, folder / "pipeline", classifier_threshold=0.5)
    table = manifest[manifest["image_id"].isin(kept_out)].reset_index(drop=True)
    return cache_predictions(load_pipeline(folder / "pipeline", 8), table, folder / "predictions", progress=True)


def tuned_on_others(parts: list[Predictions], pooled: Predictions, evaluation: Evaluation) -> pd.DataFrame:
    """Score each fold with the rule chosen on the other folds, and compare with the assembled rule."""
    cases = []
    for number, part in enumerate(parts):
        part = part.with_masks("the scores of a fold")
        rule = tune(pool([other for n, other in enumerate(parts) if n != number]), DecisionRule()).rule
        print(f"fold {number + 1}: {rule}")
        counts = count_pixels(part, [rule.mask_threshold, rule.top_threshold], [rule.minimum_area])
        cases.append(ablation(part, counts, rule)[STAGED])
    tuned = pd.concat(cases, ignore_index=True)
    groups = patient_groups(pooled.manifest)[has_mask(pooled.manifest)]
    variants = {"tuned": tuned, "as assembled": evaluation.cases}
    differences = paired_differences(variants, "tuned", groups)
    return table_columns(differences).assign(mean_dice=tuned["dice"].mean())


if __name__ == "__main__":
    main()

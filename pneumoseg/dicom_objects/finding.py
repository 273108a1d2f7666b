"""Finding on one image: the facts that DICOM objects hold."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Finding:
    """The pipeline's finding on one image.

    Attributes:
        mask: Mask on the image's own grid, bool, (H, W); empty without a pneumothorax.
        probability: The classifier's probability of pneumothorax in [0, 1]; NaN without a classifier.
        pixel_area_mm2: Area of a pixel in mm2; NaN if it is unknown or not believed, see `geometry.pixel_area_mm2`.
        spacing_source: Element that gives the pixel spacing: PixelSpacing, ImagerPixelSpacing or ''.
        pixel_spacing: Distance between rows and between columns, in mm; None if the file does not give it.
        pipeline_digest: SHA-256 of the pipeline, see `Pipeline.digest`.
        pixel_aspect: Height of a pixel divided by its width.

    Example:
        >>> finding = Finding(np.ones((2, 3), bool), 0.9, 0.25, "PixelSpacing", (0.5, 0.5), "6e97")
        >>> int(finding.mask.sum()) * finding.pixel_area_mm2
        1.5
    """

    mask: np.ndarray
    probability: float
    pixel_area_mm2: float
    spacing_source: str
    pixel_spacing: tuple[float, float] | None
    pipeline_digest: str
    pixel_aspect: float = 1.0

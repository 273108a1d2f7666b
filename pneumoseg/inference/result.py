"""The pipeline's result for one image."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pneumoseg import rle
from pneumoseg.dicom_objects import KINDS, Finding, make_objects
from pneumoseg.geometry import pixel_area_mm2
from pneumoseg.image_errors import ImageError
from pneumoseg.images import read_image
from pneumoseg.overlay import draw_outlines

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pydicom.dataset import Dataset


@dataclass(frozen=True)
class Result:
    """The pipeline's result for one image.

    Attributes:
        image_id: The stem of the file's name; empty for an array.
        probability: The classifier's probability of pneumothorax; NaN without a classifier or after an error.
        rle: The mask's run-length code; `-1` for an empty mask.
        shape: (H, W) of the image and the mask; (0, 0) if the image could not be read.
        stage: The stage that decided: "classifier" (not above its threshold), "segmenter" (no pixel above the mask
            threshold), "triplet" (too few pixels above the top threshold), "elimination" (only small components),
            "mask" (a mask is left), or "error".
        error: Why the image could not be read; None otherwise.
        source: The path or the array of the image.
        pixel_spacing: Distance between rows and between columns, in mm; None if the file does not give it.
        spacing_source: Element that gives the spacing: PixelSpacing, or ImagerPixelSpacing, which is measured at the
            detector, where the patient appears magnified; '' without a spacing.
        pixel_aspect: Height of a pixel divided by its width.
        prob_map: float32, (size, size), the segmenter's probabilities; None unless they were asked for, see
            `Pipeline.predict_many`, and after an error.
        pipeline_digest: Digest of the pipeline, see `Pipeline.digest`.

    Example:
        >>> result = Result("a", 0.9, "0 3 5 2", (4, 4), "mask")
        >>> result.area_px, result.has_pneumothorax
        (5, True)
    """

    image_id: str
    probability: float
    rle: str = field(repr=False)
    shape: tuple[int, int]
    stage: str
    error: ImageError | None = None
    source: str | Path | np.ndarray = field(default="", repr=False, compare=False)
    pixel_spacing: tuple[float, float] | None = None
    spacing_source: str = ""
    pixel_aspect: float = 1.0
    prob_map: np.ndarray | None = field(default=None, repr=False, compare=False)
    pipeline_digest: str = field(default="", repr=False, compare=False)

    @property
    def mask(self) -> np.ndarray:
        """The final mask, bool (H, W)."""
        return rle.decode(self.rle, self.shape)

    @property
    def has_pneumothorax(self) -> bool:
        """Whether the mask holds any pixel."""
        return self.rle != rle.EMPTY

    @property
    def area_px(self) -> int:
        """Number of pixels of the mask."""
        return sum(map(int, self.rle.split()[1::2]))

    @property
    def area_mm2(self) -> float:
        """Area of the mask in mm2; NaN if the pixel spacing is unknown or not believed, see `pixel_area_mm2`."""
        return self.area_px * pixel_area_mm2(self.shape, self.pixel_spacing)

    def show(self) -> "Figure":
        """Draw the image with the outline of the mask.

        Raises:
            ImageError: If the image cannot be read.
        """
        image = self.source if isinstance(self.source, np.ndarray) else read_image(self.source)
        title = f"{self.image_id}  {self._summary()}".strip()
        return draw_outlines(image, {"prediction": self.mask}, title, self.pixel_aspect)

    def to_dicom(self, kinds: Sequence[str] = KINDS, *, strict: bool = False) -> dict[str, "Dataset"]:
        """Return the result as DICOM objects of the image's study.

        A positive result gives a segmentation (SEG), a structured report (SR) and a picture with the outline (SC); a
        negative one gives SR and SC. The UIDs follow from the image, the pipeline, the version and the kind of object;
        the times do not, so keep the objects rather than make them again.

        Args:
            kinds: Kinds of objects to make: some of "seg", "sr" and "sc".
            strict: Whether the segmentation leaves out the geometry that viewers need and a radiograph does not have.

        Returns:
            pydicom data sets by kind; no "seg" for an empty mask.

        Raises:
            ImageError: If the image could not be read, is not DICOM, is not a frontal radiograph of a chest as CR, DX
                or Secondary Capture, lacks the UIDs of its study, or was itself made by pneumoseg.
            ValueError: If the result is that of an array, or of networks without a bundle, a kind is unknown, or
                highdicom is not installed.

        Example:
            >>> for kind, dataset in result.to_dicom().items():  # doctest: +SKIP
            ...     dataset.save_as(f"{kind}.dcm")
        """
        if self.error is not None:
            raise self.error
        if isinstance(self.source, np.ndarray):
            raise ValueError("DICOM objects belong to the study of a DICOM file: predict from its path, not an array")
        finding = Finding(
            self.mask,
            self.probability,
            pixel_area_mm2(self.shape, self.pixel_spacing),
            self.spacing_source,
            self.pixel_spacing,
            self.pipeline_digest,
            self.pixel_aspect,
        )
        return make_objects(self.source, finding, kinds, strict=strict)

    def _repr_png_(self) -> bytes | None:
        """Return the picture that Jupyter shows, or None after an error: then Jupyter shows the text."""
        if self.error is not None:
            return None
        file = io.BytesIO()
        self.show().savefig(file)
        return file.getvalue()

    def _summary(self) -> str:
        verdict = f"pneumothorax, {self.area_px} px" if self.has_pneumothorax else "no pneumothorax"
        decided = "" if self.has_pneumothorax else f", decided by the {self.stage}"
        return f"{verdict} (probability {self.probability:.2f}{decided})"

"""What the pipeline says of one image."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pneumoseg import rle
from pneumoseg.dicom import DicomError, read_image
from pneumoseg.overlay import draw_outlines

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Result:
    """What the pipeline says of one image.

    Attributes:
        image_id: The file's stem; empty for an array.
        probability: The classifier's probability of pneumothorax; NaN where there is no classifier or an error.
        rle: The mask's run-length code, `-1` where there is none.
        shape: (H, W) of the image and the mask; (0, 0) where the image could not be read.
        stage: Which stage decided: "classifier" (not above its threshold), "segmenter" (it drew nothing), "triplet"
            (too few confident pixels), "elimination" (what it drew was too small), "mask" (a mask was left), "error".
        error: Why the image could not be read; None otherwise.
        source: The path or array it came from.
    """

    image_id: str
    probability: float
    rle: str = field(repr=False)
    shape: tuple[int, int]
    stage: str
    error: DicomError | None = None
    source: str | Path | np.ndarray = field(default="", repr=False, compare=False)

    @property
    def mask(self) -> np.ndarray:
        """The final mask, bool (H, W)."""
        return rle.decode(self.rle, self.shape)

    @property
    def has_pneumothorax(self) -> bool:
        """Whether a mask was left."""
        return self.rle != rle.EMPTY

    @property
    def area_px(self) -> int:
        """Pixels of the mask."""
        return int(self.mask.sum())

    def show(self) -> "Figure":
        """Draw the image with the mask's outline.

        Raises:
            DicomError: If the image cannot be read.
        """
        image = self.source if isinstance(self.source, np.ndarray) else read_image(self.source)
        return draw_outlines(image, {"prediction": self.mask}, title=f"{self.image_id}  {self._summary()}".strip())

    def _repr_png_(self) -> bytes | None:
        """What Jupyter shows of a result: the picture, or nothing but the text where the image cannot be read."""
        if self.error is not None:
            return None
        file = io.BytesIO()
        self.show().savefig(file)
        return file.getvalue()

    def _summary(self) -> str:
        verdict = f"pneumothorax, {self.area_px} px" if self.has_pneumothorax else "no pneumothorax"
        decided = "" if self.has_pneumothorax else f", decided by the {self.stage}"
        return f"{verdict} (probability {self.probability:.2f}{decided})"

"""The image as displayed, with the outline and the finding burnt in, as a DICOM Secondary Capture."""

import math
from fractions import Fraction

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.valuerep import DSfloat

from pneumoseg.dicom_objects.finding import Finding
from pneumoseg.dicom_objects.maker import CAUTION, MAKER
from pneumoseg.dicom_objects.study import ObjectIdentity
from pneumoseg.overlay import draw_over

# Of the image's longer side, which a viewer fits to the screen, and in pixels.
_LETTERS, _SMALLEST_LETTERS = 0.022, 12


def make_picture(identity: ObjectIdentity, image: np.ndarray) -> Dataset:
    """Return an 8-bit picture of the image as displayed, with the finding written below it.

    The outline is drawn around the mask in colour; without one the picture is grey. The text stands in a band below the
    image, so that it hides nothing and the image's pixels keep their places. The band is wider than a narrow image.

    Args:
        identity: Identity of the object, with the finding.
        image: Image as displayed, uint8, (H, W).
    """
    from highdicom.sc import SCImage

    finding = identity.finding
    pixels = add_caption(draw_over(image, finding.mask), [*describe(finding), CAUTION])
    picture = SCImage(
        pixels,
        "MONOCHROME2" if pixels.ndim == 2 else "RGB",
        8,
        "PATIENT",
        study_instance_uid=identity.source.study_instance_uid,
        patient_orientation=("L", "F"),
        **identity.arguments("picture", 9003),
    )
    picture.ConversionType = "WSD"
    picture.DerivationDescription = f"Finding burnt in by {MAKER}"
    picture.update({element.tag: element for element in identity.source.depiction})
    _set_scale(picture, finding)
    _refer(picture, identity)
    return identity.complete(picture)


def describe(finding: Finding) -> list[str]:
    """Return the finding in lines of text, with the area of the mask in mm2 where it is believed, else in pixels.

    Example:
        >>> describe(Finding(np.ones((4, 4), bool), 0.9, 0.5, "ImagerPixelSpacing", (0.5, 1.0), "0"))
        ['Pneumothorax found', 'Area 8 mm2 at the detector', 'Probability 90.0%']
    """
    probability = [] if math.isnan(finding.probability) else [f"Probability {finding.probability:.1%}"]
    if finding.networks_disagree:
        return ["No pneumothorax outlined", f"But the classifier's {probability[0].lower()} is above its threshold"]
    if not finding.mask.any():
        return ["No pneumothorax found", *probability]
    return ["Pneumothorax found", f"Area {_area(finding)}", *probability]


def _area(finding: Finding) -> str:
    area = int(finding.mask.sum())
    if math.isnan(finding.pixel_area_mm2):
        return f"{area} pixels"
    magnified = " at the detector" if finding.spacing_source == "ImagerPixelSpacing" else ""
    area_mm2 = area * finding.pixel_area_mm2
    return f"{f'{area_mm2:.0f}' if area_mm2 >= 1 else 'less than 1'} mm2{magnified}"


def add_caption(image: np.ndarray, lines: list[str]) -> np.ndarray:
    """Return an image with lines of text in a black band below it.

    Args:
        image: uint8, (H, W) or (H, W, 3).
        lines: Lines of text.

    Returns:
        uint8, with at least as many rows and columns, and the image at the top left.
    """
    size = max(_SMALLEST_LETTERS, round(_LETTERS * max(image.shape[:2])))
    font, gap, text = ImageFont.load_default(size), size // 2, "\n".join(lines)
    box = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((gap, gap), text, font, spacing=gap)
    height, width = image.shape[:2]
    band = Image.new("L", (max(width, math.ceil(box[2]) + gap), math.ceil(box[3]) + gap))
    ImageDraw.Draw(band).multiline_text((gap, gap), text, 255, font, spacing=gap)
    captioned = np.zeros((height + band.height, band.width, *image.shape[2:]), np.uint8)
    captioned[:height, :width] = image
    captioned[height:] = np.asarray(band).reshape(band.height, band.width, *(1,) * (image.ndim - 2))
    return captioned


def _set_scale(picture: Dataset, finding: Finding) -> None:
    """Say how large a pixel is where that is believed; otherwise, how high it is for its width, unless square."""
    if finding.spacing_source == "PixelSpacing" and finding.pixel_spacing and not math.isnan(finding.pixel_area_mm2):
        picture.PixelSpacing = [DSfloat(side, auto_format=True) for side in finding.pixel_spacing]
    elif finding.pixel_aspect != 1:
        ratio = Fraction(finding.pixel_aspect).limit_denominator(1000)
        picture.PixelAspectRatio = [ratio.numerator, ratio.denominator]


def _refer(picture: Dataset, identity: ObjectIdentity) -> None:
    reference, purpose = Dataset(), Dataset()
    purpose.CodeValue = "121322"
    purpose.CodingSchemeDesignator = "DCM"
    purpose.CodeMeaning = "Source image for image processing operation"
    reference.ReferencedSOPClassUID = identity.source.sop_class_uid
    reference.ReferencedSOPInstanceUID = identity.source.sop_instance_uid
    reference.PurposeOfReferenceCodeSequence = [purpose]
    picture.SourceImageSequence = [reference]

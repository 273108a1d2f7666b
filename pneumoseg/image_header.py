"""Facts about an image file in addition to its pixels."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageHeader:
    """Facts about an image in addition to its pixels. Text is '' if the file does not give it.

    Attributes:
        file_format: DICOM, PNG, JPEG or TIFF. Files of the last three give no facts but their size.
        sop_instance_uid: SOP Instance UID.
        patient_id: Patient ID.
        view: View Position, such as PA or AP.
        sex: Patient's Sex: F, M or O.
        age: Patient's Age in years; None if it is absent, not an age, or above `OLDEST_AGE`.
        rows: Height in pixels.
        columns: Width in pixels.
        photometric: MONOCHROME1 or MONOCHROME2, as stored, or the colour model of a DICOM image in colour that shows
            grey. The image that is returned always shows dense tissue white.
        bits_stored: Number of bits of a stored value, 1 to 16; of one channel, if the image is stored in colour.
        transfer_syntax: UID of the transfer syntax.
        pixel_spacing: Distance between rows and between columns, in mm; None if absent or not positive.
        spacing_source: Element that gives the spacing: PixelSpacing, or ImagerPixelSpacing, which is measured at the
            detector, where the patient appears magnified; '' without a spacing.
        pixel_aspect: Height of a pixel divided by its width, from the spacing or else from Pixel Aspect Ratio; 1 if
            neither is given or the sides differ by at most 1%.
        frame_offset: Position in the file, in bytes, of the single JPEG frame that
            `tf.io.decode_jpeg(frame, channels=1, dct_method="INTEGER_ACCURATE")` decodes to exactly this image; 0 if
            the file has none.
        frame_length: Length of that frame in bytes; 0 if the file has none.

    Example:
        >>> header = read_with_header("chest.dcm")[1]  # doctest: +SKIP
        >>> header.rows, header.columns, header.pixel_spacing  # doctest: +SKIP
        (1024, 1024, (0.171, 0.171))
    """

    file_format: str
    sop_instance_uid: str
    patient_id: str
    view: str
    sex: str
    age: float | None
    rows: int
    columns: int
    photometric: str
    bits_stored: int
    transfer_syntax: str
    pixel_spacing: tuple[float, float] | None
    spacing_source: str
    pixel_aspect: float
    frame_offset: int
    frame_length: int

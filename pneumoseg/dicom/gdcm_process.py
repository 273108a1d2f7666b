"""Script that decodes one JPEG frame with gdcm. `codecs` runs it in a separate process.

On some broken frames gdcm throws a C++ exception that its Python binding does not catch, which ends the process.

Arguments: the module search path, then the frame's start-of-frame marker, precision, rows and columns. The script reads
the frame from standard input and writes its samples to standard output: one byte per sample up to a precision of 8,
otherwise two bytes, little endian.
"""

import os
import sys

LOSSLESS = 0xC3


def main() -> None:
    """Decode the frame; fail if gdcm returns nothing."""
    sys.path[:] = sys.argv[1].split(os.pathsep)
    process, precision, rows, columns = map(int, sys.argv[2:])
    import gdcm

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(sys.stdin.buffer.read())
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    kinds = gdcm.TransferSyntax
    image.SetTransferSyntax(kinds(kinds.JPEGLosslessProcess14 if process == LOSSLESS else kinds.JPEGExtendedProcess2_4))
    # gdcm has one JPEG library for each of these depths and is slower if it has to search for the right one.
    depth = 8 if precision <= 8 else 12 if precision <= 12 else 16
    image.SetPixelFormat(gdcm.PixelFormat(1, depth, precision, precision - 1, 0))
    # The binding returns the bytes as text.
    sys.stdout.buffer.write(image.GetBuffer().encode("utf-8", "surrogateescape"))


if __name__ == "__main__":
    main()

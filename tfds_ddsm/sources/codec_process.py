"""Decodes one frame of JPEG, JPEG-LS or JPEG 2000, alone in a process of its own.

Reads a DICOM file with nothing but the frame and its description from stdin, writes the stored
values as a NumPy file to stdout. The decoders are compiled libraries. On damaged streams CharLS
(JPEG-LS) may loop for ever while it holds the interpreter's lock, and OpenJPEG takes as much memory
as the stream asks for; a process can be ended and be limited.
"""

import io
import resource
import sys

import numpy as np
import pydicom
from pydicom.pixels import get_decoder

# A film of 50 million pixels takes OpenJPEG 0.8 GB.
_MAX_MEMORY_BYTES = 4 * 2**30


def main() -> None:
    """Decodes what stdin holds; the last line of stderr says why it cannot."""
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    dataset = pydicom.dcmread(io.BytesIO(sys.stdin.buffer.read()))
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    stored, _ = decoder.as_array(dataset, raw=True, decoding_plugin=sys.argv[1])
    # Not straight to stdout: NumPy asks a buffered file for its position, and a pipe has none.
    content = io.BytesIO()
    np.save(content, stored, allow_pickle=False)
    sys.stdout.buffer.write(content.getbuffer())


if __name__ == "__main__":
    main()

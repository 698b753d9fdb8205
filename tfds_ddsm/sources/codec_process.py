"""Decodes one frame of JPEG, JPEG-LS or JPEG 2000 in a separate process.

Reads from stdin a DICOM file that contains only the frame and its description, and writes the
stored values to stdout as a NumPy file. The decoders are compiled libraries. On damaged streams,
CharLS (JPEG-LS) may loop forever while it holds the interpreter's lock, and OpenJPEG allocates as
much memory as the stream asks for. A process can be killed, and its memory limited.
"""

import io
import resource
import sys

import numpy as np
import pydicom
from pydicom.pixels import get_decoder

# OpenJPEG needs 0.8 GB for a film of 50 million pixels.
_MAX_MEMORY_BYTES = 4 * 2**30


def main() -> None:
    """Decodes stdin; on failure, the last line of stderr gives the reason."""
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    dataset = pydicom.dcmread(io.BytesIO(sys.stdin.buffer.read()))
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    stored, _ = decoder.as_array(dataset, raw=True, decoding_plugin=sys.argv[1])
    # Not directly to stdout: NumPy asks a buffered file for its position, which a pipe lacks.
    content = io.BytesIO()
    np.save(content, stored, allow_pickle=False)
    sys.stdout.buffer.write(content.getbuffer())


if __name__ == "__main__":
    main()

"""Set before any test imports TensorFlow: its start-up notes are not the suite's output."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

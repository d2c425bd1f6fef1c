"""From labelled text to a verified bundle: recipe, data, teacher, student, evaluation and report."""

import serving  # noqa: F401 - first: ONNX Runtime is to report to nobody

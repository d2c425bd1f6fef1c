"""From a student to a measured, verified bundle: graphs, precisions, parity, gates, benchmark."""

import serving  # noqa: F401 - first: ONNX Runtime is to report to nobody

"""Running a bundle: manifest, tokenising, ONNX Runtime, answers, and the HTTP server. No torch.

Importing this package keeps ONNX Runtime from reporting to its maker: since 1.29 its Linux builds send the names and
hashes of models, and keep a device id in the user's cache, unless this variable is set before the library starts.
The user's own setting is left alone. (microsoft/onnxruntime, pull request 27379)
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

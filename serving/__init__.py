"""Running a bundle: manifest, tokenising, ONNX Runtime, answers, and the HTTP server. No torch."""

"""Bundles for an older ONNX Runtime: what it reads, an environment that has it, and the golden examples under it."""

"""From a checkpoint to a bundle: ONNX, rewrites of the graph, verification."""

"""The network: configuration, labels, layers, context modules, checkpoints."""

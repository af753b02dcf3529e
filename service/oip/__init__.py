"""The Open Inference Protocol, version 2, by which clients of Triton and KServe ask: docs/clients.md."""

"""A memory snapshot of PyTorch: read without trusting it, analysed without a GPU, reported."""

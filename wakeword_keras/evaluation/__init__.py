"""Models on data that trained none of them: what is found, and what quantization cost."""

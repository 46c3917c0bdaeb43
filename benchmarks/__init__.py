"""What a computed parameter costs: ``python -m benchmarks``, or one of them, ``python -m benchmarks.reading``."""

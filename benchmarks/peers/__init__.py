"""What this and three other libraries do with fifteen tasks: ``python -m benchmarks.peers`` measures and tells.

The tasks come from threads in which users of torch's parametrizations, GeoTorch and PEFT report failures.
"""

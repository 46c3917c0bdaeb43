"""Op modules: a host's operation without its parameters, for hosts whose own forward branches on its input."""

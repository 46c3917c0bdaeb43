"""The built-in constraints, one family a file; `computed.table` lists them by name."""

"""The built-in constraints as tables, a family a file; `computed.table` joins them."""

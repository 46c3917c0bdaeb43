"""The FX route: the same rules on a traced graph."""

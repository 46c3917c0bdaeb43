"""rewrite: the same change in source text, and the command line; torch is never imported here."""

__all__: list[str] = []

"""Old idioms of weights that are computed, in source text: what each becomes, and what is only told."""

__all__: list[str] = []

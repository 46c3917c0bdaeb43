"""The built-in constraints as a table: names, signatures and homes, so that specs are checked without torch.

A new constraint adds one `entry` to the table of its family; a test compares each with the signature of its class.
"""

from computed.entry import Entry
from computed.tables.adapters import ENTRIES as ADAPTERS
from computed.tables.elementwise import ENTRIES as ELEMENTWISE
from computed.tables.matrices import ENTRIES as MATRICES
from computed.tables.norms import ENTRIES as NORMS
from computed.tables.sparse import ENTRIES as SPARSE
from computed.tables.structure import ENTRIES as STRUCTURE

BUILT_IN: tuple[Entry, ...] = (*MATRICES, *ELEMENTWISE, *NORMS, *STRUCTURE, *SPARSE, *ADAPTERS)

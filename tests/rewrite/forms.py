"""Small model sources in the forms that real code takes; each defines ``Net``, which is called without arguments.

A form is its source, and rules that ask for what is particular about it. `ELSEWHERE` is the source of a module that
the forms import and that the source route is not given.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent, indent

HEAD = "import torch\nfrom torch import nn\n\n\n"

ELSEWHERE = """
import torch
from torch import nn

def make(size=2):
    return nn.Linear(size, size)

def get_norm(size=2):
    return nn.LayerNorm(size)

def parameter(size=2):
    return nn.Parameter(torch.ones(size))

def fill(box):
    box.fc = nn.Linear(2, 2)

def classes(kind):
    return {"conv": nn.Conv2d, "linear": nn.Linear}[kind]

class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)

class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1))
        self.fc = nn.Linear(2, 2)

class Config:
    norm_layer = nn.LayerNorm
    size = 2

class Auto:
    @staticmethod
    def from_config(size):
        return Backbone()
"""


@dataclass(frozen=True)
class Form:
    """One source, and the patterns that are tried on it besides those that are tried on all."""

    source: str
    patterns: tuple[str, ...] = ()


FORMS: dict[str, Form] = {}
Text = str | tuple[str, ...]


def form(name: str, source: Text, *patterns: str, head: str = HEAD) -> None:
    """Note a form whose source begins with ``head``; ``patterns`` stand between spaces."""
    assert name not in FORMS, name
    FORMS[name] = Form(f"{joined(head)}\n\n\n{joined(source)}\n", tuple(" ".join(patterns).split()))


def joined(text: Text) -> str:
    """One text of several, each without the indentation that it has here."""
    parts = [text] if isinstance(text, str) else text
    return "\n\n\n".join(dedent(part).strip("\n") for part in parts if part)


def module(body: Text, *, base: str = "nn.Module") -> str:
    """A class ``Net`` with an ``__init__`` that has ``body``."""
    lines = f"super().__init__()\n{joined(body)}"
    return f"class Net({base}):\n    def __init__(self):\n{indent(lines, ' ' * 8)}"


def net(name: str, body: Text, *patterns: str, before: Text = "", after: Text = "", head: str = HEAD) -> None:
    """Note a form that is a class ``Net`` with ``body`` in its constructor, ``before`` it and ``after`` it."""
    methods = f"\n\n{indent(joined(after), ' ' * 4)}" if after else ""
    form(name, (joined(before), module(body) + methods), *patterns, head=head)


BLOCK = """
class Block(nn.Module):
    def __init__(self, size=2):
        super().__init__()
        self.conv1 = nn.Conv2d(size, size, 1)
        self.fc = nn.Linear(size, size)
"""
HELPER = """
def conv1x1(size, bias=True):
    return nn.Conv2d(size, size, 1, bias=bias)
"""
KNOWN_BLOCK = BLOCK.replace("nn.Module", "Known")
MAKING_BLOCK = f"""{BLOCK}
    @classmethod
    def make(cls, size):
        return cls(size)
"""
REGISTERED = f"""
REGISTRY = {{}}


def register(cls):
    REGISTRY[cls.__name__] = cls
    return cls


@register
{BLOCK.strip()}
"""
STORE = """
class Store(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
"""

# -- attributes --------------------------------------------------------------------------------------------------------
net(
    "attribute",
    """
    self.conv = nn.Conv2d(2, 2, 1)
    self.fc = nn.Linear(2, 2)
    self.norm = nn.LayerNorm(2)
    """,
    "fc.weight",
)
net(
    "annotated attribute",
    """
    self.conv: nn.Module = nn.Conv2d(2, 2, 1)
    self.scale: nn.Parameter = nn.Parameter(torch.ones(2))
    """,
)
net("two names in one assignment", "self.conv = self.other = nn.Conv2d(2, 2, 1)", "other.weight *.other.*")
net("two parameters in one assignment", "self.scale = self.other = nn.Parameter(torch.ones(2))", "other *.other")
net("tuple of attributes", "self.conv, self.fc = nn.Conv2d(2, 2, 1), nn.Linear(2, 2)", "fc.weight conv.weight")
net("list of attributes", "[self.conv, self.fc] = [nn.Conv2d(2, 2, 1), nn.Linear(2, 2)]", "fc.weight")
net("tuple of a loop", "self.a, self.b = (nn.Linear(2, 2) for _ in range(2))", "a.weight b.*")
net(
    "nested tuples",
    "(self.a, self.b), self.c = (nn.Linear(2, 2), nn.Conv2d(2, 2, 1)), nn.Linear(2, 2)",
    "b.weight c.weight",
)
net(
    "starred attribute",
    """
    self.a, *rest, self.b = [nn.Linear(2, 2), nn.Conv2d(2, 2, 1), nn.Linear(2, 2), nn.Linear(2, 2)]
    self.rest = nn.ModuleList(rest)
    """,
    "b.weight rest.0.weight rest.1.weight *.rest.*",
)
net(
    "starred in the middle, read by index",
    """
    a, *rest = nn.Linear(2, 2), nn.Conv2d(2, 2, 1), nn.Linear(2, 2)
    self.a = a
    self.conv = rest[0]
    self.c = rest[1]
    """,
    "conv.weight c.weight a.weight",
)
net(
    "starred and looped over",
    """
    a, *rest = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    self.a = a
    for i, each in enumerate(rest):
        self.add_module(f'r{i}', each)
    """,
    "r0.weight *.r?.weight",
)
net("attribute of an attribute", "self.box = nn.Module()\nself.box.conv = nn.Conv2d(2, 2, 1)", "box.conv.weight box.*")
net(
    "child replaced",
    "self.block = Block()\nself.block.fc = nn.Linear(2, 2, bias=False)",
    "block.fc.bias *.fc.*",
    before=BLOCK,
)
net("attribute assigned again", "self.fc = nn.Linear(2, 2)\nself.fc = nn.Conv2d(2, 2, 1)", "fc.weight *@Conv2d.weight")
net(
    "attribute assigned None",
    """
    self.fc = nn.Linear(2, 2)
    self.conv = nn.Conv2d(2, 2, 1)
    self.fc = None
    """,
    "fc.weight",
)
net(
    "attribute deleted",
    """
    self.fc = nn.Linear(2, 2)
    self.conv = nn.Conv2d(2, 2, 1)
    del self.fc
    """,
    "fc.weight *.fc.*",
)
net("child of a child deleted", "self.block = Block()\ndel self.block.fc", "*.fc.weight", before=BLOCK)
net("private attribute", "self._conv = nn.Conv2d(2, 2, 1)", "_conv.weight *._conv.weight")
net("mangled attribute", "self.__conv = nn.Conv2d(2, 2, 1)", "__conv.weight _Net__conv.weight *.__conv.*")
net("mangled parameter", "self.__scale = nn.Parameter(torch.ones(2))", "__scale _Net__scale *.__scale")
net("walrus", "if (conv := nn.Conv2d(2, 2, 1)) is not None:\n    self.conv = conv", "conv.weight")
net(
    "walrus in a call",
    "self.seq = nn.Sequential(first := nn.Linear(2, 2), nn.ReLU())\nself.first = first",
    "first.* seq.0.*",
)
net(
    "chosen by a condition",
    "self.layer = nn.Linear(2, 2) if torch.__version__ else nn.Conv2d(2, 2, 1)",
    "layer.weight",
)
net("chosen by or", "given = None\nself.layer = given or nn.Linear(2, 2)", "layer.weight")
net(
    "under conditions",
    """
    if len(HEAD) > 1:
        self.conv = nn.Conv2d(2, 2, 1)
    elif HEAD:
        self.conv = nn.Linear(2, 2)
    else:
        self.fc = nn.Linear(2, 2)
    """,
    "conv.weight fc.weight",
    before='HEAD = "one"',
)
net(
    "in try",
    """
    try:
        self.conv = nn.Conv2d('two', 2, 1)
    except TypeError:
        self.conv = nn.Linear(2, 2)
    """,
    "conv.*",
)
net(
    "in with",
    """
    with torch.no_grad():
        self.fc = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.ones(2))
    """,
    "fc.*",
)
net("on a device", "with torch.device('cpu'):\n    self.fc = nn.Linear(2, 2)", "fc.*")
net(
    "match statement",
    """
    kind = 'conv'
    match kind:
        case 'conv':
            self.layer = nn.Conv2d(2, 2, 1)
        case _:
            self.layer = nn.Linear(2, 2)
    """,
    "layer.weight",
)
net(
    "captured by a match",
    """
    match nn.Linear(2, 2):
        case nn.Linear() as found:
            self.fc = found
    """,
    "fc.weight fc.*",
)
net(
    "in a method",
    "self.build()",
    "fc.*",
    after="""
    def build(self):
        self.fc = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.ones(2))
    """,
)
net(
    "while loop",
    """
    i = 0
    while i < 2:
        setattr(self, f'fc{i}', nn.Linear(2, 2))
        i += 1
    """,
    "fc0.weight *.fc1.*",
)
net(
    "two statements on a line",
    "self.fc = nn.Linear(2, 2); self.scale = nn.Parameter(torch.ones(2)); self.conv = nn.Conv2d(2, 2, 1)",
)
net(
    "one-line if",
    """
    if True: self.scale = nn.Parameter(torch.ones(2))
    else: self.scale = None
    if True: self.fc = nn.Linear(2, 2)
    """,
)
net("a stored type", "kind = nn.Linear\nself.fc = kind(2, 2)", "fc.weight")
net("type of a layer", "self.a = nn.Linear(2, 2)\nself.b = type(self.a)(2, 2)", "b.weight a.weight")

# -- Sequential --------------------------------------------------------------------------------------------------------
net("sequential", "self.seq = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Linear(2, 2))", "seq.0.weight seq.2.*")
net("sequential of one", "self.seq = nn.Sequential(nn.Conv2d(2, 2, 1))", "seq.0.weight seq.weight")
net(
    "sequential in a sequential",
    "self.seq = nn.Sequential(nn.Sequential(nn.Conv2d(2, 2, 1)))",
    "seq.0.weight seq.0.0.weight",
)
net(
    "sequential in a local sequential",
    "inner = nn.Sequential(nn.Linear(2, 2), nn.ReLU())\nself.seq = nn.Sequential(inner)",
    "seq.0.weight seq.0.0.weight",
)
net(
    "list in a sequential",
    "self.seq = nn.Sequential(nn.ModuleDict({'conv': nn.Conv2d(2, 2, 1)}))",
    "seq.conv.weight seq.0.conv.weight",
)
net(
    "encoder in a sequential",
    """
    layer = nn.TransformerEncoderLayer(4, 2, 4)
    self.seq = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    """,
    "seq.layers.0.linear1.weight seq.0.layers.0.linear1.weight",
)
net(
    "ordered dictionary",
    "self.seq = nn.Sequential(OrderedDict([('conv', nn.Conv2d(2, 2, 1)), ('fc', nn.Linear(2, 2))]))",
    "seq.conv.weight seq.0.weight",
    before="from collections import OrderedDict",
)
net(
    "ordered dictionary by keywords",
    "self.seq = nn.Sequential(OrderedDict(conv=nn.Conv2d(2, 2, 1), fc=nn.Linear(2, 2)))",
    "seq.conv.weight seq.0.weight",
    before="from collections import OrderedDict",
)
net(
    "ordered dictionary filled",
    """
    layers = OrderedDict()
    layers['conv'] = nn.Conv2d(2, 2, 1)
    for i in range(2):
        layers['fc' + str(i + 1)] = nn.Linear(2, 2)
    self.seq = nn.Sequential(layers)
    """,
    "seq.conv.weight seq.fc1.weight seq.fc2.weight",
    before="from collections import OrderedDict",
)
net(
    "ordered dictionary of computed pairs",
    "self.seq = nn.Sequential(OrderedDict([(f'fc{i}', nn.Linear(2, 2)) for i in range(2)]))",
    "seq.fc0.weight seq.0.1.weight *.1.weight",
    before="from collections import OrderedDict",
)
net(
    "ordered dictionary of pairs with names",
    """
    names = ['conv', 'fc']
    self.seq = nn.Sequential(OrderedDict([(name, nn.Linear(2, 2)) for name in names]))
    """,
    "seq.fc.weight seq.conv.weight seq.0.1.weight *.1.weight *.fc.*",
    before="from collections import OrderedDict",
)
net(
    "ordered dictionary of added names",
    "self.seq = nn.Sequential(OrderedDict([('fc' + str(i), nn.Linear(2, 2)) for i in range(2)]))",
    "seq.fc0.weight *.fc0.* *.1.weight",
    before="from collections import OrderedDict",
)
net(
    "ordered dictionary of appended pairs",
    """
    layers = []
    for i in range(2):
        layers.append(('fc%d' % i, nn.Linear(2, 2)))
    self.seq = nn.Sequential(OrderedDict(layers))
    """,
    "seq.fc0.weight *.fc0.* *.1.weight",
    before="from collections import OrderedDict",
)
net(
    "starred list",
    "layers = [nn.Conv2d(2, 2, 1), nn.ReLU()]\nself.seq = nn.Sequential(*layers, nn.Linear(2, 2))",
    "seq.0.weight seq.2.weight",
)
net(
    "starred after others",
    "layers = [nn.Linear(2, 2)]\nself.seq = nn.Sequential(nn.Conv2d(2, 2, 1), *layers)",
    "seq.0.weight seq.1.weight",
)
net("starred generator", "self.seq = nn.Sequential(*(nn.Linear(2, 2) for _ in range(2)))", "seq.0.weight seq.1.*")
net(
    "two stars",
    "a, b = [nn.Linear(2, 2)], [nn.Conv2d(2, 2, 1)]\nself.seq = nn.Sequential(*a, *b)",
    "seq.0.weight seq.1.weight",
)
net(
    "list appended to",
    """
    layers = [nn.Conv2d(2, 2, 1)]
    for _ in range(2):
        layers.append(nn.Linear(2, 2))
        layers += [nn.ReLU()]
    layers.extend([nn.Linear(2, 2)])
    self.seq = nn.Sequential(*layers)
    """,
    "seq.0.weight seq.1.weight seq.5.weight",
)
net(
    "list inserted into",
    """
    layers = [nn.Conv2d(2, 2, 1)]
    layers.insert(0, nn.Linear(2, 2))
    self.seq = nn.Sequential(*layers)
    """,
    "seq.0.weight seq.1.weight",
)
net(
    "list with an annotation",
    """
    layers: list[nn.Module] = []
    layers.append(nn.Conv2d(2, 2, 1))
    self.seq = nn.Sequential(*layers)
    """,
    "seq.0.weight",
)
net(
    "sequential added to",
    """
    self.seq = nn.Sequential()
    self.seq.add_module('conv', nn.Conv2d(2, 2, 1))
    self.seq.append(nn.Linear(2, 2))
    """,
    "seq.conv.weight seq.1.weight",
)
net(
    "sequential inserted into",
    "self.seq = nn.Sequential(nn.Conv2d(2, 2, 1))\nself.seq.insert(0, nn.ReLU())",
    "seq.0.weight seq.1.weight",
)
net(
    "sequential element replaced",
    "self.seq = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU())\nself.seq[1] = nn.Linear(2, 2)",
    "seq.1.weight",
)
net(
    "named element replaced by index",
    "self.seq = nn.Sequential(OrderedDict(a=nn.ReLU(), b=nn.ReLU()))\nself.seq[1] = nn.Linear(2, 2)",
    "seq.1.weight seq.b.weight",
    before="from collections import OrderedDict",
)
net(
    "sequential element deleted",
    "self.seq = nn.Sequential(nn.ReLU(), nn.Conv2d(2, 2, 1))\ndel self.seq[0]",
    "seq.0.weight seq.1.weight",
)
net(
    "sequential element popped",
    "self.seq = nn.Sequential(nn.ReLU(), nn.Conv2d(2, 2, 1))\nself.seq.pop(0)",
    "seq.0.weight seq.1.weight",
)
net(
    "sequentials added",
    "self.seq = nn.Sequential(nn.Conv2d(2, 2, 1)) + nn.Sequential(nn.Linear(2, 2))",
    "seq.0.weight seq.1.weight",
)
net(
    "sequential chained",
    "self.seq = nn.Sequential(nn.Conv2d(2, 2, 1)).append(nn.Linear(2, 2))",
    "seq.0.weight seq.1.weight",
)
net(
    "sequential sliced",
    """
    whole = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Linear(2, 2))
    self.a = whole[:2]
    self.b = whole[2:]
    """,
    "a.0.weight b.0.weight b.2.weight",
)
net(
    "module-level sequential",
    "self.seq = SHARED",
    "seq.0.weight",
    before="SHARED = nn.Sequential(nn.Linear(2, 2), nn.ReLU())",
)
form(
    "nothing but a sequential",
    "def Net():\n    return nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Linear(2, 2))",
    "0.weight 2.*",
)

# -- lists and dictionaries of modules ---------------------------------------------------------------------------------
net(
    "module list",
    "self.layers = nn.ModuleList([nn.Conv2d(2, 2, 1), nn.Linear(2, 2)])",
    "layers.0.weight layers.1.weight",
)
net(
    "module list of a comprehension",
    "self.layers = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])",
    "layers.0.weight layers.*",
)
net(
    "module list of a generator",
    "self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))",
    "layers.0.weight layers.*",
)
net(
    "module list appended to",
    """
    self.layers = nn.ModuleList()
    for _ in range(2):
        self.layers.append(nn.Linear(2, 2))
    """,
    "layers.0.weight layers.*",
)
net(
    "module list extended",
    """
    self.layers = nn.ModuleList()
    self.layers += [nn.Linear(2, 2)]
    self.layers.extend([nn.Conv2d(2, 2, 1)])
    """,
    "layers.0.weight layers.1.weight",
)
net(
    "module list inserted into",
    "self.layers = nn.ModuleList([nn.Conv2d(2, 2, 1)])\nself.layers.insert(0, nn.ReLU())",
    "layers.0.weight layers.1.weight",
)
net(
    "module list element deleted",
    "self.layers = nn.ModuleList([nn.ReLU(), nn.Conv2d(2, 2, 1)])\ndel self.layers[0]",
    "layers.0.weight layers.1.weight",
)
net(
    "module list of lists",
    "self.layers = nn.ModuleList([nn.ModuleList([nn.Linear(2, 2)]) for _ in range(2)])",
    "layers.0.0.weight layers.*",
)
net(
    "module list of tuples",
    """
    self.layers = nn.ModuleList([])
    for _ in range(2):
        self.layers.append(nn.ModuleList([nn.Linear(2, 2), nn.Conv2d(2, 2, 1)]))
    """,
    "layers.0.1.weight layers.*.1.weight",
)
net(
    "same module often",
    "self.layers = nn.ModuleList([nn.Linear(2, 2)] * 2)",
    "layers.0.weight layers.1.weight layers.*",
)
net(
    "copies",
    "layer = nn.Linear(2, 2)\nself.layers = nn.ModuleList([copy.deepcopy(layer) for _ in range(2)])",
    "layers.0.weight layers.*",
    before="import copy",
)
net(
    "local name of a list attribute",
    "self.layers = layers = nn.ModuleList()\nlayers.append(nn.Linear(2, 2))",
    "layers.0.weight layers.*",
)
net(
    "two names of a list",
    """
    a = b = []
    b.append(nn.Linear(2, 2))
    self.layers = nn.ModuleList(a)
    """,
    "layers.0.weight layers.*",
)
net(
    "another name of a list",
    """
    a = []
    b = a
    b.append(nn.Linear(2, 2))
    self.layers = nn.ModuleList(a)
    """,
    "layers.0.weight layers.*",
)
net(
    "local list attribute",
    """
    layers = nn.ModuleList()
    self.layers = layers
    layers.append(nn.Conv2d(2, 2, 1))
    """,
    "layers.0.weight layers.*",
)
net(
    "module dictionary",
    "self.d = nn.ModuleDict({'conv': nn.Conv2d(2, 2, 1), 'fc': nn.Linear(2, 2)})",
    "d.conv.weight d.*",
)
net(
    "module dictionary of pairs",
    "self.d = nn.ModuleDict([['conv', nn.Conv2d(2, 2, 1)], ['fc', nn.Linear(2, 2)]])",
    "d.conv.weight d.1.weight",
)
net(
    "module dictionary of a comprehension",
    "self.d = nn.ModuleDict({name: nn.Linear(2, 2) for name in ('a', 'b')})",
    "d.a.weight *.b.*",
)
net(
    "module dictionary of computed pairs",
    "self.d = nn.ModuleDict((name, nn.Linear(2, 2)) for name in ('a', 'b'))",
    "d.a.weight *.1.weight *.b.*",
)
net(
    "module dictionary of zipped",
    "self.d = nn.ModuleDict(dict(zip(['a', 'b'], [nn.Linear(2, 2), nn.Conv2d(2, 2, 1)])))",
    "d.a.weight *.b.* *.0.weight",
)
net(
    "module dictionary spread",
    "self.d = nn.ModuleDict({**{'conv': nn.Conv2d(2, 2, 1)}, 'fc': nn.Linear(2, 2)})",
    "d.conv.weight d.fc.*",
)
net(
    "module dictionary updated",
    """
    self.d = nn.ModuleDict()
    self.d.update({'conv': nn.Conv2d(2, 2, 1)})
    self.d['fc'] = nn.Linear(2, 2)
    self.d['n%d' % 3] = nn.Linear(2, 2)
    """,
    "d.conv.weight d.n3.weight",
)
net(
    "module dictionary of united",
    "self.d = nn.ModuleDict({'conv': nn.Conv2d(2, 2, 1)} | {'fc': nn.Linear(2, 2)})",
    "d.conv.weight d.fc.*",
)
net(
    "module dictionary keys computed",
    "d = {'conv': nn.Conv2d(2, 2, 1)}\nself.d = nn.ModuleDict({f'{k}_x': v for k, v in d.items()})",
    "d.conv_x.weight d.conv.weight",
)
net(
    "module dictionary of lists",
    """
    self.d = nn.ModuleDict()
    for key in ('a', 'b'):
        self.d[key] = nn.ModuleList()
        self.d[key].append(nn.Linear(2, 2))
    """,
    "d.a.0.weight *.0.*",
)
net(
    "values of a dictionary",
    "d = {'conv': nn.Conv2d(2, 2, 1), 'fc': nn.Linear(2, 2)}\nself.seq = nn.Sequential(*d.values())",
    "seq.0.weight seq.conv.weight *.1.weight",
)
net(
    "values in a module list",
    "d = {'conv': nn.Conv2d(2, 2, 1)}\nself.layers = nn.ModuleList(d.values())",
    "layers.0.weight layers.conv.weight",
)
net(
    "summed lists",
    """
    layers = sum([[nn.Linear(2, 2), nn.ReLU()] for _ in range(2)], [])
    self.seq = nn.Sequential(*layers)
    """,
    "seq.0.weight *.2.*",
)
net("mapped", "self.layers = nn.ModuleList(map(lambda size: nn.Linear(2, size), (2, 2)))", "layers.0.weight layers.*")
net(
    "mapped method",
    "self.layers = nn.ModuleList(map(self.make, (2, 2)))",
    "layers.0.weight layers.*",
    after="def make(self, size):\n    return nn.Linear(size, size)",
)
net(
    "chained lists",
    """
    a, b = [nn.Linear(2, 2)], [nn.Conv2d(2, 2, 1)]
    self.seq = nn.Sequential(*itertools.chain(a, b))
    """,
    "seq.0.weight seq.1.weight",
    before="import itertools",
)
net(
    "list multiplied and added",
    "self.seq = nn.Sequential(*([nn.Linear(2, 2)] + [nn.Conv2d(2, 2, 1), nn.ReLU()]))",
    "seq.0.weight seq.1.weight",
)
net(
    "list sliced",
    "layers = [nn.ReLU(), nn.Conv2d(2, 2, 1)]\nself.seq = nn.Sequential(*layers[1:])",
    "seq.0.weight seq.1.weight",
)
net(
    "list reversed",
    "layers = [nn.Conv2d(2, 2, 1), nn.Linear(2, 2)]\nself.seq = nn.Sequential(*reversed(layers))",
    "seq.0.weight seq.1.weight",
)
net(
    "list popped",
    """
    layers = [nn.Conv2d(2, 2, 1), nn.Linear(2, 2)]
    self.fc = layers.pop()
    self.seq = nn.Sequential(*layers)
    """,
    "fc.weight seq.0.weight seq.1.weight",
)
net(
    "plain list registered later",
    "self.plain = [nn.Conv2d(2, 2, 1), nn.Linear(2, 2)]\nself.fc = self.plain[1]",
    "fc.weight plain.1.weight plain.*",
)
net(
    "plain list appended, registered later",
    """
    self.plain = []
    self.plain.append(nn.Conv2d(2, 2, 1))
    self.layers = nn.ModuleList(self.plain)
    """,
    "layers.0.weight plain.0.weight",
)
net(
    "plain dictionary registered later",
    """
    self.plain = {'a': nn.Linear(2, 2)}
    for key, each in self.plain.items():
        self.add_module('layer_' + key, each)
    """,
    "layer_a.weight *.layer_a.*",
)
net(
    "enumerated pairs",
    """
    for pair in enumerate([nn.Linear(2, 2), nn.Linear(2, 2)]):
        self.add_module(f'n{pair[0]}', pair[1])
    """,
    "n0.weight *.n1.*",
)
net(
    "zipped loop",
    """
    for name, each in zip(('a', 'b'), (nn.Linear(2, 2), nn.Conv2d(2, 2, 1))):
        self.add_module(name, each)
    """,
    "a.weight *.b.*",
)

# -- names that are computed -------------------------------------------------------------------------------------------
net(
    "add_module",
    "self.add_module('conv', nn.Conv2d(2, 2, 1))\nself.register_module('fc', nn.Linear(2, 2))",
    "conv.weight fc.*",
)
net("add_module by keywords", "self.add_module(name='conv', module=nn.Conv2d(2, 2, 1))", "conv.weight")
net("add_module of super", "super().add_module('conv', nn.Conv2d(2, 2, 1))", "conv.weight")
net("f-string", "for i in range(3):\n    self.add_module(f'conv{i}', nn.Conv2d(2, 2, 1))", "conv1.weight *.conv2.*")
net(
    "f-string with a sum",
    "for i in range(3):\n    self.add_module(f'conv{i + 1}', nn.Conv2d(2, 2, 1))",
    "conv2.weight *.conv3.* conv1.weight",
)
net("f-string with a format", "self.add_module(f'conv{1:02d}', nn.Conv2d(2, 2, 1))", "conv1.weight conv01.weight")
net(
    "string of a sum",
    "for i in range(2):\n    self.add_module('layer' + str(i + 1), nn.Linear(2, 2))",
    "layer2.weight *.layer1.*",
)
net("string of a sum of numbers", "self.add_module(str(1 + 2), nn.Linear(2, 2))", "3.weight 12.weight")
net("percent", "for i in range(2):\n    self.add_module('layer%d' % i, nn.Linear(2, 2))", "layer1.weight *.layer0.*")
net(
    "percent with a width",
    "for i in range(2):\n    self.add_module('layer%02d' % i, nn.Linear(2, 2))",
    "layer01.weight *.layer00.*",
)
net("percent with a name", "self.add_module('layer%(i)d' % {'i': 4}, nn.Linear(2, 2))", "layer4.weight *.layer4.*")
net("percent twice", "self.add_module('layer%d_%d' % (1, 2), nn.Linear(2, 2))", "layer1_2.weight *.layer1_2.*")
net("percent before and after", "self.add_module('a%s_x' % 'b' + 'c', nn.Linear(2, 2))", "ab_xc.weight *.ab_xc.*")
net(
    "format",
    "for i in range(2):\n    self.add_module('layer{}'.format(i), nn.Linear(2, 2))",
    "layer1.weight *.layer0.*",
)
net("joined", "self.add_module('_'.join(['a', 'b']), nn.Linear(2, 2))", "a_b.weight *.a_b.*")
net("setattr", "for i in range(2):\n    setattr(self, f'fc{i}', nn.Linear(2, 2))", "fc1.weight *.fc0.*")
net("setattr by a name", "name = 'fc'\nsetattr(self, name, nn.Linear(2, 2))", "fc.weight *.fc.*")
net(
    "loop over pairs",
    """
    for name, layer in [('conv', nn.Conv2d(2, 2, 1)), ('fc', nn.Linear(2, 2))]:
        setattr(self, name, layer)
    """,
    "conv.weight fc.1.weight *.1.weight *.fc.*",
)
net(
    "loop over pairs of a dictionary",
    """
    for name, layer in {'conv': nn.Conv2d(2, 2, 1), 'fc': nn.Linear(2, 2)}.items():
        self.add_module(name, layer)
    """,
    "conv.weight *.fc.* *.1.weight",
)
net("into the registry", "self._modules['conv'] = nn.Conv2d(2, 2, 1)", "conv.weight _modules.conv.weight *.conv.*")
net("parameter into the registry", "self._parameters['scale'] = nn.Parameter(torch.ones(2))", "scale *.scale")
net(
    "setattr of Module",
    """
    nn.Module.__setattr__(self, 'conv', nn.Conv2d(2, 2, 1))
    super().__setattr__('fc', nn.Linear(2, 2))
    """,
    "conv.weight fc.*",
)
net(
    "past the registry",
    """
    self.__dict__['fc'] = nn.Linear(2, 2)
    object.__setattr__(self, 'hidden', nn.Linear(2, 2))
    self.conv = nn.Conv2d(2, 2, 1)
    """,
    "fc.weight",
)
net("out of the registry", "self.a = nn.Linear(2, 2)\nself.b = self._modules['a']", "b.weight *.b.*")
net("getattr", "self.a = nn.Linear(2, 2)\nself.b = getattr(self, 'a')", "b.weight *.b.*")
net(
    "getattr of another",
    "block = Block()\nself.stem = getattr(block, 'conv1')",
    "stem.weight *.conv1.weight *.stem.*",
    before=BLOCK,
)
net(
    "get_submodule",
    "block = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))\nself.stem = block.get_submodule('0.0')",
    "stem.weight stem.0.weight *.stem.*",
)

# -- helpers -----------------------------------------------------------------------------------------------------------
net(
    "module function",
    "self.conv = conv1x1(2)\nself.seq = nn.Sequential(conv1x1(2, bias=False), nn.ReLU())",
    "conv.weight seq.0.weight *.bias",
    before=HELPER,
)
net(
    "nested function",
    """
    def make(size):
        return nn.Conv2d(size, size, 1)
    self.conv = make(2)
    self.box = nn.ModuleList([make(2)])
    """,
    "conv.weight box.0.weight",
)
net("lambda", "make = lambda size: nn.Conv2d(size, size, 1)\nself.conv = make(2)", "conv.weight *.conv.*")
net(
    "lambda attribute",
    "self.make = lambda size: nn.Conv2d(size, size, 1)\nself.conv = self.make(2)",
    "conv.weight *.conv.*",
)
net(
    "partial",
    "make = partial(nn.Conv2d, kernel_size=1)\nself.conv = make(2, 2)",
    "conv.weight *.conv.*",
    before="from functools import partial",
)
net(
    "partial at module level",
    "self.conv = conv(2, 2)",
    "conv.weight *.conv.*",
    before="""
    from functools import partial

    conv = partial(nn.Conv2d, kernel_size=1)
    """,
)
net(
    "partial called at once",
    "self.conv = functools.partial(nn.Conv2d, kernel_size=1)(2, 2)",
    "conv.weight",
    before="import functools",
)
net(
    "method",
    "self.conv = self.make(2)",
    "conv.weight *.conv.*",
    after="def make(self, size):\n    return nn.Conv2d(size, size, 1)",
)
net(
    "make_layer",
    """
    self.size = 2
    self.layer1 = self._make_layer(2)
    self.layer2 = self._make_layer(1)
    """,
    "layer1.0.fc.weight layer2.* *.1.conv1.weight",
    before=BLOCK,
    after="""
    def _make_layer(self, count):
        layers = [Block(self.size)]
        for _ in range(1, count):
            layers.append(Block(self.size))
        return nn.Sequential(*layers)
    """,
)
net(
    "static method",
    "self.conv = self.make(2)\nself.other = Net.make(2)",
    "conv.weight other.weight",
    after="""
    @staticmethod
    def make(size):
        return nn.Conv2d(size, size, 1)
    """,
)
net(
    "class method",
    "self.conv = self.make(2)",
    "conv.weight",
    after="""
    @classmethod
    def make(cls, size):
        return nn.Conv2d(size, size, 1)
    """,
)
net(
    "static method that fills a list",
    """
    layers = []
    self.fill(layers, 2)
    self.seq = nn.Sequential(*layers)
    """,
    "seq.0.weight seq.*",
    after="""
    @staticmethod
    def fill(layers, size):
        layers.append(nn.Linear(size, size))
    """,
)
net(
    "method that fills a list",
    """
    layers = []
    self.fill(layers, 2)
    self.seq = nn.Sequential(*layers)
    """,
    "seq.0.weight seq.*",
    after="def fill(self, layers, size):\n    layers.append(nn.Linear(size, size))",
)
net(
    "function that fills a list",
    """
    layers = []
    fill(layers, size=2)
    self.seq = nn.Sequential(*layers)
    """,
    "seq.0.weight seq.*",
    before="def fill(layers, size):\n    layers.append(nn.Linear(size, size))",
)
net(
    "function that is given self",
    "add(self, 2)",
    "added.weight *.added.*",
    before="def add(model, size):\n    model.added = nn.Linear(size, size)",
)
net(
    "decorated method",
    "self.fc = self.make()",
    "fc.0.weight fc.weight *.fc.weight",
    before="""
    def boxed(function):
        def box(self):
            return nn.Sequential(function(self))
        return box
    """,
    after="""
    @boxed
    def make(self):
        return nn.Linear(2, 2)
    """,
)
net(
    "decorated function",
    "self.fc = make()",
    "fc.0.weight fc.weight *.fc.weight",
    before="""
    def boxed(function):
        return lambda: nn.Sequential(function())


    @boxed
    def make():
        return nn.Linear(2, 2)
    """,
)
net(
    "cached function",
    "self.a = make(2)\nself.b = make(2)",
    "a.weight b.weight *.b.*",
    before="""
    import functools


    @functools.lru_cache
    def make(size):
        return nn.Linear(size, size)
    """,
)
net(
    "method under another name",
    "make = self.make\nself.fc = make()",
    "fc.weight *.fc.*",
    after="def make(self):\n    return nn.Linear(2, 2)",
)
net(
    "method by getattr",
    "self.fc = getattr(self, 'make_' + 'fc')()",
    "fc.weight *.fc.*",
    after="def make_fc(self):\n    return nn.Linear(2, 2)",
)
net(
    "method by getattr in a dictionary",
    "self.d = nn.ModuleDict({'fc': getattr(self, 'make_fc')()})",
    "d.fc.weight *.fc.*",
    after="def make_fc(self):\n    return nn.Linear(2, 2)",
)
net(
    "methods in a dictionary",
    """
    makers = {'fc': self.make_fc}
    self.d = nn.ModuleDict({key: make() for key, make in makers.items()})
    """,
    "d.fc.weight *.fc.*",
    after="def make_fc(self):\n    return nn.Linear(2, 2)",
)
net(
    "function from globals",
    "self.fc = globals()['make']()",
    "fc.weight *.fc.*",
    before="def make():\n    return nn.Linear(2, 2)",
)
net(
    "function from globals in a store",
    "self.store = Store(globals()['make']())",
    "store.inner.weight *.inner.*",
    before=(
        STORE,
        "def make():\n    return nn.Linear(2, 2)",
    ),
)
net(
    "object that is called",
    "make = Maker()\nself.fc = make(2)",
    "fc.weight *.fc.*",
    before="""
    class Maker:
        def __call__(self, size):
            return nn.Linear(size, size)
    """,
)
net(
    "object that is called in a store",
    "make = Maker()\nself.store = Store(make(2))",
    "store.inner.weight *.inner.*",
    before=(
        STORE,
        """
        class Maker:
            def __call__(self, size):
                return nn.Linear(size, size)
        """,
    ),
)
net(
    "module that makes modules",
    "make = Maker()\nself.fc = make(2)",
    "fc.weight *.fc.*",
    before="""
    class Maker(nn.Module):
        def forward(self, size):
            return nn.Linear(size, size)
    """,
)
net(
    "builder object",
    """
    builder = Builder(2)
    self.fc = builder.fc()
    self.conv = builder.conv
    """,
    "fc.weight conv.weight *.fc.*",
    before="""
    class Builder:
        def __init__(self, size):
            self.size = size
            self.conv = nn.Conv2d(size, size, 1)

        def fc(self):
            return nn.Linear(self.size, self.size)
    """,
)
net(
    "helper that returns a list",
    "self.seq = nn.Sequential(*layers(2), nn.ReLU())",
    "seq.0.weight seq.1.weight",
    before="def layers(size):\n    return [nn.Conv2d(size, size, 1), nn.Linear(size, size)]",
)
net(
    "helper that returns two",
    "self.a, self.b = pair()",
    "a.weight b.weight",
    before="def pair():\n    return nn.Linear(2, 2), nn.Conv2d(2, 2, 1)",
)
net(
    "helper that yields",
    "self.seq = nn.Sequential(*layers())",
    "seq.0.weight seq.1.weight",
    before="""
    def layers():
        yield nn.Linear(2, 2)
        yield nn.Conv2d(2, 2, 1)
    """,
)
net(
    "helper of a helper",
    "self.block = block(2)",
    "block.0.weight block.1.*",
    before=(
        HELPER,
        "def block(size):\n    return nn.Sequential(conv1x1(size), nn.ReLU())",
    ),
)
net(
    "recursion",
    "self.tree = tree(2)",
    "tree.0.0.weight tree.1.weight",
    before="""
    def tree(depth):
        if depth == 0:
            return nn.Linear(2, 2)
        return nn.Sequential(tree(depth - 1), nn.Linear(2, 2))
    """,
)
net(
    "async helper",
    """
    task = make()
    try:
        task.send(None)
    except StopIteration as done:
        self.fc = done.value
    """,
    "fc.weight *.fc.*",
    before="async def make():\n    return nn.Linear(2, 2)",
)
net("eval", "self.fc = eval('nn.Linear(2, 2)')", "fc.weight *.fc.*")
net("getattr of nn", "self.fc = getattr(nn, 'Linear')(2, 2)", "fc.weight *.fc.*")
net(
    "conv and relu given to a helper",
    "self.seq = join(nn.Conv2d(2, 2, 1), nn.ReLU())",
    "seq.0.weight seq.*",
    before="def join(*layers):\n    return nn.Sequential(*layers)",
)
net(
    "keywords given to a helper",
    "self.d = join(conv=nn.Conv2d(2, 2, 1), fc=nn.Linear(2, 2))",
    "d.conv.weight *.fc.*",
    before="def join(**layers):\n    return nn.ModuleDict(layers)",
)
net("default argument", "self.fc = keep()", "fc.weight", before="def keep(layer=nn.Linear(2, 2)):\n    return layer")
net(
    "function attribute",
    "self.fc = keep.layer",
    "fc.weight",
    before="""
    def keep():
        pass


    keep.layer = nn.Linear(2, 2)
    """,
)
net(
    "global variable",
    "make()\nself.fc = LAYER",
    "fc.weight *.fc.*",
    before="""
    LAYER = None


    def make():
        global LAYER
        LAYER = nn.Linear(2, 2)
    """,
)
net(
    "nonlocal variable",
    """
    layer = None
    def make():
        nonlocal layer
        layer = nn.Linear(2, 2)
    make()
    self.fc = layer
    """,
    "fc.weight *.fc.*",
)
net(
    "skip_init",
    """
    self.fc = nn.utils.skip_init(nn.Linear, 2, 2)
    nn.init.ones_(self.fc.weight)
    nn.init.ones_(self.fc.bias)
    """,
    "fc.weight *.fc.*",
)

# -- classes -----------------------------------------------------------------------------------------------------------
net(
    "block",
    "self.block = Block()\nself.blocks = nn.ModuleList([Block() for _ in range(2)])",
    "block.fc.weight blocks.0.conv1.weight",
    before=BLOCK,
)
net(
    "class as an argument",
    "self.a = Layer(nn.LayerNorm)\nself.b = Layer(norm_layer=nn.BatchNorm1d)",
    "a.norm.weight *.norm.weight",
    before="""
    class Layer(nn.Module):
        def __init__(self, norm_layer):
            super().__init__()
            self.norm = norm_layer(2)
    """,
)
net(
    "class as an argument named get",
    "self.a = Layer(nn.LayerNorm)",
    "a.norm.weight *.norm.weight",
    before="""
    class Layer(nn.Module):
        def __init__(self, get_norm):
            super().__init__()
            self.norm = get_norm(2)
    """,
)
net(
    "own class as an argument",
    "self.layer = stack(Block, 2)",
    "layer.0.fc.weight *.fc.weight",
    before=(
        BLOCK,
        "def stack(block, count):\n    return nn.Sequential(*[block() for _ in range(count)])",
    ),
)
net(
    "dictionary of classes",
    "self.fc = LAYERS['linear'](2, 2)",
    "fc.weight *.fc.*",
    before="LAYERS = {'linear': nn.Linear, 'bilinear': nn.Bilinear}",
)
net(
    "dictionary of own classes",
    "self.d = nn.ModuleDict({'a': BLOCKS['block']()})",
    "d.a.fc.weight *.fc.*",
    before=(
        BLOCK,
        "BLOCKS = {'block': Block}",
    ),
)
net(
    "class attribute is a class",
    "self.conv = self.conv_class(2, 2, 1)",
    "conv.weight *.conv.*",
    after="conv_class = nn.Conv2d",
)
net(
    "class attribute is a function",
    "self.conv = self.get_conv(2)",
    "conv.weight *.conv.*",
    after="get_conv = staticmethod(lambda size: nn.Conv2d(size, size, 1))",
)
net(
    "attribute of a configuration",
    "cfg = Config()\nself.norm = cfg.norm_layer(2)",
    "norm.weight *.norm.*",
    before="class Config:\n    norm_layer = nn.LayerNorm",
)
net(
    "configuration that is given",
    "self.layer = Layer(Config())",
    "layer.norm.weight *.norm.*",
    before="""
    class Config:
        norm_layer = nn.LayerNorm


    class Layer(nn.Module):
        def __init__(self, cfg):
            super().__init__()
            self.norm = cfg.norm_layer(2)
            self.fc = nn.Linear(2, 2)
    """,
)
net(
    "registry by a decorator",
    "self.block = REGISTRY['Block']()",
    "block.fc.weight *.fc.*",
    before=(
        """
        REGISTRY = {}


        def register(cls):
            REGISTRY[cls.__name__] = cls
            return cls


        @register
        """,
        BLOCK,
    ),
)
net(
    "registry by a decorator in a store",
    "self.store = Store(REGISTRY['Block']())",
    "store.inner.fc.weight *.fc.* *.inner.*",
    before=(
        STORE,
        """
        REGISTRY = {}


        def register(cls):
            REGISTRY[cls.__name__] = cls
            return cls


        @register
        """,
        BLOCK,
    ),
)
net(
    "registry by a subclass hook",
    "self.block = Known.all['Block']()",
    "block.fc.weight *.fc.*",
    before=(
        """
        class Known(nn.Module):
            all = {}

            def __init_subclass__(cls):
                Known.all[cls.__name__] = cls
        """,
        BLOCK.replace("nn.Module", "Known"),
    ),
)
net(
    "all subclasses",
    "self.block = Known.__subclasses__()[0]()",
    "block.fc.weight *.fc.*",
    before=(
        "class Known(nn.Module):\n    pass",
        KNOWN_BLOCK,
    ),
)
net(
    "class in a class",
    "self.inner = self.Inner()",
    "inner.fc.weight *.fc.*",
    after="""
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)
    """,
)
net(
    "class in a function",
    "self.inner = make()",
    "inner.fc.weight *.fc.*",
    before="""
    def make():
        class Inner(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(2, 2)

        return Inner()
    """,
)
net(
    "class in a function in a store",
    "self.store = Store(make())",
    "store.inner.fc.weight *.fc.* *.inner.*",
    before=(
        STORE,
        """
        def make():
            class Inner(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(2, 2)

            return Inner()
        """,
    ),
)
net(
    "class made by a function",
    "self.inner = classed(2)()",
    "inner.fc.weight *.fc.*",
    before="""
    def classed(size):
        class Inner(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(size, size)

        return Inner
    """,
)
net("class made by type", "self.inner = type('Inner', (Block,), {})()", "inner.fc.weight *.fc.*", before=BLOCK)
net(
    "class by alternative",
    "self.inner = Inner()",
    "inner.fc.weight *.fc.*",
    before="""
    if torch.__version__:
        class Inner(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(2, 2)
    else:
        class Inner(nn.Module):
            pass
    """,
)
net(
    "module given to a constructor",
    "self.store = Store(nn.Linear(2, 2))",
    "store.inner.weight *.inner.*",
    before=STORE,
)
net(
    "module given by keyword",
    "self.store = Store(inner=nn.Sequential(nn.Linear(2, 2)))",
    "store.inner.0.weight *.inner.*",
    before=STORE,
)
net(
    "module given by a dictionary",
    "options = {'inner': nn.Linear(2, 2)}\nself.store = Store(**options)",
    "store.inner.weight *.inner.*",
    before=STORE,
)
net(
    "block given to a constructor",
    """
    block = Block()
    self.store = Store(block)
    self.also = block.fc
    """,
    "store.inner.fc.weight also.weight *.also.*",
    before=(
        STORE,
        BLOCK,
    ),
)
net(
    "store of a store",
    "self.store = Store(Store(nn.Linear(2, 2)))",
    "store.inner.inner.weight store.inner.weight",
    before=STORE,
)
net(
    "self given",
    "self.fc = nn.Linear(2, 2)\nself.part = Part(self)",
    "part.fc.weight part.weight",
    before="""
    class Part(nn.Module):
        def __init__(self, whole):
            super().__init__()
            self.fc = whole.fc
            self.weight = whole.fc.weight
    """,
)
net("class method that makes", "self.block = Block.make(2)", "block.fc.weight *.fc.*", before=MAKING_BLOCK)
net(
    "property",
    "self._fc = nn.Linear(2, 2)\nself.again = self.fc",
    "again.weight _fc.weight *.fc.*",
    after="""
    @property
    def fc(self):
        return self._fc
    """,
)
net(
    "property that makes",
    "self.a = self.fc\nself.b = self.fc",
    "a.weight *.b.*",
    after="""
    @property
    def fc(self):
        return nn.Linear(2, 2)
    """,
)
net(
    "own __getattr__",
    "self.fc = nn.Linear(2, 2)\nself.again = self.wrapped_fc",
    "again.weight *.again.*",
    after="""
    def __getattr__(self, name):
        if name.startswith('wrapped_'):
            return super().__getattr__(name[8:])
        return super().__getattr__(name)
    """,
)
net(
    "own __setattr__",
    "self.fc = nn.Linear(2, 2)",
    "fc.weight m_fc.weight *.m_fc.*",
    after="""
    def __setattr__(self, name, value):
        super().__setattr__('m_' + name if isinstance(value, nn.Module) else name, value)
    """,
)
net(
    "own add_module",
    "self.put('fc', nn.Linear(2, 2))",
    "fc.weight x_fc.weight",
    after="def put(self, name, layer):\n    self.add_module('x_' + name, layer)",
)
net(
    "own append",
    "self.bag = Bag()\nself.bag.append(nn.Linear(2, 2))",
    "bag.0.weight bag.items.0.weight *.items.*",
    before="""
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.items = nn.ModuleList()

        def append(self, layer):
            self.items.append(layer)
    """,
)
net(
    "own put",
    "self.bag = Bag()\nself.bag.put_(nn.Linear(2, 2))",
    "bag.item.weight *.item.*",
    before="""
    class Bag(nn.Module):
        def put_(self, layer):
            self.item = layer
    """,
)
net(
    "own add that takes a name",
    "self.bag = Bag()\nself.bag.add('fc', nn.Linear(2, 2)).add('conv', nn.Conv2d(2, 2, 1))",
    "bag.fc.weight bag.0.weight *.conv.*",
    before="""
    class Bag(nn.Module):
        def add(self, name, layer):
            setattr(self, name, layer)
            return self
    """,
)
net(
    "own module list",
    "self.layers = Layers()\nself.layers.append(nn.Linear(2, 2))",
    "layers.0.0.weight layers.0.weight",
    before="""
    class Layers(nn.ModuleList):
        def append(self, layer):
            return super().append(nn.Sequential(layer))
    """,
)
net(
    "own sequential",
    "self.body = Body()",
    "body.0.weight *.0.*",
    before="""
    class Body(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Conv2d(2, 2, 1), nn.ReLU())
    """,
)
net(
    "own sequential with options",
    "self.body = ConvReLU(2)\nself.bodies = nn.Sequential(ConvReLU(2), ConvReLU(2))",
    "body.0.weight bodies.1.0.weight",
    before="""
    class ConvReLU(nn.Sequential):
        def __init__(self, size):
            layers = [nn.Conv2d(size, size, 1), nn.ReLU()]
            super().__init__(*layers)
    """,
)
net(
    "own sequential given modules",
    "self.body = Body(nn.Linear(2, 2), nn.ReLU())",
    "body.0.weight *.0.*",
    before="class Body(nn.Sequential):\n    pass",
)
net(
    "own sequential with names",
    "self.body = Named(nn.Linear(2, 2), nn.ReLU())",
    "body.m0.weight body.0.weight *.m0.*",
    before="""
    from collections import OrderedDict


    class Named(nn.Sequential):
        def __init__(self, *layers):
            super().__init__(OrderedDict((f'm{i}', layer) for i, layer in enumerate(layers)))
    """,
)
net(
    "element of an own sequential",
    """
    body = Body()
    self.first = body[0]
    self.body = body
    """,
    "first.weight *.first.*",
    before="""
    class Body(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Conv2d(2, 2, 1), nn.ReLU())
    """,
)
net(
    "own sequential with add_module",
    "self.body = Body()",
    "body.conv1.weight body.conv2.*",
    before="""
    class Body(nn.Sequential):
        def __init__(self):
            super().__init__()
            self.add_module('conv1', nn.Conv2d(2, 2, 1))
            for i in range(1):
                self.add_module('conv%d' % (i + 2), nn.Conv2d(2, 2, 1))
    """,
)
net(
    "own module dictionary",
    "self.d = Table()",
    "d.fc.weight *.fc.*",
    before="""
    class Table(nn.ModuleDict):
        def __init__(self):
            super().__init__({'fc': nn.Linear(2, 2)})
            self['conv'] = nn.Conv2d(2, 2, 1)
    """,
)
net(
    "own linear",
    "self.fc = Lin(2, 2)",
    "fc.weight *@Lin.weight",
    before="""
    class Lin(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2
    """,
)
net(
    "own linear with own arguments",
    "self.fc = Lin(2)",
    "fc.weight *.fc.bias *.extra",
    before="""
    class Lin(nn.Linear):
        def __init__(self, size):
            super().__init__(size, size, bias=False)
            self.extra = nn.Parameter(torch.ones(size))
    """,
)
net(
    "own linear without weight",
    "self.fc = Lin(2, 2)",
    "fc.weight fc.kernel",
    before="""
    class Lin(nn.Linear):
        def __init__(self, a, b):
            super().__init__(a, b)
            del self.weight
            self.kernel = nn.Parameter(torch.ones(b, a))
    """,
)
net(
    "own linear with another weight",
    "self.fc = Lin(2, 2)",
    "fc.weight",
    before="""
    class Lin(nn.Linear):
        def __init__(self, a, b):
            super().__init__(a, b)
            self.weight = nn.Parameter(torch.ones(b, a))
    """,
)
net(
    "own convolution of a mixin",
    "self.conv = Conv(2, 2, 1)",
    "conv.weight",
    before="""
    class Same:
        def pad(self):
            return 0


    class Conv(Same, nn.Conv2d):
        pass
    """,
)
form("inherited constructor", (BLOCK, "class Net(Block):\n    pass"), "fc.weight *.fc.*")
form(
    "overridden constructor",
    (
        BLOCK,
        """
        class Net(Block):
            def __init__(self):
                super().__init__(2)
                self.fc = nn.Conv2d(2, 2, 1)
                self.more = nn.Linear(2, 2)
        """,
    ),
    "fc.weight more.weight *@Linear.weight",
)
form(
    "overridden method",
    """
    class Base(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = self.make()

        def make(self):
            return nn.Linear(2, 2)


    class Net(Base):
        def make(self):
            return nn.Conv2d(2, 2, 1)
    """,
    "fc.weight *@Conv2d.weight",
)
form(
    "overridden method is given a module",
    """
    class Base(nn.Module):
        def __init__(self):
            super().__init__()
            self.put('a', nn.Linear(2, 2))

        def put(self, name, layer):
            self.a = layer


    class Net(Base):
        def put(self, name, layer):
            self.b = layer
    """,
    "a.weight b.weight *.b.*",
)
form(
    "constructor not called by name",
    (
        BLOCK,
        """
        class Net(Block):
            def __init__(self):
                Block.__init__(self, 2)
                self.more = nn.Linear(2, 2)
        """,
    ),
    "fc.weight more.weight",
)
form(
    "module given to a base",
    (
        STORE,
        """
        class Net(Store):
            def __init__(self):
                super().__init__(nn.Linear(2, 2))
        """,
    ),
    "inner.weight *.inner.*",
)
form(
    "module given to a base by its name",
    (
        STORE,
        """
        class Net(Store):
            def __init__(self):
                Store.__init__(self, nn.Linear(2, 2))
        """,
    ),
    "inner.weight *.inner.*",
)
form(
    "diamond",
    """
    class Base(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.base = layer


    class A(Base):
        def __init__(self, layer):
            super().__init__(layer)


    class B(Base):
        def __init__(self, layer):
            super().__init__(nn.Linear(2, 2))
            self.b = layer


    class Net(A, B):
        def __init__(self):
            super().__init__(nn.Conv2d(2, 2, 1))
    """,
    "b.weight base.weight *.b.*",
)
form(
    "mixin of a plain class",
    """
    class Mixin:
        def build(self):
            self.mixed = nn.Linear(2, 2)


    class Net(Mixin, nn.Module):
        def __init__(self):
            super().__init__()
            self.build()
    """,
    "mixed.weight *.mixed.*",
)
form(
    "mixin of a module class",
    """
    class Mixin(nn.Module):
        def __init__(self, **options):
            super().__init__(**options)
            self.mixed = nn.Linear(2, 2)


    class Base(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer


    class Net(Mixin, Base):
        def __init__(self):
            super().__init__(layer=nn.Conv2d(2, 2, 1))
    """,
    "mixed.weight layer.weight",
)
form(
    "generic base",
    """
    from typing import Generic, TypeVar

    T = TypeVar('T')


    class Base(nn.Module, Generic[T]):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)


    class Net(Base[int]):
        pass
    """,
    "fc.weight",
)
form(
    "abstract base",
    """
    import abc


    class Base(nn.Module, metaclass=abc.ABCMeta):
        def __init__(self):
            super().__init__()
            self.fc = self.make()

        @abc.abstractmethod
        def make(self): ...


    class Net(Base):
        def make(self):
            return nn.Linear(2, 2)
    """,
    "fc.weight",
)
form(
    "dataclass",
    """
    from dataclasses import dataclass


    @dataclass(eq=False)
    class Net(nn.Module):
        size: int = 2

        def __post_init__(self):
            super().__init__()
            self.fc = nn.Linear(self.size, self.size)
    """,
    "fc.weight",
)
form(
    "dataclass with a module",
    """
    from dataclasses import dataclass, field


    @dataclass(eq=False)
    class Net(nn.Module):
        fc: nn.Module = field(default_factory=lambda: nn.Linear(2, 2))

        def __new__(cls, *args, **kwargs):
            new = super().__new__(cls)
            nn.Module.__init__(new)
            return new
    """,
    "fc.weight",
)
form(
    "decorated constructor",
    """
    import functools


    def logged(function):
        @functools.wraps(function)
        def inner(self, *args, **kwargs):
            return function(self, *args, **kwargs)
        return inner


    class Net(nn.Module):
        @logged
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.scale = nn.Parameter(torch.ones(2))
    """,
    "fc.weight",
)
form(
    "decorated class",
    """
    def extended(cls):
        original = cls.__init__

        def init(self):
            original(self)
            self.extra = nn.Linear(2, 2)

        cls.__init__ = init
        return cls


    @extended
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)
    """,
    "extra.weight fc.weight *.0.weight",
)
form(
    "class that a function replaces",
    """
    def traced(cls):
        def make():
            return cls()
        return make


    @traced
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)
            for i in range(2):
                setattr(self, f'n{i}', nn.Linear(2, 2))
    """,
    "fc.weight n0.weight",
)
form(
    "subclass wrapped by a decorator",
    """
    def deeper(cls):
        class Deeper(cls):
            def __init__(self):
                super().__init__()
                self.deeper = nn.Linear(2, 2)
        return Deeper


    @deeper
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            for i in range(2):
                setattr(self, f'n{i}', nn.Linear(2, 2))
    """,
    "deeper.weight n0.weight *.deeper.*",
)
form(
    "early return",
    """
    class Net(nn.Module):
        def __init__(self, short=True):
            super().__init__()
            self.a = nn.Linear(2, 2)
            if short:
                return
            self.b = nn.Linear(2, 2)
    """,
    "a.weight b.weight",
)
form(
    "added from outside",
    """
    class Body(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)


    def Net():
        body = Body()
        body.head = nn.Linear(2, 2)
        return body
    """,
    "fc.weight head.weight *.head.*",
)
form(
    "function that returns a model",
    (
        BLOCK,
        """
        class Model(nn.Module):
            def __init__(self, block, size=2):
                super().__init__()
                self.block = block(size)
                self.head = nn.Linear(size, size)


        def Net(**options):
            return Model(Block, **options)
        """,
    ),
    "block.fc.weight head.weight",
)
form(
    "two roots",
    (
        BLOCK,
        """
        class Other(nn.Module):
            def __init__(self):
                super().__init__()
                self.enc = Block()


        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.dec = Block()
        """,
    ),
    "dec.fc.weight enc.fc.weight *.dec.*",
)
form(
    "model of a linear",
    """
    class Net(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.more = nn.Linear(2, 2)
    """,
    "weight more.weight",
)
form(
    "model of a linear beside another",
    (
        BLOCK,
        """
        class Net(nn.Linear):
            def __init__(self):
                super().__init__(2, 2)
                self.more = nn.Linear(2, 2)
        """,
    ),
    "weight more.weight",
)
form(
    "model at module level",
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)


    model = Net()
    model.extra = nn.Linear(2, 2)
    """,
    "fc.weight extra.weight",
)
form(
    "main guard",
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)


    if __name__ == '__main__':
        model = nn.Sequential(Net(), nn.Linear(2, 2))
    """,
    "fc.weight 0.fc.weight",
)

# -- what is made elsewhere --------------------------------------------------------------------------------------------
AWAY = "import elsewhere"
net("made elsewhere", "self.a = elsewhere.make()\nself.b = nn.Linear(2, 2)", "a.weight b.weight", before=AWAY)
net(
    "made elsewhere, chained",
    "self.a = elsewhere.make().eval()\nself.b = nn.Linear(2, 2)",
    "a.weight *.a.*",
    before=AWAY,
)
net(
    "made elsewhere, in a dictionary",
    "self.d = nn.ModuleDict({'a': elsewhere.make()})\nself.b = nn.Linear(2, 2)",
    "d.a.weight *.a.*",
    before=AWAY,
)
net(
    "made elsewhere, in a generator",
    "self.s = nn.Sequential(*(elsewhere.make() for _ in range(2)))\nself.b = nn.Linear(2, 2)",
    "s.0.weight *.s.*",
    before=AWAY,
)
net(
    "made elsewhere, in a store",
    "self.store = Store(elsewhere.make())\nself.b = nn.Linear(2, 2)",
    "store.inner.weight *.inner.*",
    before=(
        AWAY,
        STORE,
    ),
)
net(
    "made elsewhere, returned",
    "self.a = make()\nself.b = nn.Linear(2, 2)",
    "a.weight *.a.*",
    before=(
        AWAY,
        "def make():\n    return elsewhere.make()",
    ),
)
net(
    "made elsewhere, returned to a store",
    "self.store = Store(make())\nself.b = nn.Linear(2, 2)",
    "store.inner.weight *.inner.*",
    before=(
        AWAY,
        STORE,
        "def make():\n    return elsewhere.make()",
    ),
)
net(
    "made elsewhere, copied",
    "self.a = copy.deepcopy(elsewhere.make())\nself.b = nn.Linear(2, 2)",
    "a.weight *.a.*",
    before=(
        "import copy",
        AWAY,
    ),
)
net(
    "made elsewhere, by a walrus",
    """
    if (a := elsewhere.make()):
        self.a = a
    self.b = nn.Linear(2, 2)
    """,
    "a.weight *.a.*",
    before=AWAY,
)
net(
    "made elsewhere, a part of it",
    "self.features = elsewhere.Backbone().features\nself.b = nn.Linear(2, 2)",
    "features.0.weight *.features.*",
    before=AWAY,
)
net(
    "made elsewhere, children of it",
    """
    self.features = nn.Sequential(*list(elsewhere.Backbone().children())[:-1])
    self.b = nn.Linear(2, 2)
    """,
    "features.0.0.weight *.features.*",
    before=AWAY,
)
net(
    "made elsewhere, by a local name",
    """
    backbone = elsewhere.Backbone()
    self.features = backbone.features
    self.b = nn.Linear(2, 2)
    """,
    "features.0.weight *.features.*",
    before=AWAY,
)
net(
    "made elsewhere, by a name with get",
    "self.norm = get_norm(2)\nself.b = nn.Linear(2, 2)",
    "norm.weight *.norm.*",
    before="from elsewhere import get_norm",
)
net(
    "made elsewhere, in a method",
    "self.build()",
    "a.weight *.a.*",
    before=AWAY,
    after="""
    def build(self):
        self.a = elsewhere.make()
        self.b = nn.Linear(2, 2)
    """,
)
net(
    "made elsewhere, in a method of its own",
    "self.build()\nself.b = nn.Linear(2, 2)",
    "a.weight *.a.*",
    before=AWAY,
    after="def build(self):\n    self.a = elsewhere.make()",
)
net(
    "made elsewhere, at module level",
    "self.a = LAYER\nself.b = nn.Linear(2, 2)",
    "a.weight *.a.*",
    before=(
        AWAY,
        "LAYER = elsewhere.make()",
    ),
)
net(
    "made elsewhere, in a loop",
    """
    for i, each in enumerate([elsewhere.make(), nn.Linear(2, 2)]):
        self.add_module(f'n{i}', each)
    """,
    "n0.weight *.n0.*",
    before=AWAY,
)
net(
    "made elsewhere, set by name",
    """
    setattr(self, 'a', elsewhere.make())
    self.add_module('c', elsewhere.make())
    self.b = nn.Linear(2, 2)
    """,
    "a.weight c.weight *.a.*",
    before=AWAY,
)
net(
    "class from elsewhere",
    """
    kind = elsewhere.classes('linear')
    self.a = kind(2, 2)
    self.b = nn.Linear(2, 2)
    """,
    "a.weight *.a.*",
    before=AWAY,
)
net(
    "class from elsewhere called at once",
    "self.a = elsewhere.classes('linear')(2, 2)\nself.b = nn.Linear(2, 2)",
    "a.weight *.a.*",
    before=AWAY,
)
net(
    "class of a configuration elsewhere",
    """
    cfg = elsewhere.Config()
    self.norm = cfg.norm_layer(2)
    self.b = nn.Linear(2, 2)
    """,
    "norm.weight *.norm.*",
    before=AWAY,
)
net(
    "base from elsewhere",
    "self.inner = Inner()\nself.b = nn.Linear(2, 2)",
    "inner.conv.weight *.conv.*",
    before=(
        AWAY,
        """
        class Inner(elsewhere.Base):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(2, 2)
        """,
    ),
)
form(
    "model with a base from elsewhere",
    (
        AWAY,
        module("self.fc = nn.Linear(2, 2)", base="elsewhere.Base"),
    ),
    "conv.weight fc.weight",
)
form(
    "model with a base from elsewhere beside another",
    (
        AWAY,
        BLOCK,
        module("self.fc = nn.Linear(2, 2)", base="elsewhere.Base"),
    ),
    "conv.weight fc.weight",
)
net(
    "child of a module from elsewhere",
    "self.net = elsewhere.Backbone()\nself.net.fc = nn.Linear(2, 3)",
    "net.fc.weight *.fc.*",
    before=AWAY,
)
net(
    "parameter from elsewhere",
    "self.scale = elsewhere.parameter()\nself.b = nn.Linear(2, 2)",
    "scale *.scale",
    before=AWAY,
)
net(
    "filled elsewhere",
    """
    self.box = nn.Module()
    fill(self.box)
    self.b = nn.Linear(2, 2)
    """,
    "box.fc.weight *.box.*",
    before="from elsewhere import fill",
)

# -- the same module, the same tensor ----------------------------------------------------------------------------------
net("alias", "self.a = nn.Linear(2, 2)\nself.b = self.a", "a.weight b.weight *.b.*")
net(
    "alias in a sequential",
    """
    self.conv = nn.Conv2d(2, 2, 1)
    self.fc = nn.Linear(2, 2)
    self.seq = nn.Sequential(self.conv, nn.ReLU(), self.fc)
    """,
    "conv.weight seq.0.weight seq.2.* *.0.weight",
)
net(
    "children",
    "net = Block()\nself.body = nn.Sequential(*list(net.children())[:-1])",
    "body.0.weight body.conv1.weight *.conv1.weight *.body.*",
    before=BLOCK,
)
net(
    "children of a sequential",
    """
    whole = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Linear(2, 2))
    self.body = nn.Sequential(*list(whole.children())[1:])
    """,
    "body.1.weight body.2.weight *.1.weight",
)
net(
    "children of a named sequential",
    """
    whole = nn.Sequential(OrderedDict(conv=nn.Conv2d(2, 2, 1), fc=nn.Linear(2, 2)))
    self.body = nn.Sequential(*whole.children())
    """,
    "body.0.weight body.conv.weight *.0.weight",
    before="from collections import OrderedDict",
)
net(
    "children in a loop",
    """
    self.body = Block()
    for name, child in self.body.named_children():
        setattr(self, 'x_' + name, child)
    """,
    "x_fc.weight *.x_fc.*",
    before=BLOCK,
)
net(
    "children in a module list",
    "self.body = Block()\nself.parts = nn.ModuleList(self.body.children())",
    "parts.0.weight *.parts.*",
    before=BLOCK,
)
net(
    "modules of a kind",
    """
    self.body = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))
    self.found = nn.ModuleList([each for each in self.body.modules() if isinstance(each, nn.Linear)])
    """,
    "found.0.weight *.found.* found.0.0.weight",
)
net(
    "iterated sequential",
    """
    self.body = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Linear(2, 2))
    for i, layer in enumerate(self.body):
        self.add_module(f'l{i}', layer)
    """,
    "l1.weight *.l0.*",
)
net(
    "first of the children",
    "self.body = Block()\nself.first = next(self.body.children())",
    "first.weight *.first.*",
    before=BLOCK,
)
net("part of a block", "block = Block()\nself.fc = block.fc", "fc.weight block.fc.weight *.fc.*", before=BLOCK)
net(
    "copy of a block",
    "self.a = Block()\nself.b = copy.deepcopy(self.a)",
    "b.fc.weight a.fc.weight *.b.*",
    before=(
        "import copy",
        BLOCK,
    ),
)
net(
    "copy of a layer",
    "self.a = nn.Linear(2, 2)\nself.b = copy.deepcopy(self.a)",
    "b.weight a.weight *.b.*",
    before="import copy",
)
net(
    "tie",
    """
    self.emb = nn.Embedding(3, 2)
    self.head = nn.Linear(2, 3, bias=False)
    self.head.weight = self.emb.weight
    """,
    "head.weight emb.weight *.emb.weight",
)
net(
    "tie by a local name",
    """
    emb = nn.Embedding(3, 2)
    self.head = nn.Linear(2, 3, bias=False)
    weight = emb.weight
    self.head.weight = weight
    self.emb = emb
    """,
    "head.weight emb.weight *.emb.weight",
)
net(
    "tie of a block",
    """
    self.a = Block()
    self.b = Block()
    self.b.fc.weight = self.a.fc.weight
    """,
    "a.fc.weight b.fc.weight *.a.*",
    before=BLOCK,
)
net(
    "tie by setattr",
    """
    self.a = nn.Linear(2, 2)
    self.b = nn.Linear(2, 2)
    setattr(self.b, 'weight', self.a.weight)
    """,
    "a.weight b.weight *.b.*",
)
net(
    "tie in a method",
    """
    self.a = nn.Linear(2, 2)
    self.b = nn.Linear(2, 2)
    self.tie(self.b, self.a)
    """,
    "a.weight b.weight *.b.*",
    after="def tie(self, one, other):\n    one.weight = other.weight",
)
net(
    "tie of both",
    """
    self.a = nn.Linear(2, 2)
    self.b = nn.Linear(2, 2)
    self.b.weight, self.b.bias = self.a.weight, self.a.bias
    """,
    "a.weight b.weight *.b.*",
)
net(
    "tie of own parameters",
    """
    self.a = Own()
    self.b = Own()
    self.b.kernel = self.a.kernel
    """,
    "a.kernel b.kernel *.kernel",
    before="""
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = nn.Parameter(torch.ones(2))
    """,
)
net("tie of children of own names", "self.a = nn.Linear(2, 2)\nself.kernel = self.a.weight", "kernel a.weight *.kernel")
net(
    "tie by register_parameter",
    "self.a = nn.Linear(2, 2)\nself.register_parameter('kernel', self.a.weight)",
    "kernel a.weight *.kernel",
)
net(
    "weight of a forgotten layer",
    "self.fc = nn.Linear(2, 2)\nself.kernel = nn.Linear(2, 2).weight",
    "kernel *.kernel fc.weight",
)
net(
    "weight of a local layer",
    """
    layer = nn.Linear(2, 2)
    self.kernel = layer.weight
    self.shift = layer.bias
    self.fc = nn.Linear(2, 2)
    """,
    "kernel *.shift fc.weight",
)
net(
    "parameters in a list",
    "self.fc = nn.Linear(2, 2)\nself.params = nn.ParameterList(self.fc.parameters())",
    "params.0 *.params.* fc.weight",
)
net(
    "tie of weights in two lists",
    """
    self.a = nn.ModuleList([nn.Linear(2, 2) for _ in range(2)])
    self.b = nn.ModuleList([nn.Linear(2, 2) for _ in range(2)])
    for x, y in zip(self.a, self.b):
        y.weight = x.weight
    """,
    "a.0.weight b.0.weight *.b.*",
)

# -- what is done to a module in the constructor -----------------------------------------------------------------------
net(
    "moved",
    """
    self.fc = nn.Linear(2, 2).to('cpu')
    self.conv = nn.Conv2d(2, 2, 1).requires_grad_(False).eval()
    """,
    "fc.weight conv.weight",
)
net(
    "other dtype",
    "self.fc = nn.Linear(2, 2).double()\nself.other = nn.Linear(2, 2, dtype=torch.float64)",
    "fc.weight other.weight",
)
net("other dtype of all", "self.fc = nn.Linear(2, 2)\nself.to(torch.float64)", "fc.weight")
net("half", "self.fc = nn.Linear(2, 2).to(torch.bfloat16)", "fc.weight")
net(
    "initialised",
    """
    self.fc = nn.Linear(2, 2)
    nn.init.normal_(self.fc.weight)
    nn.init.zeros_(self.fc.bias)
    """,
    "fc.weight *.fc.bias",
)
net(
    "initialised by apply",
    """
    self.fc = nn.Linear(2, 2)
    self.conv = nn.Conv2d(2, 2, 1)
    self.apply(self.init)
    """,
    "fc.weight",
    after="""
    def init(self, module):
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            module.bias.data.fill_(0.5)
    """,
)
net(
    "initialised in a loop of modules",
    """
    self.fc = nn.Linear(2, 2)
    for each in self.modules():
        if isinstance(each, nn.Linear):
            each.weight.data.normal_(0, 0.1)
            each.bias.data.zero_()
    """,
    "fc.weight",
)
net(
    "initialised in a loop of parameters",
    """
    self.fc = nn.Linear(2, 2)
    self.conv = nn.Conv2d(2, 2, 1)
    for each in self.parameters():
        if each.dim() > 1:
            nn.init.xavier_uniform_(each)
    """,
    "fc.weight conv.weight",
)
net(
    "initialised by name",
    """
    self.fc = nn.Linear(2, 2)
    for name, each in self.named_parameters():
        if 'weight' in name and each.dim() > 1:
            nn.init.constant_(each, 0.5)
        elif name.endswith('bias'):
            nn.init.constant_(each, 0.25)
    """,
    "fc.weight fc.bias",
)
net(
    "initialised by a local name",
    """
    fc = nn.Linear(2, 2)
    weight = fc.weight
    self.fc = fc
    nn.init.constant_(weight, 0.5)
    """,
    "fc.weight",
)
net(
    "initialised by a state dict",
    """
    self.fc = nn.Linear(2, 2)
    self.load_state_dict({'fc.weight': torch.ones(2, 2), 'fc.bias': torch.ones(2)})
    """,
    "fc.weight",
)
net(
    "state dict of another",
    """
    self.a = nn.Linear(2, 2)
    self.b = nn.Linear(2, 2)
    self.b.load_state_dict(self.a.state_dict())
    """,
    "a.weight b.weight",
)
net(
    "copied under no_grad",
    """
    self.a = nn.Linear(2, 2)
    with torch.no_grad():
        self.a.weight.copy_(torch.ones(2, 2))
        self.a.weight[0] = 0.5
        self.a.bias += 1
    """,
    "a.weight *.a.bias",
)
net("data assigned", "self.a = nn.Linear(2, 2)\nself.a.weight.data = torch.ones(2, 2)", "a.weight")
net(
    "data of another",
    """
    self.a = nn.Linear(2, 2)
    self.b = nn.Linear(2, 2)
    self.b.weight.data = self.a.weight.data
    """,
    "a.weight b.weight",
)
net(
    "weight replaced",
    "self.fc = nn.Linear(2, 2)\nself.fc.weight = nn.Parameter(torch.ones(2, 2))",
    "fc.weight *.fc.bias",
)
net(
    "weight replaced by an own one",
    """
    fc = nn.Linear(2, 2)
    fc.weight = nn.Parameter(torch.ones(2, 2))
    self.fc = fc
    """,
    "fc.weight",
)
net("bias set to None", "self.fc = nn.Linear(2, 2)\nself.fc.bias = None", "fc.bias fc.weight")
net(
    "bias deleted",
    """
    self.fc = nn.Linear(2, 2)
    del self.fc.bias
    self.fc.register_parameter('bias', None)
    """,
    "fc.bias",
)
net(
    "frozen",
    """
    self.fc = nn.Linear(2, 2)
    self.fc.weight.requires_grad = False
    self.conv = nn.Conv2d(2, 2, 1)
    for each in self.conv.parameters():
        each.requires_grad = False
    """,
    "fc.weight conv.weight",
)
net("frozen all", "self.fc = nn.Linear(2, 2)\nself.requires_grad_(False)", "fc.weight")
net(
    "read in the constructor",
    "self.fc = nn.Linear(2, 2)\nself.register_buffer('first', self.fc.weight.detach().clone())",
    "fc.weight *.first",
)
net(
    "parameter made of another",
    "self.fc = nn.Linear(2, 2)\nself.copy = nn.Parameter(self.fc.weight.detach().clone())",
    "fc.weight copy *.copy",
)
net(
    "marked",
    """
    self.fc = nn.Linear(2, 2)
    self.fc.weight._no_decay = True
    self.fc.bias.kind = 'bias'
    """,
    "fc.weight",
)
net(
    "counted",
    """
    self.fc = nn.Linear(2, 2)
    self.count = sum(each.numel() for each in self.parameters())
    self.names = [name for name, _ in self.named_parameters()]
    """,
    "fc.weight",
)
net(
    "named tensors by hand",
    """
    self.fc = nn.Linear(2, 2)
    self.params = [each for name, each in self.named_parameters() if name == 'fc.weight']
    self.extra = nn.Parameter(torch.ones(len(self.params)))
    """,
    "fc.weight extra",
)
net(
    "weight norm",
    """
    self.conv = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 1))
    self.fc = nn.Linear(2, 2)
    """,
    "conv.weight *.original0 fc.weight",
)
net(
    "old weight norm",
    """
    self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 1), 'weight')
    self.fc = nn.Linear(2, 2)
    """,
    "conv.weight *.conv.*",
)
net(
    "weight norm afterwards",
    "self.conv = nn.Conv2d(2, 2, 1)\nnn.utils.parametrizations.weight_norm(self.conv)",
    "conv.weight *.conv.* *.original0",
)
net(
    "weight norm of a local",
    "conv = nn.Conv2d(2, 2, 1)\nself.conv = nn.utils.parametrizations.weight_norm(conv)",
    "conv.weight *.conv.*",
)
net(
    "spectral norm by a helper",
    "self.conv = sn(nn.Conv2d(2, 2, 1))",
    "conv.weight *.conv.*",
    before="def sn(layer):\n    return nn.utils.parametrizations.spectral_norm(layer)",
)
net(
    "spectral norm by apply",
    "self.conv = nn.Conv2d(2, 2, 1)\nself.apply(add)",
    "conv.weight",
    before="""
    def add(layer):
        if isinstance(layer, nn.Conv2d):
            nn.utils.parametrizations.spectral_norm(layer)
    """,
)
net(
    "parametrized",
    """
    self.fc = nn.Linear(2, 2)
    nn.utils.parametrize.register_parametrization(self.fc, 'weight', Double())
    """,
    "fc.weight *.original",
    before="""
    import torch.nn.utils.parametrize


    class Double(nn.Module):
        def forward(self, x):
            return x * 2
    """,
)
net(
    "compiled",
    "self.fc = torch.compile(nn.Linear(2, 2))\nself.block = torch.compile(Block())",
    "fc.weight fc._orig_mod.weight *.fc.weight *._orig_mod.*",
    before=BLOCK,
)
net("data parallel", "self.fc = nn.DataParallel(nn.Linear(2, 2))", "fc.module.weight fc.weight")
net(
    "called in the constructor",
    """
    self.fc = nn.Linear(2, 2)
    self.size = self.fc(torch.ones(1, 2)).shape[-1]
    self.out = nn.Linear(self.size, 2)
    """,
    "fc.weight out.weight",
)
net(
    "default dtype",
    """
    torch.set_default_dtype(torch.float64)
    self.fc = nn.Linear(2, 2)
    torch.set_default_dtype(torch.float32)
    """,
    "fc.weight",
)
net(
    "manual seed",
    """
    torch.manual_seed(3)
    self.fc = nn.Linear(2, 2)
    self.extra = nn.Parameter(torch.randn(2))
    """,
    "fc.weight extra",
)
net(
    "random after it",
    """
    self.fc = nn.Linear(2, 2)
    self.kernel = nn.Parameter(torch.randn(2, 2))
    self.last = nn.Linear(2, 2)
    """,
    "kernel last.weight",
)

# -- parameters of an author's own -------------------------------------------------------------------------------------
net(
    "parameter",
    """
    self.scale = nn.Parameter(torch.ones(2))
    self.shift = torch.nn.Parameter(torch.zeros(2), requires_grad=False)
    """,
    "scale shift",
)
net("parameter by a local name", "scale = nn.Parameter(torch.ones(2))\nself.scale = scale", "scale")
net(
    "parameter initialised by a local name",
    """
    scale = nn.Parameter(torch.empty(2))
    self.scale = scale
    nn.init.constant_(scale, 0.5)
    """,
    "scale",
)
net(
    "parameter initialised afterwards",
    """
    self.scale = nn.Parameter(torch.empty(2))
    nn.init.constant_(self.scale, 0.5)
    self.scale.data.mul_(2)
    """,
    "scale",
)
net(
    "parameter under two names",
    """
    scale = nn.Parameter(torch.ones(2))
    self.scale = scale
    self.register_parameter('other', scale)
    """,
    "scale other *.other",
)
net(
    "parameter given on",
    "self.scale = nn.Parameter(torch.ones(2))\nself.part = Part(self.scale)",
    "scale part.scale *.part.*",
    before="""
    class Part(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.scale = scale
    """,
)
net(
    "parameter by a condition",
    """
    self.scale = nn.Parameter(torch.ones(2)) if torch.__version__ else None
    self.shift = None if torch.__version__ else nn.Parameter(torch.ones(2))
    """,
    "scale shift",
)
net(
    "parameter registered",
    """
    self.register_parameter('scale', nn.Parameter(torch.ones(2)))
    self.register_parameter('none', None)
    """,
    "scale none",
)
net(
    "parameter registered by keywords",
    "self.register_parameter(name='scale', param=nn.Parameter(torch.ones(2)))",
    "scale",
)
net(
    "parameter registered late",
    "self.register_parameter('scale', None)\nself.scale = nn.Parameter(torch.ones(2))",
    "scale",
)
net(
    "parameters by computed names",
    """
    for i in range(2):
        setattr(self, f'scale{i}', nn.Parameter(torch.ones(2)))
        self.register_parameter(f'w{i}', nn.Parameter(torch.ones(2)))
    """,
    "scale0 *.w1 *.w0",
)
net(
    "parameter by a name that is popped",
    """
    names = ['a', 'scale']
    self.register_parameter(names.pop(), nn.Parameter(torch.ones(2)))
    self.register_parameter(names.pop(), nn.Parameter(torch.ones(2)))
    """,
    "scale a *",
)
net("parameter of a child", "self.box = nn.Module()\nself.box.scale = nn.Parameter(torch.ones(2))", "box.scale *.box.*")
net(
    "parameter in a function",
    "add(self)",
    "scale",
    before="def add(model):\n    model.scale = nn.Parameter(torch.ones(2))",
)
net(
    "parameter returned",
    "self.scale = ones(2)",
    "scale",
    before="def ones(size):\n    return nn.Parameter(torch.ones(size))",
)
net(
    "parameter by a star import",
    "self.scale = Parameter(torch.ones(2))\nself.fc = nn.Linear(2, 2)",
    "scale fc.weight",
    head="""
    import torch
    from torch import nn
    from torch.nn.parameter import *
    """,
)
net("parameter by another name", "self.scale = P(torch.ones(2))", "scale", before="P = nn.Parameter")
net(
    "parameter class chosen",
    """
    kind = nn.Parameter if torch.__version__ else nn.Buffer
    self.scale = kind(torch.ones(2))
    self.fc = nn.Linear(2, 2)
    """,
    "scale fc.weight",
)
net(
    "own parameter class",
    "self.scale = Own(torch.ones(2))\nself.fc = nn.Linear(2, 2)",
    "scale fc.weight",
    before="class Own(nn.Parameter):\n    pass",
)
net(
    "parameter list",
    "self.scales = nn.ParameterList([nn.Parameter(torch.ones(2)) for _ in range(2)])",
    "scales.0 scales.*",
)
net(
    "parameter list of tensors",
    "self.scales = nn.ParameterList([torch.ones(2), torch.zeros(2)])\nself.fc = nn.Linear(2, 2)",
    "scales.0 scales.* fc.weight",
)
net(
    "parameter list appended to",
    """
    self.scales = nn.ParameterList()
    for _ in range(2):
        self.scales.append(nn.Parameter(torch.ones(2)))
    """,
    "scales.0 scales.*",
)
net(
    "parameter list appended a tensor",
    """
    self.scales = nn.ParameterList()
    self.scales.append(torch.ones(2))
    self.fc = nn.Linear(2, 2)
    """,
    "scales.0 scales.*",
)
net(
    "parameter dictionary",
    """
    self.d = nn.ParameterDict({'scale': nn.Parameter(torch.ones(2))})
    self.d['other'] = nn.Parameter(torch.ones(2))
    """,
    "d.scale d.other d.*",
)
net(
    "parameter dictionary of tensors",
    "self.d = nn.ParameterDict({'scale': torch.ones(2)})\nself.fc = nn.Linear(2, 2)",
    "d.scale d.*",
)
net(
    "two parameters in a tuple",
    "self.scale, self.shift = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2))",
    "scale shift",
)
net(
    "parameter on two lines",
    """
    self.scale = nn.Parameter(
        torch.ones(2)  # one for each
    )  # the end
    self.fc = nn.Linear(2, 2)
    """,
    "scale",
)
net("parameter at the end of a block", "if torch.__version__:\n    self.scale = nn.Parameter(torch.ones(2))", "scale")
net(
    "parameter overwritten",
    "self.scale = nn.Parameter(torch.ones(2))\nself.scale = nn.Parameter(torch.zeros(2))",
    "scale",
)
net("parameter overwritten by None", "self.scale = nn.Parameter(torch.ones(2))\nself.scale = None", "scale")
net(
    "parameter deleted",
    """
    self.scale = nn.Parameter(torch.ones(2))
    del self.scale
    self.fc = nn.Linear(2, 2)
    """,
    "scale",
)
net(
    "buffers",
    """
    self.register_buffer('mean', torch.ones(2))
    self.register_buffer('std', torch.ones(2), persistent=False)
    self.count = nn.Buffer(torch.ones(2))
    """,
    "mean *.std *.mean count",
)
net(
    "buffer by keywords",
    "self.register_buffer(name='mean', tensor=torch.ones(2))\nself.fc = nn.Linear(2, 2)",
    "mean *.mean",
)
net(
    "buffer that is None",
    """
    self.register_buffer('mean', None)
    self.mean = torch.ones(2)
    self.fc = nn.Linear(2, 2)
    """,
    "mean *.mean",
)
net("buffer that stays None", "self.register_buffer('mean', None)\nself.fc = nn.Linear(2, 2)", "mean *.mean")
net(
    "buffers of a norm",
    "self.bn = nn.BatchNorm2d(2)\nself.other = nn.BatchNorm1d(2, affine=False)",
    "bn.running_mean *.running_var other.weight",
)

# -- layers of torch ---------------------------------------------------------------------------------------------------
net(
    "attention",
    "self.att = nn.MultiheadAttention(4, 2)\nself.other = nn.MultiheadAttention(4, 2, bias=False, kdim=3)",
    "att.in_proj_weight",
    "att.out_proj.weight",
    "*.out_proj.*",
    "*.q_proj_weight",
)
net(
    "transformer encoder",
    """
    layer = nn.TransformerEncoderLayer(4, 2, 4)
    self.enc = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(4), enable_nested_tensor=False)
    """,
    "enc.layers.0.linear1.weight enc.norm.weight *.linear1.weight *.in_proj_weight",
)
net(
    "transformer",
    "self.t = nn.Transformer(4, 2, 1, 1, 4)",
    "t.encoder.layers.0.linear1.weight *.linear1.weight *.norm.weight",
)
net(
    "recurrent",
    """
    count = 2
    self.rnn = nn.LSTM(2, 2, num_layers=count, bidirectional=True)
    self.gru = nn.GRU(2, 2)
    self.cell = nn.LSTMCell(2, 2)
    """,
    "rnn.weight_ih_l1 *.weight_hh_l0 gru.* *.weight_ih",
)
net("lazy", "self.fc = nn.LazyLinear(2)\nself.conv = nn.Conv2d(2, 2, 1)", "fc.weight conv.weight")
net(
    "bias by a flag",
    """
    flag = False
    self.fc = nn.Linear(2, 2, bias=flag)
    self.conv = nn.Conv2d(2, 2, 1, bias=not flag)
    """,
    "fc.bias conv.bias *.fc.*",
)
net(
    "options by a dictionary",
    """
    options = {'bias': False}
    self.fc = nn.Linear(2, 2, **options)
    self.conv = nn.Conv2d(*(2, 2, 1))
    """,
    "fc.bias conv.weight",
)
net(
    "prelu and embedding",
    """
    self.act = nn.PReLU()
    self.emb = nn.EmbeddingBag(3, 2)
    self.bi = nn.Bilinear(2, 2, 2)
    """,
    "act.weight emb.weight",
)
net(
    "loss with weights",
    "self.loss = nn.CrossEntropyLoss(weight=torch.ones(2))\nself.fc = nn.Linear(2, 2)",
    "loss.weight *.loss.*",
)
net(
    "adaptive softmax",
    "self.soft = nn.AdaptiveLogSoftmaxWithLoss(4, 6, [2, 4])",
    "soft.head.weight *.head.weight soft.tail.0.0.weight",
)

# -- imports and names -------------------------------------------------------------------------------------------------
CONV = "self.conv = {}(2, 2, 1)"
TORCH = "import torch\nfrom torch import nn\n"
net("import torch", CONV.format("torch.nn.Conv2d"), "conv.weight", head="import torch\n\n\n")
FORMS["import torch"] = Form(FORMS["import torch"].source.replace("(nn.Module)", "(torch.nn.Module)"), ("conv.weight",))
net("import as", CONV.format("nn.Conv2d"), "conv.weight", head="import torch\nimport torch.nn as nn\n\n\n")
net(
    "name imported as",
    CONV.format("C"),
    "conv.weight",
    head="import torch\nfrom torch import nn\nfrom torch.nn import Conv2d as C\n\n\n",
)
net(
    "deep import",
    CONV.format("Conv2d"),
    "conv.weight",
    head="import torch\nfrom torch import nn\nfrom torch.nn.modules.conv import Conv2d\n\n\n",
)
net(
    "import in try",
    CONV.format("Conv2d"),
    "conv.weight",
    head=TORCH + "try:\n    from torch.nn import Conv2d\nexcept ImportError:\n    Conv2d = None\n",
)
net(
    "both imports in try",
    CONV.format("Conv2d"),
    "conv.weight",
    head=TORCH
    + "try:\n    from torch.nn import Conv2d\nexcept ImportError:\n    from torch.nn.modules.conv import Conv2d\n",
)
net(
    "star import",
    CONV.format("Conv2d"),
    "conv.weight",
    head="import torch\nfrom torch import nn\nfrom torch.nn import *\n\n\n",
)
net("import in a function", "from torch.nn import Conv2d\n" + CONV.format("Conv2d"), "conv.weight")
net(
    "shadowed by a class",
    CONV.format("Conv2d"),
    "conv.fc.weight",
    "conv.weight",
    head="import torch\nfrom torch import nn\nfrom torch.nn import Conv2d\n\n\n",
    before="""
    class Conv2d(nn.Module):
        def __init__(self, *sizes):
            super().__init__()
            self.fc = nn.Linear(2, 2)
    """,
)
net(
    "shadowed by a parameter",
    "self.conv = make(nn.Linear)",
    "conv.weight *@Linear.weight",
    before="def make(Conv2d, size=2):\n    return Conv2d(size, size)",
)
net(
    "shadowed module",
    "self.fc = nn.Linear(2, 2)",
    "fc.weight fc.0.weight",
    before="""
    Module = nn.Module


    class tools:
        Module = Module

        @staticmethod
        def Linear(a, b):
            return torch.nn.Sequential(torch.nn.Linear(a, b))


    nn = tools
    """,
)
net("alias of a class", "self.conv = Conv(2, 2, 1)", "conv.weight", before="Conv = nn.Conv2d")
net(
    "alias chosen",
    "self.conv = Conv(2, 2, 1)",
    "conv.weight",
    before="Conv = nn.Conv2d if torch.__version__ else nn.Linear",
)
net(
    "local variable named constrain",
    """
    constrain = 1
    self.fc = nn.Linear(2, 2)
    self.scale = nn.Parameter(torch.ones(2) * constrain)
    """,
    "fc.weight scale",
)
net("method named constrain", "self.fc = nn.Linear(2, 2)", "fc.weight", after="def constrain(self):\n    return 1")
net(
    "parameter named constrain",
    "self.fc = self.make()",
    "fc.weight",
    after="def make(self, constrain=2, constrained=2):\n    return nn.Linear(constrain, constrained)",
)
net("module named surgery", "self.fc = nn.Linear(2, surgery)", "fc.weight", before="surgery = 2")
net(
    "constrain imported already",
    "self.fc = constrain(nn.Linear(2, 2), bias='positive')\nself.conv = nn.Conv2d(2, 2, 1)",
    "fc.weight conv.weight",
    head="""
    import torch
    from torch import nn
    from surgery import constrain
    """,
)
net(
    "constrain imported late",
    """
    from surgery import constrain
    self.fc = nn.Linear(2, 2)
    self.conv = constrain(nn.Conv2d(2, 2, 1), bias='positive')
    """,
    "fc.weight",
)
form(
    "constrained already",
    (
        """
        from surgery import constrained


        @constrained({'fc.bias': 'positive'})
        """,
        module("self.fc = nn.Linear(2, 2)"),
    ),
    "fc.weight fc.*",
)
net(
    "docstring and future",
    "self.fc = nn.Linear(2, 2)",
    "fc.weight",
    head='"""About."""\n\nfrom __future__ import annotations\n\nimport torch\nfrom torch import nn',
)
net(
    "import and statement on a line",
    "self.fc = nn.Linear(2, SIZE)",
    "fc.weight",
    head="import torch\nfrom torch import nn; SIZE = 2",
)
net("imports on a line", "self.fc = nn.Linear(2, 2)", "fc.weight", head="import torch; from torch import nn")
net(
    "imports in parentheses",
    "self.fc = Linear(2, 2)",
    "fc.weight",
    head="""
    import torch
    from torch import (
        nn,
    )
    from torch.nn import (  # one
        Linear,
    )  # two
    """,
)
net(
    "imports under if",
    "self.fc = nn.Linear(2, 2)",
    "fc.weight",
    head="""
    if True:
        import torch
        from torch import nn
    """,
)
net(
    "shebang and encoding",
    "self.fc = nn.Linear(2, 2)",
    "fc.weight",
    head="""
    #!/usr/bin/env python
    # -*- coding: utf-8 -*-
    if True:
        import torch
        from torch import nn
    """,
)
net(
    "docstring alone",
    "import torch\nself.fc = torch.nn.Linear(2, 2)",
    "fc.weight",
    head='"""About."""\nnn = __import__("torch.nn").nn',
)

# -- text --------------------------------------------------------------------------------------------------------------
LAYERS_ON_LINES = """
self.seq = nn.Sequential(
    nn.Conv2d(
        2, 2,
        kernel_size=1,  # small
    ),
    # between
    nn.Linear(2, 2), nn.Linear(2, 2),
)
self.scale = nn.Parameter(torch.ones(2))
"""
net("calls over lines", LAYERS_ON_LINES, "seq.0.weight seq.2.weight scale")
FORMS["carriage returns"] = Form(FORMS["calls over lines"].source.replace("\n", "\r\n"), ("seq.0.weight", "scale"))
FORMS["old carriage returns"] = Form(FORMS["calls over lines"].source.replace("\n", "\r"), ("seq.0.weight", "scale"))
FORMS["mixed line ends"] = Form(FORMS["calls over lines"].source.replace("\n", "\r\n", 5), ("seq.0.weight", "scale"))
FORMS["tabs"] = Form(FORMS["calls over lines"].source.replace("    ", "\t"), ("seq.0.weight", "scale"))
FORMS["form feeds"] = Form(
    FORMS["calls over lines"]
    .source.replace("class", "\f\nclass")
    .replace("        self.scale", "\f        self.scale"),
    ("seq.0.weight", "scale"),
)
FORMS["no newline at the end"] = Form(FORMS["calls over lines"].source.rstrip("\n"), ("seq.0.weight", "scale"))
FORMS["comment at the end"] = Form(FORMS["calls over lines"].source.rstrip("\n") + "  # ä", ("seq.0.weight", "scale"))
net(
    "beyond ASCII",
    """
    größe = 'äöü€😀'; self.fc = nn.Linear(len(größe), 2); self.scale = nn.Parameter(torch.ones(2))  # größe
    self.größe = nn.Linear(2, 2)
    """,
    "fc.weight größe.weight scale",
)
net(
    "line separators in strings",
    "text = 'a\u2028b\x0cc\x85d'; self.fc = nn.Linear(len(text), 2)\nself.scale = nn.Parameter(torch.ones(2))",
    "fc.weight scale",
)
net("f-strings with calls", "self.text = f'{nn.Linear(2, 2)}'\nself.fc = nn.Linear(2, 2)", "fc.weight")
net(
    "long f-strings with calls",
    'self.text = f"""ä\n  {nn.Linear(2, 2)!r:>200}\n{nn.Conv2d(2, 2, 1)}"""; self.fc = nn.Linear(2, 2)',
    "fc.weight",
)
net(
    "f-string that stores",
    """
    self.text = f'''

    {setattr(self, 'fc', nn.Linear(2, 2))}{(conv := nn.Conv2d(2, 2, 1))}'''
    self.conv = conv
    """,
    "fc.weight conv.weight",
)
net(
    "f-string with a parameter",
    """
    self.text = f'{setattr(self, "scale", nn.Parameter(torch.ones(2)))}'
    self.fc = nn.Linear(2, 2)
    """,
    "scale",
)
net(
    "deep nesting",
    "self.seq = " + "nn.Sequential(" * 8 + "nn.Linear(2, 2)" + ", nn.ReLU())" * 8,
    "seq." + "0." * 7 + "0.weight",
    "*.0.0.0.0.weight",
)
net(
    "very deep expression",
    "self.size = " + "(" * 60 + "2" + ")" * 60 + " + 0" * 300 + "\nself.fc = nn.Linear(self.size, 2)",
    "fc.weight",
)
net(
    "parentheses",
    """
    self.fc = (nn.Linear)(2, 2)
    self.conv = (
        nn.Conv2d(2, 2, 1)
    )
    (self.scale) = nn.Parameter(torch.ones(2))
    """,
    "fc.weight conv.weight scale",
)
net(
    "backslashes",
    "self.fc = \\\n"
    "    nn.Linear(2, 2)\n"
    "self.scale = nn.Parameter(torch.ones(2)) \\\n"
    "\n"
    "self.conv = nn \\\n"
    "    .Conv2d(2, 2, 1)",
    "fc.weight scale conv.weight",
)
net("semicolons at the end", "self.scale = nn.Parameter(torch.ones(2));\nself.fc = nn.Linear(2, 2);", "scale fc.weight")
net(
    "comments between",
    """
    self.fc = nn.Linear(  # here
        2,  # in
        2,
        # nothing
    )
    self.scale = nn.Parameter(torch.ones(2))  # nn.Linear(2, 2)
    # self.no = nn.Linear(2, 2)
    """,
    "fc.weight scale",
)
net(
    "one-line class body",
    "self.inner = Inner()",
    "inner.fc.weight",
    before="""
    class Inner(nn.Module):
        def __init__(self): super().__init__(); self.fc = nn.Linear(2, 2); self.scale = nn.Parameter(torch.ones(2))
    """,
)
net(
    "type comments and hints",
    """
    self.fc: 'nn.Linear' = nn.Linear(2, 2)  # type: ignore
    self.many: dict[str, nn.Module]
    self.scale: torch.Tensor = nn.Parameter(torch.ones(2))
    """,
    "fc.weight scale",
)

net(
    "made by a registry elsewhere",
    ("self.tower = elsewhere.Auto.from_config(2)", "self.b = nn.Linear(2, 2)"),
    before="import elsewhere",
)

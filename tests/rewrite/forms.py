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
"""


@dataclass(frozen=True)
class Form:
    """One source, and the patterns that are tried on it besides those that are tried on all."""

    source: str
    patterns: tuple[str, ...] = ()


FORMS: dict[str, Form] = {}


def form(name: str, source: str, *patterns: str, head: str = HEAD) -> None:
    """Note a form whose source begins with ``head``."""
    assert name not in FORMS, name
    FORMS[name] = Form(head + dedent(source).lstrip("\n"), patterns)


def module(body: str, *, name: str = "Net", base: str = "nn.Module", begin: str = "super().__init__()") -> str:
    """A class with an ``__init__`` that has ``body``."""
    lines = "\n".join(part for part in (begin, dedent(body).strip("\n")) if part)
    return f"class {name}({base}):\n    def __init__(self):\n{indent(lines, ' ' * 8)}\n"


def net(name: str, body: str, *patterns: str, before: str = "", after: str = "", head: str = HEAD) -> None:
    """Note a form that is one class ``Net`` with ``body`` in its constructor, ``before`` it and ``after`` it."""
    text = dedent(before).strip("\n")
    methods = indent(dedent(after).strip("\n"), " " * 4)
    form(name, (f"{text}\n\n\n" if text else "") + module(body) + (f"\n{methods}\n" if methods else ""), *patterns, head=head)


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
STORE = """
class Store(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
"""

# -- attributes --------------------------------------------------------------------------------------------------------
net("attribute", "self.conv = nn.Conv2d(2, 2, 1)\nself.fc = nn.Linear(2, 2)\nself.norm = nn.LayerNorm(2)", "fc.weight")
net("annotated attribute", "self.conv: nn.Module = nn.Conv2d(2, 2, 1)\nself.scale: nn.Parameter = nn.Parameter(torch.ones(2))")
net("two names in one assignment", "self.conv = self.other = nn.Conv2d(2, 2, 1)", "other.weight", "*.other.*")
net("two parameters in one assignment", "self.scale = self.other = nn.Parameter(torch.ones(2))", "other", "*.other")
net("tuple of attributes", "self.conv, self.fc = nn.Conv2d(2, 2, 1), nn.Linear(2, 2)", "fc.weight", "conv.weight")
net("list of attributes", "[self.conv, self.fc] = [nn.Conv2d(2, 2, 1), nn.Linear(2, 2)]", "fc.weight")
net("tuple of a loop", "self.a, self.b = (nn.Linear(2, 2) for _ in range(2))", "a.weight", "b.*")
net("nested tuples", "(self.a, self.b), self.c = (nn.Linear(2, 2), nn.Conv2d(2, 2, 1)), nn.Linear(2, 2)", "b.weight", "c.weight")
net(
    "starred attribute", "self.a, *rest, self.b = [nn.Linear(2, 2), nn.Conv2d(2, 2, 1), nn.Linear(2, 2), nn.Linear(2, 2)]\n"
    "self.rest = nn.ModuleList(rest)", "b.weight", "rest.0.weight", "rest.1.weight", "*.rest.*",
)
net(
    "starred in the middle, read by index", "a, *rest = nn.Linear(2, 2), nn.Conv2d(2, 2, 1), nn.Linear(2, 2)\n"
    "self.a = a\nself.conv = rest[0]\nself.c = rest[1]", "conv.weight", "c.weight", "a.weight",
)
net(
    "starred and looped over", "a, *rest = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)\nself.a = a\n"
    "for i, each in enumerate(rest):\n    self.add_module(f'r{i}', each)", "r0.weight", "*.r?.weight",
)
net("attribute of an attribute", "self.box = nn.Module()\nself.box.conv = nn.Conv2d(2, 2, 1)", "box.conv.weight", "box.*")
net("child replaced", "self.block = Block()\nself.block.fc = nn.Linear(2, 2, bias=False)", "block.fc.bias", "*.fc.*", before=BLOCK)
net("attribute assigned again", "self.fc = nn.Linear(2, 2)\nself.fc = nn.Conv2d(2, 2, 1)", "fc.weight", "*@Conv2d.weight")
net("attribute assigned None", "self.fc = nn.Linear(2, 2)\nself.conv = nn.Conv2d(2, 2, 1)\nself.fc = None", "fc.weight")
net("attribute deleted", "self.fc = nn.Linear(2, 2)\nself.conv = nn.Conv2d(2, 2, 1)\ndel self.fc", "fc.weight", "*.fc.*")
net("child of a child deleted", "self.block = Block()\ndel self.block.fc", "*.fc.weight", before=BLOCK)
net("private attribute", "self._conv = nn.Conv2d(2, 2, 1)", "_conv.weight", "*._conv.weight")
net("mangled attribute", "self.__conv = nn.Conv2d(2, 2, 1)", "__conv.weight", "_Net__conv.weight", "*.__conv.*")
net("mangled parameter", "self.__scale = nn.Parameter(torch.ones(2))", "__scale", "_Net__scale", "*.__scale")
net("walrus", "if (conv := nn.Conv2d(2, 2, 1)) is not None:\n    self.conv = conv", "conv.weight")
net("walrus in a call", "self.seq = nn.Sequential(first := nn.Linear(2, 2), nn.ReLU())\nself.first = first", "first.*", "seq.0.*")
net("chosen by a condition", "self.layer = nn.Linear(2, 2) if torch.__version__ else nn.Conv2d(2, 2, 1)", "layer.weight")
net("chosen by or", "given = None\nself.layer = given or nn.Linear(2, 2)", "layer.weight")
net(
    "under conditions", "if len(HEAD) > 1:\n    self.conv = nn.Conv2d(2, 2, 1)\nelif HEAD:\n    self.conv = nn.Linear(2, 2)\n"
    "else:\n    self.fc = nn.Linear(2, 2)", "conv.weight", "fc.weight", before='HEAD = "one"',
)
net("in try", "try:\n    self.conv = nn.Conv2d('two', 2, 1)\nexcept TypeError:\n    self.conv = nn.Linear(2, 2)", "conv.*")
net("in with", "with torch.no_grad():\n    self.fc = nn.Linear(2, 2)\n    self.scale = nn.Parameter(torch.ones(2))", "fc.*")
net("on a device", "with torch.device('cpu'):\n    self.fc = nn.Linear(2, 2)", "fc.*")
net(
    "match statement", "kind = 'conv'\nmatch kind:\n    case 'conv':\n        self.layer = nn.Conv2d(2, 2, 1)\n"
    "    case _:\n        self.layer = nn.Linear(2, 2)", "layer.weight",
)
net("captured by a match", "match nn.Linear(2, 2):\n    case nn.Linear() as found:\n        self.fc = found", "fc.weight", "fc.*")
net("in a method", "self.build()", "fc.*", after="def build(self):\n    self.fc = nn.Linear(2, 2)\n    self.scale = nn.Parameter(torch.ones(2))")
net("while loop", "i = 0\nwhile i < 2:\n    setattr(self, f'fc{i}', nn.Linear(2, 2))\n    i += 1", "fc0.weight", "*.fc1.*")
net("two statements on a line", "self.fc = nn.Linear(2, 2); self.scale = nn.Parameter(torch.ones(2)); self.conv = nn.Conv2d(2, 2, 1)")
net("one-line if", "if True: self.scale = nn.Parameter(torch.ones(2))\nelse: self.scale = None\nif True: self.fc = nn.Linear(2, 2)")
net("a stored type", "kind = nn.Linear\nself.fc = kind(2, 2)", "fc.weight")
net("type of a layer", "self.a = nn.Linear(2, 2)\nself.b = type(self.a)(2, 2)", "b.weight", "a.weight")

# -- Sequential --------------------------------------------------------------------------------------------------------
net("sequential", "self.seq = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Linear(2, 2))", "seq.0.weight", "seq.2.*")
net("sequential of one", "self.seq = nn.Sequential(nn.Conv2d(2, 2, 1))", "seq.0.weight", "seq.weight")
net("sequential in a sequential", "self.seq = nn.Sequential(nn.Sequential(nn.Conv2d(2, 2, 1)))", "seq.0.weight", "seq.0.0.weight")
net(
    "sequential in a local sequential", "inner = nn.Sequential(nn.Linear(2, 2), nn.ReLU())\nself.seq = nn.Sequential(inner)",
    "seq.0.weight", "seq.0.0.weight",
)
net(
    "list in a sequential", "self.seq = nn.Sequential(nn.ModuleDict({'conv': nn.Conv2d(2, 2, 1)}))",
    "seq.conv.weight", "seq.0.conv.weight",
)
net(
    "encoder in a sequential", "layer = nn.TransformerEncoderLayer(4, 2, 4)\nself.seq = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))",
    "seq.layers.0.linear1.weight", "seq.0.layers.0.linear1.weight",
)
net(
    "ordered dictionary", "self.seq = nn.Sequential(OrderedDict([('conv', nn.Conv2d(2, 2, 1)), ('fc', nn.Linear(2, 2))]))",
    "seq.conv.weight", "seq.0.weight", before="from collections import OrderedDict",
)
net(
    "ordered dictionary by keywords", "self.seq = nn.Sequential(OrderedDict(conv=nn.Conv2d(2, 2, 1), fc=nn.Linear(2, 2)))",
    "seq.conv.weight", "seq.0.weight", before="from collections import OrderedDict",
)
net(
    "ordered dictionary filled", "layers = OrderedDict()\nlayers['conv'] = nn.Conv2d(2, 2, 1)\nfor i in range(2):\n"
    "    layers['fc' + str(i + 1)] = nn.Linear(2, 2)\nself.seq = nn.Sequential(layers)",
    "seq.conv.weight", "seq.fc1.weight", "seq.fc2.weight", before="from collections import OrderedDict",
)
net(
    "ordered dictionary of computed pairs", "self.seq = nn.Sequential(OrderedDict([(f'fc{i}', nn.Linear(2, 2)) for i in range(2)]))",
    "seq.fc0.weight", "seq.0.1.weight", "*.1.weight", before="from collections import OrderedDict",
)
net(
    "ordered dictionary of pairs with names", "names = ['conv', 'fc']\nself.seq = nn.Sequential(OrderedDict([(name, nn.Linear(2, 2)) for name in names]))",
    "seq.fc.weight", "seq.conv.weight", "seq.0.1.weight", "*.1.weight", "*.fc.*", before="from collections import OrderedDict",
)
net(
    "ordered dictionary of added names", "self.seq = nn.Sequential(OrderedDict([('fc' + str(i), nn.Linear(2, 2)) for i in range(2)]))",
    "seq.fc0.weight", "*.fc0.*", "*.1.weight", before="from collections import OrderedDict",
)
net(
    "ordered dictionary of appended pairs", "layers = []\nfor i in range(2):\n    layers.append(('fc%d' % i, nn.Linear(2, 2)))\n"
    "self.seq = nn.Sequential(OrderedDict(layers))", "seq.fc0.weight", "*.fc0.*", "*.1.weight", before="from collections import OrderedDict",
)
net("starred list", "layers = [nn.Conv2d(2, 2, 1), nn.ReLU()]\nself.seq = nn.Sequential(*layers, nn.Linear(2, 2))", "seq.0.weight", "seq.2.weight")
net("starred after others", "layers = [nn.Linear(2, 2)]\nself.seq = nn.Sequential(nn.Conv2d(2, 2, 1), *layers)", "seq.0.weight", "seq.1.weight")
net("starred generator", "self.seq = nn.Sequential(*(nn.Linear(2, 2) for _ in range(2)))", "seq.0.weight", "seq.1.*")
net("two stars", "a, b = [nn.Linear(2, 2)], [nn.Conv2d(2, 2, 1)]\nself.seq = nn.Sequential(*a, *b)", "seq.0.weight", "seq.1.weight")
net(
    "list appended to", "layers = [nn.Conv2d(2, 2, 1)]\nfor _ in range(2):\n    layers.append(nn.Linear(2, 2))\n    layers += [nn.ReLU()]\n"
    "layers.extend([nn.Linear(2, 2)])\nself.seq = nn.Sequential(*layers)", "seq.0.weight", "seq.1.weight", "seq.5.weight",
)
net("list inserted into", "layers = [nn.Conv2d(2, 2, 1)]\nlayers.insert(0, nn.Linear(2, 2))\nself.seq = nn.Sequential(*layers)", "seq.0.weight", "seq.1.weight")
net("list with an annotation", "layers: list[nn.Module] = []\nlayers.append(nn.Conv2d(2, 2, 1))\nself.seq = nn.Sequential(*layers)", "seq.0.weight")
net("sequential added to", "self.seq = nn.Sequential()\nself.seq.add_module('conv', nn.Conv2d(2, 2, 1))\nself.seq.append(nn.Linear(2, 2))", "seq.conv.weight", "seq.1.weight")
net("sequential inserted into", "self.seq = nn.Sequential(nn.Conv2d(2, 2, 1))\nself.seq.insert(0, nn.ReLU())", "seq.0.weight", "seq.1.weight")
net("sequential element replaced", "self.seq = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU())\nself.seq[1] = nn.Linear(2, 2)", "seq.1.weight")
net(
    "named element replaced by index", "self.seq = nn.Sequential(OrderedDict(a=nn.ReLU(), b=nn.ReLU()))\nself.seq[1] = nn.Linear(2, 2)",
    "seq.1.weight", "seq.b.weight", before="from collections import OrderedDict",
)
net("sequential element deleted", "self.seq = nn.Sequential(nn.ReLU(), nn.Conv2d(2, 2, 1))\ndel self.seq[0]", "seq.0.weight", "seq.1.weight")
net("sequential element popped", "self.seq = nn.Sequential(nn.ReLU(), nn.Conv2d(2, 2, 1))\nself.seq.pop(0)", "seq.0.weight", "seq.1.weight")
net("sequentials added", "self.seq = nn.Sequential(nn.Conv2d(2, 2, 1)) + nn.Sequential(nn.Linear(2, 2))", "seq.0.weight", "seq.1.weight")
net("sequential chained", "self.seq = nn.Sequential(nn.Conv2d(2, 2, 1)).append(nn.Linear(2, 2))", "seq.0.weight", "seq.1.weight")
net("sequential sliced", "whole = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Linear(2, 2))\nself.a = whole[:2]\nself.b = whole[2:]", "a.0.weight", "b.0.weight", "b.2.weight")
net("module-level sequential", "self.seq = SHARED", "seq.0.weight", before="SHARED = nn.Sequential(nn.Linear(2, 2), nn.ReLU())")
form("nothing but a sequential", "def Net():\n    return nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Linear(2, 2))\n", "0.weight", "2.*")

# -- lists and dictionaries of modules ---------------------------------------------------------------------------------
net("module list", "self.layers = nn.ModuleList([nn.Conv2d(2, 2, 1), nn.Linear(2, 2)])", "layers.0.weight", "layers.1.weight")
net("module list of a comprehension", "self.layers = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])", "layers.0.weight", "layers.*")
net("module list of a generator", "self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))", "layers.0.weight", "layers.*")
net("module list appended to", "self.layers = nn.ModuleList()\nfor _ in range(2):\n    self.layers.append(nn.Linear(2, 2))", "layers.0.weight", "layers.*")
net("module list extended", "self.layers = nn.ModuleList()\nself.layers += [nn.Linear(2, 2)]\nself.layers.extend([nn.Conv2d(2, 2, 1)])", "layers.0.weight", "layers.1.weight")
net("module list inserted into", "self.layers = nn.ModuleList([nn.Conv2d(2, 2, 1)])\nself.layers.insert(0, nn.ReLU())", "layers.0.weight", "layers.1.weight")
net("module list element deleted", "self.layers = nn.ModuleList([nn.ReLU(), nn.Conv2d(2, 2, 1)])\ndel self.layers[0]", "layers.0.weight", "layers.1.weight")
net("module list of lists", "self.layers = nn.ModuleList([nn.ModuleList([nn.Linear(2, 2)]) for _ in range(2)])", "layers.0.0.weight", "layers.*")
net("module list of tuples", "self.layers = nn.ModuleList([])\nfor _ in range(2):\n    self.layers.append(nn.ModuleList([nn.Linear(2, 2), nn.Conv2d(2, 2, 1)]))", "layers.0.1.weight", "layers.*.1.weight")
net("same module often", "self.layers = nn.ModuleList([nn.Linear(2, 2)] * 2)", "layers.0.weight", "layers.1.weight", "layers.*")
net("copies", "layer = nn.Linear(2, 2)\nself.layers = nn.ModuleList([copy.deepcopy(layer) for _ in range(2)])", "layers.0.weight", "layers.*", before="import copy")
net("local name of a list attribute", "self.layers = layers = nn.ModuleList()\nlayers.append(nn.Linear(2, 2))", "layers.0.weight", "layers.*")
net("two names of a list", "a = b = []\nb.append(nn.Linear(2, 2))\nself.layers = nn.ModuleList(a)", "layers.0.weight", "layers.*")
net("another name of a list", "a = []\nb = a\nb.append(nn.Linear(2, 2))\nself.layers = nn.ModuleList(a)", "layers.0.weight", "layers.*")
net("local list attribute", "layers = nn.ModuleList()\nself.layers = layers\nlayers.append(nn.Conv2d(2, 2, 1))", "layers.0.weight", "layers.*")
net("module dictionary", "self.d = nn.ModuleDict({'conv': nn.Conv2d(2, 2, 1), 'fc': nn.Linear(2, 2)})", "d.conv.weight", "d.*")
net("module dictionary of pairs", "self.d = nn.ModuleDict([['conv', nn.Conv2d(2, 2, 1)], ['fc', nn.Linear(2, 2)]])", "d.conv.weight", "d.1.weight")
net("module dictionary of a comprehension", "self.d = nn.ModuleDict({name: nn.Linear(2, 2) for name in ('a', 'b')})", "d.a.weight", "*.b.*")
net("module dictionary of computed pairs", "self.d = nn.ModuleDict((name, nn.Linear(2, 2)) for name in ('a', 'b'))", "d.a.weight", "*.1.weight", "*.b.*")
net("module dictionary of zipped", "self.d = nn.ModuleDict(dict(zip(['a', 'b'], [nn.Linear(2, 2), nn.Conv2d(2, 2, 1)])))", "d.a.weight", "*.b.*", "*.0.weight")
net("module dictionary spread", "self.d = nn.ModuleDict({**{'conv': nn.Conv2d(2, 2, 1)}, 'fc': nn.Linear(2, 2)})", "d.conv.weight", "d.fc.*")
net("module dictionary updated", "self.d = nn.ModuleDict()\nself.d.update({'conv': nn.Conv2d(2, 2, 1)})\nself.d['fc'] = nn.Linear(2, 2)\nself.d['n%d' % 3] = nn.Linear(2, 2)", "d.conv.weight", "d.n3.weight")
net("module dictionary of united", "self.d = nn.ModuleDict({'conv': nn.Conv2d(2, 2, 1)} | {'fc': nn.Linear(2, 2)})", "d.conv.weight", "d.fc.*")
net("module dictionary keys computed", "d = {'conv': nn.Conv2d(2, 2, 1)}\nself.d = nn.ModuleDict({f'{k}_x': v for k, v in d.items()})", "d.conv_x.weight", "d.conv.weight")
net("module dictionary of lists", "self.d = nn.ModuleDict()\nfor key in ('a', 'b'):\n    self.d[key] = nn.ModuleList()\n    self.d[key].append(nn.Linear(2, 2))", "d.a.0.weight", "*.0.*")
net("values of a dictionary", "d = {'conv': nn.Conv2d(2, 2, 1), 'fc': nn.Linear(2, 2)}\nself.seq = nn.Sequential(*d.values())", "seq.0.weight", "seq.conv.weight", "*.1.weight")
net("values in a module list", "d = {'conv': nn.Conv2d(2, 2, 1)}\nself.layers = nn.ModuleList(d.values())", "layers.0.weight", "layers.conv.weight")
net("summed lists", "layers = sum([[nn.Linear(2, 2), nn.ReLU()] for _ in range(2)], [])\nself.seq = nn.Sequential(*layers)", "seq.0.weight", "*.2.*")
net("mapped", "self.layers = nn.ModuleList(map(lambda size: nn.Linear(2, size), (2, 2)))", "layers.0.weight", "layers.*")
net("mapped method", "self.layers = nn.ModuleList(map(self.make, (2, 2)))", "layers.0.weight", "layers.*", after="def make(self, size):\n    return nn.Linear(size, size)")
net("chained lists", "a, b = [nn.Linear(2, 2)], [nn.Conv2d(2, 2, 1)]\nself.seq = nn.Sequential(*itertools.chain(a, b))", "seq.0.weight", "seq.1.weight", before="import itertools")
net("list multiplied and added", "self.seq = nn.Sequential(*([nn.Linear(2, 2)] + [nn.Conv2d(2, 2, 1), nn.ReLU()]))", "seq.0.weight", "seq.1.weight")
net("list sliced", "layers = [nn.ReLU(), nn.Conv2d(2, 2, 1)]\nself.seq = nn.Sequential(*layers[1:])", "seq.0.weight", "seq.1.weight")
net("list reversed", "layers = [nn.Conv2d(2, 2, 1), nn.Linear(2, 2)]\nself.seq = nn.Sequential(*reversed(layers))", "seq.0.weight", "seq.1.weight")
net("list popped", "layers = [nn.Conv2d(2, 2, 1), nn.Linear(2, 2)]\nself.fc = layers.pop()\nself.seq = nn.Sequential(*layers)", "fc.weight", "seq.0.weight", "seq.1.weight")
net("plain list registered later", "self.plain = [nn.Conv2d(2, 2, 1), nn.Linear(2, 2)]\nself.fc = self.plain[1]", "fc.weight", "plain.1.weight", "plain.*")
net("plain list appended, registered later", "self.plain = []\nself.plain.append(nn.Conv2d(2, 2, 1))\nself.layers = nn.ModuleList(self.plain)", "layers.0.weight", "plain.0.weight")
net("plain dictionary registered later", "self.plain = {'a': nn.Linear(2, 2)}\nfor key, each in self.plain.items():\n    self.add_module('layer_' + key, each)", "layer_a.weight", "*.layer_a.*")
net("enumerated pairs", "for pair in enumerate([nn.Linear(2, 2), nn.Linear(2, 2)]):\n    self.add_module(f'n{pair[0]}', pair[1])", "n0.weight", "*.n1.*")
net("zipped loop", "for name, each in zip(('a', 'b'), (nn.Linear(2, 2), nn.Conv2d(2, 2, 1))):\n    self.add_module(name, each)", "a.weight", "*.b.*")

# -- names that are computed -------------------------------------------------------------------------------------------
net("add_module", "self.add_module('conv', nn.Conv2d(2, 2, 1))\nself.register_module('fc', nn.Linear(2, 2))", "conv.weight", "fc.*")
net("add_module by keywords", "self.add_module(name='conv', module=nn.Conv2d(2, 2, 1))", "conv.weight")
net("add_module of super", "super().add_module('conv', nn.Conv2d(2, 2, 1))", "conv.weight")
net("f-string", "for i in range(3):\n    self.add_module(f'conv{i}', nn.Conv2d(2, 2, 1))", "conv1.weight", "*.conv2.*")
net("f-string with a sum", "for i in range(3):\n    self.add_module(f'conv{i + 1}', nn.Conv2d(2, 2, 1))", "conv2.weight", "*.conv3.*", "conv1.weight")
net("f-string with a format", "self.add_module(f'conv{1:02d}', nn.Conv2d(2, 2, 1))", "conv1.weight", "conv01.weight")
net("string of a sum", "for i in range(2):\n    self.add_module('layer' + str(i + 1), nn.Linear(2, 2))", "layer2.weight", "*.layer1.*")
net("string of a sum of numbers", "self.add_module(str(1 + 2), nn.Linear(2, 2))", "3.weight", "12.weight")
net("percent", "for i in range(2):\n    self.add_module('layer%d' % i, nn.Linear(2, 2))", "layer1.weight", "*.layer0.*")
net("percent with a width", "for i in range(2):\n    self.add_module('layer%02d' % i, nn.Linear(2, 2))", "layer01.weight", "*.layer00.*")
net("percent with a name", "self.add_module('layer%(i)d' % {'i': 4}, nn.Linear(2, 2))", "layer4.weight", "*.layer4.*")
net("percent twice", "self.add_module('layer%d_%d' % (1, 2), nn.Linear(2, 2))", "layer1_2.weight", "*.layer1_2.*")
net("percent before and after", "self.add_module('a%s_x' % 'b' + 'c', nn.Linear(2, 2))", "ab_xc.weight", "*.ab_xc.*")
net("format", "for i in range(2):\n    self.add_module('layer{}'.format(i), nn.Linear(2, 2))", "layer1.weight", "*.layer0.*")
net("joined", "self.add_module('_'.join(['a', 'b']), nn.Linear(2, 2))", "a_b.weight", "*.a_b.*")
net("setattr", "for i in range(2):\n    setattr(self, f'fc{i}', nn.Linear(2, 2))", "fc1.weight", "*.fc0.*")
net("setattr by a name", "name = 'fc'\nsetattr(self, name, nn.Linear(2, 2))", "fc.weight", "*.fc.*")
net("loop over pairs", "for name, layer in [('conv', nn.Conv2d(2, 2, 1)), ('fc', nn.Linear(2, 2))]:\n    setattr(self, name, layer)", "conv.weight", "fc.1.weight", "*.1.weight", "*.fc.*")
net("loop over pairs of a dictionary", "for name, layer in {'conv': nn.Conv2d(2, 2, 1), 'fc': nn.Linear(2, 2)}.items():\n    self.add_module(name, layer)", "conv.weight", "*.fc.*", "*.1.weight")
net("into the registry", "self._modules['conv'] = nn.Conv2d(2, 2, 1)", "conv.weight", "_modules.conv.weight", "*.conv.*")
net("parameter into the registry", "self._parameters['scale'] = nn.Parameter(torch.ones(2))", "scale", "*.scale")
net("setattr of Module", "nn.Module.__setattr__(self, 'conv', nn.Conv2d(2, 2, 1))\nsuper().__setattr__('fc', nn.Linear(2, 2))", "conv.weight", "fc.*")
net("past the registry", "self.__dict__['fc'] = nn.Linear(2, 2)\nobject.__setattr__(self, 'hidden', nn.Linear(2, 2))\nself.conv = nn.Conv2d(2, 2, 1)", "fc.weight")
net("out of the registry", "self.a = nn.Linear(2, 2)\nself.b = self._modules['a']", "b.weight", "*.b.*")
net("getattr", "self.a = nn.Linear(2, 2)\nself.b = getattr(self, 'a')", "b.weight", "*.b.*")
net("getattr of another", "block = Block()\nself.stem = getattr(block, 'conv1')", "stem.weight", "*.conv1.weight", "*.stem.*", before=BLOCK)
net("get_submodule", "block = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))\nself.stem = block.get_submodule('0.0')", "stem.weight", "stem.0.weight", "*.stem.*")

"""Random compositions of the forms that real code takes, as sources that define ``Net``."""

from __future__ import annotations

import random
from collections.abc import Iterator

BEGIN = """import copy
import torch
from collections import OrderedDict
from functools import partial
from torch import nn


def conv1x1(size, bias=True):
    return nn.Conv2d(size, size, 1, bias=bias)


def pair(size):
    first = nn.Linear(size, size)
    return [first, conv1x1(size)]


def joined(*layers, **named):
    box = nn.Sequential(*layers)
    for name, layer in named.items():
        box.add_module(name, layer)
    return box


class Block(nn.Module):
    layer_class = nn.Linear

    def __init__(self, size=2, inner=None):
        super().__init__()
        self.conv1 = conv1x1(size)
        if inner is not None:
            self.inner = inner
        self.scale = nn.Parameter(torch.ones(size))
        self.out = self.make(size)

    def make(self, size):
        return nn.Linear(size, size)


class Other(Block):
    def __init__(self, size=2):
        super().__init__(size)
        self.more = nn.ModuleList([self.make(size) for _ in range(2)])

    def make(self, size):
        return nn.Sequential(nn.Linear(size, size), nn.ReLU())


class Body(nn.Sequential):
    def __init__(self, size=2):
        super().__init__(nn.Linear(size, size), nn.ReLU(), conv1x1(size))


"""
LEAVES = (
    *("nn.Linear(2, 2)", "nn.Conv2d(2, 2, 1)", "nn.LayerNorm(2)", "nn.ReLU()", "conv1x1(2)", "conv1x1(2, bias=False)"),
    *("Block()", "Other()", "Body(2)", "Block.layer_class(2, 2)", "partial(nn.Linear, 2)(2)", "pair(2)[0]"),
    *("nn.Linear(2, 2, bias=False)", "nn.Linear(2, 2).eval()", "nn.BatchNorm2d(2)", "self.build(2)"),
)


class Writing:
    """Writes one constructor."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.lines: list[str] = []
        self.attributes: list[str] = []
        self.count = 0

    def name(self, kind: str = "m") -> str:
        """A name that is new, or one that is written again now and then."""
        self.count += 1
        return self.chance.choice([f"{kind}{self.count}", f"conv{self.count}", f"fc{self.count}", f"net_{self.count}"])

    def module(self, depth: int) -> str:
        """An expression that makes a module."""
        if depth <= 0 or self.chance.random() < 0.3:
            return self.chance.choice(LEAVES)
        return self.chance.choice(list(self.composed(depth - 1)))

    def composed(self, depth: int) -> Iterator[str]:
        """Expressions of other ones."""
        some = [self.module(depth) for _ in range(self.chance.randint(1, 3))]
        one, listed, name = some[0], ", ".join(some), self.name("k")
        keyed = ", ".join(f"'{self.name('k')}': {each}" for each in some)
        yield f"nn.Sequential({listed})"
        yield f"nn.Sequential(*[{listed}])"
        yield f"nn.Sequential(*({one} for _ in range(2)), {one})"
        yield f"nn.Sequential(OrderedDict({{{keyed}}}))"
        yield f"nn.Sequential(OrderedDict([('{name}', {one}), ('last', nn.ReLU())]))"
        yield f"nn.ModuleList([{listed}])"
        yield f"nn.ModuleList([{one} for _ in range(2)])"
        yield f"nn.ModuleDict({{{keyed}}})"
        yield f"nn.ModuleDict({{f'{name}_{{i}}': {one} for i in range(2)}})"
        yield f"({one} if torch.__version__ else {some[-1]})"
        yield f"copy.deepcopy({one})"
        yield f"Block(2, {one})"
        yield f"Block(inner={one})"
        yield f"joined({listed})"
        yield f"joined({some[-1]}, {name}={one})"
        yield f"(each := {one})"
        yield f"nn.Sequential(*pair(2), {one})"

    def statement(self) -> None:
        """One or more statements that store modules."""
        name = self.name()
        chosen = self.chance.choice(list(self.statements(name, self.module(2))))
        self.lines += chosen.split("\n")
        if not chosen.endswith("nn.Parameter(torch.ones(2))"):  # which is neither true nor false
            self.attributes.append(name)

    def statements(self, name: str, made: str) -> Iterator[str]:
        """The ways to store one."""
        other = self.module(1)
        yield f"self.{name} = {made}"
        yield f"self.{name}: nn.Module = {made}"
        yield f"{name} = {made}\nself.{name} = {name}"
        yield f"self.{name}, self.{name}b = {made}, {other}"
        yield f"self.{name} = self.{name}b = {made}"
        yield f"self.add_module('{name}', {made})"
        yield f"setattr(self, '{name}', {made})"
        yield f"for i in range(2):\n    setattr(self, f'{name}_{{i}}', {made})"
        yield f"for i in range(2):\n    self.add_module('{name}_%d' % i, {made})"
        yield f"layers = [{made}]\nfor _ in range(2):\n    layers.append({other})\nself.{name} = nn.Sequential(*layers)"
        yield f"layers{name} = []\nlayers{name} += [{made}, {other}]\nself.{name} = nn.ModuleList(layers{name})"
        yield f"self.{name} = nn.ModuleList()\nself.{name}.append({made})\nself.{name}.extend([{other}])"
        yield f"self.{name} = nn.ModuleDict()\nself.{name}['a'] = {made}\nself.{name}.update({{'b': {other}}})"
        yield f"self.{name} = nn.Module()\nself.{name}.inner = {made}"
        yield f"self.{name} = nn.Parameter(torch.ones(2))"
        yield f"if torch.__version__: self.{name} = {made}\nelse: self.{name} = {other}"
        yield f"def make{name}():\n    return {made}\nself.{name} = make{name}()"
        yield f"self.{name} = Block()\nself.{name}.out = {made}"
        yield f"self.{name} = {made}; self.{name}b = {other}"
        if self.attributes:
            before = self.chance.choice(self.attributes)
            yield f"self.{name} = getattr(self, '{before}', None) or {made}"
            yield f"self.{name} = nn.Sequential({made}, nn.ReLU())\nself.{name}b = self.{name}[0]"
            yield f"self.{name} = Block(2, {made})\nself.{name}b = self.{name}.inner"


def fuzzed(seed: int) -> str:
    """The source of one seed."""
    writing = Writing(random.Random(seed))
    for _ in range(writing.chance.randint(1, 4)):
        writing.statement()
    body = "\n".join(f"        {line}" for line in writing.lines)
    made = writing.chance.choice(("conv1x1(size)", "Body(size)", "Block(size)"))
    build = f"    def build(self, size):\n        return {made}\n"
    return f"{BEGIN}class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n{body}\n\n{build}"

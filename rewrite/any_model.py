"""Whether an edit of one file is right in every model that its calls may be part of."""

from __future__ import annotations

from collections.abc import Iterator

from rewrite.following import Verdict
from rewrite.own_files import OwnFile
from rewrite.sites import Site
from rewrite.verdicts import Judge, tensors
from surgery.rules.ruleset import RuleSet


class AnyModel:
    """Rules, judged in files alone: names may begin anywhere."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self._judges: dict[tuple[OwnFile, int], Judge] = {}

    def takes_all(self, file: OwnFile, site: Site, name: str, rule: int) -> bool:
        """Whether ``rule`` decides a tensor of a site under all names that it can have, and no tie is near."""
        tensor = next((each for each in tensors(site) if each.name == name), None)
        if tensor is None:
            return False
        judges = list(self._judging(file))
        taking = [index for index, judge in enumerate(judges) if judge.verdict(site, tensor) is not Verdict.NONE]
        return (
            taking[-1:] == [rule]
            and judges[rule].verdict(site, tensor) is Verdict.ALL
            and judges[rule].reaches_tie(site, tensor) is None
        )

    def _judging(self, file: OwnFile) -> Iterator[Judge]:
        for index, rule in enumerate(self._rules.rules):
            if (file, index) not in self._judges:
                self._judges[file, index] = Judge(rule.pattern, file.analysis)
            yield self._judges[file, index]

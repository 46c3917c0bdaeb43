"""The rule language: patterns, rules, and which rule decides. Free of torch."""

from surgery.rules.deciding import Candidate as Candidate
from surgery.rules.deciding import Decision as Decision
from surgery.rules.deciding import decide as decide
from surgery.rules.errors import PatternError as PatternError
from surgery.rules.errors import RuleError as RuleError
from surgery.rules.pattern import Pattern as Pattern
from surgery.rules.ruleset import Rule as Rule
from surgery.rules.ruleset import RuleSet as RuleSet

__all__ = ["Candidate", "Decision", "Pattern", "PatternError", "Rule", "RuleError", "RuleSet", "decide"]

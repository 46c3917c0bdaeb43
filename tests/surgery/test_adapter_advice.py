"""A plan of adapters says what still trains besides them, where no rule says anything about it."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

import surgery

LORA = {"0.weight": "lora(2)"}


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 4), nn.BatchNorm1d(4))


def test_what_no_rule_is_about_is_counted():
    planned = surgery.plan(model(), LORA)
    still = 6 + 6 * 4 + 4 + 4 + 4
    total = still + 36 + 2 * 6 * 2
    assert planned.ok
    assert planned.notes == (
        f"{still} of {total} parameters, which no rule is about, still train beside the adapters; to train these alone "
        f"begin the rules with '*': 'frozen'",
    )
    assert planned.trainable_after == still + 24
    assert "note: 42 of 102 parameters" in str(planned)


@pytest.mark.parametrize("rules", [
    {"*": "frozen", **LORA}, {"*": "frozen", **LORA, "1.*": "none"}, {"0.weight": "spectral"}, {"*.weight": "ia3"},
], ids=str)  # fmt: skip
def test_nothing_is_said_where_rules_decide(rules):
    frozen = model().requires_grad_(False) if rules.get("*.weight") else model()
    if rules.get("*.weight"):
        frozen = frozen[:2]
    assert surgery.plan(frozen, rules).notes == ()


def test_an_apply_logs_it_once_and_an_applied_model_does_not_again(caplog):
    caplog.set_level(logging.INFO, "surgery")
    made = surgery.apply_constraints(model(), LORA)
    assert caplog.text.count("still train beside the adapters") == 1
    assert surgery.plan(made, LORA).notes == ()
    surgery.apply_constraints(made, {"1.weight": "spectral"})
    assert caplog.text.count("still train beside the adapters") == 1
    made(torch.randn(3, 6)).sum().backward()
    assert made[1].bias.grad is not None

"""Models that are wrapped for distributed training already."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import surgery
from tests.surgery.picture import differences, picture
from tests.surgery.test_specs import Outer


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("inside", [False, True])
def test_a_built_ddp_takes_what_needs_no_new_raws(process_group: None, inside: bool):
    wrapped = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    model, prefix = (nn.ModuleDict({"net": wrapped}), "net.module.") if inside else (wrapped, "module.")
    before = picture(model)
    for spec in ("lora(2)", "weight_norm", Outer()):
        with pytest.raises(
            surgery.PlanError, match=r"wrapped by DistributedDataParallel, .* constrain first, then wrap"
        ):
            surgery.apply_constraints(model, {f"{prefix}0.weight": spec})
    with pytest.raises(
        surgery.PlanError, match=r"waits for the gradient of every parameter .* freeze first, then wrap"
    ):
        surgery.apply_constraints(model, {f"{prefix}0.weight": "frozen"})
    assert differences(before, picture(model)) == []
    surgery.apply_constraints(model, {f"{prefix}0.weight": "spectral(bound=0.1)"})
    wrapped(torch.randn(2, 4)).sum().backward()
    assert wrapped.module[0].weight.raws["raw"].grad is not None


def test_a_sharded_model_is_refused(process_group: None):
    fsdp = pytest.importorskip("torch.distributed.fsdp", reason="this torch is built without FSDP")
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    fsdp.fully_shard(model, mesh=mesh)
    before = [(name, id(tensor)) for name, tensor in model.named_parameters()]
    with pytest.raises(surgery.PlanError, match=r"is sharded \(a DTensor\), .* constrain before fully_shard\(model\)"):
        surgery.apply_constraints(model, {"0.weight": "spectral"})
    with pytest.raises(surgery.PlanError, match=r"is sharded, by a wrapper .* freeze first, then wrap"):
        surgery.apply_constraints(model, {"0.weight": "frozen"})
    assert [(name, id(tensor)) for name, tensor in model.named_parameters()] == before

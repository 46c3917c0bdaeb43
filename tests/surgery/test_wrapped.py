"""Models that are wrapped for distributed training already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


@pytest.mark.parametrize("back", [surgery.undo, surgery.bake])
@pytest.mark.parametrize("spec", ["lora(2)", "weight_norm", "spectral"])
def test_taking_out_what_a_ddp_has_noted_is_told(
    process_group: None, back: Callable[[nn.Module], nn.Module], spec: str
):
    """It would go on reducing what is there no longer, and not what is."""
    model = surgery.apply_constraints(nn.Sequential(nn.Linear(4, 4)), {"0.weight": spec})
    wrapped = nn.parallel.DistributedDataParallel(model)
    with pytest.warns(UserWarning, match=r"inside DistributedDataParallel: .* wrap model\.module anew"):
        back(wrapped)
    assert type(model[0].weight) is nn.Parameter


@pytest.mark.parametrize("back", [surgery.undo, surgery.bake])
def test_a_raw_that_is_the_old_parameter_goes_on_being_reduced(
    process_group: None, back: Callable[[nn.Module], nn.Module]
):
    model = surgery.apply_constraints(nn.Sequential(nn.Linear(4, 4)), {"0.weight": "positive"})
    wrapped = nn.parallel.DistributedDataParallel(model)
    assert back(wrapped) is wrapped
    wrapped(torch.randn(2, 4)).sum().backward()
    assert model[0].weight.grad is not None


def test_an_undo_of_what_is_sharded_since_is_refused(process_group: None):
    """What stood there is whole, on every process."""
    fsdp = pytest.importorskip("torch.distributed.fsdp", reason="this torch is built without FSDP")
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    model = surgery.apply_constraints(nn.Sequential(nn.Linear(4, 4)), {"0.weight": "positive"})
    fsdp.fully_shard(model, mesh=mesh)
    keys = list(model.state_dict())
    with pytest.raises(surgery.UndoError, match=r"0\.weight: .*is sharded, .* undo before fully_shard"):
        surgery.undo(model)
    assert list(model.state_dict()) == keys

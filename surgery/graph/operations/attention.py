"""Multi-head attention: projections come as arguments, masks and dropout stay in the module."""

from torch import Tensor
from torch.nn import functional as F

from surgery.graph.operations.op_module import Names, OpModule

VALUES = (
    "in_proj_weight",
    "in_proj_bias",
    "q_proj_weight",
    "k_proj_weight",
    "v_proj_weight",
    "bias_k",
    "bias_v",
)


class HeadsOp(OpModule):
    """The operation of `nn.MultiheadAttention`, by the path that trains; torch's fused inference path is never taken.

    No NestedTensor: only the fused path takes these.
    """

    embed_dim: int
    num_heads: int
    dropout: float
    batch_first: bool
    add_zero_attn: bool
    _qkv_same_embed_dim: bool

    def value_names(self) -> Names:
        """All projections."""
        own = {name: name for name in VALUES}
        return {"weights": own | {"out_proj_weight": "out_proj.weight", "out_proj_bias": "out_proj.bias"}}

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        weights: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attention and, where asked for, its weights."""
        assert weights is not None
        turned = self.batch_first and query.dim() == 3
        if turned:
            # one object where they were one: it is projected at once then
            query, key, value = self.sequence_first(query, key, value)
        attended, attention = F.multi_head_attention_forward(
            query,
            key,
            value,
            self.embed_dim,
            self.num_heads,
            weights.get("in_proj_weight"),
            weights.get("in_proj_bias"),
            weights.get("bias_k"),
            weights.get("bias_v"),
            self.add_zero_attn,
            self.dropout,
            weights["out_proj_weight"],
            weights.get("out_proj_bias"),
            training=self.training,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            use_separate_proj_weight=not self._qkv_same_embed_dim,
            q_proj_weight=weights.get("q_proj_weight"),
            k_proj_weight=weights.get("k_proj_weight"),
            v_proj_weight=weights.get("v_proj_weight"),
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )
        return attended.transpose(0, 1) if turned else attended, attention

    def sequence_first(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three with the sequence as first dimension."""
        first = query.transpose(0, 1)
        second = first if key is query else key.transpose(0, 1)
        third = second if value is key else value.transpose(0, 1)
        return first, second, third

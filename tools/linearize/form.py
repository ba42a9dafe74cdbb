"""The form of each layer's attention: what `linear_attention` in a config.json says.

The block's keys hold for every layer, but where an entry of its list `layers` names the layer:

    {"group_size": 64, "window": "group", "window_size": 128, ...,
     "layers": [{"layers": [7, 18], "window_size": 4224, "feature_map": "none"}]}

Form.for_layers reads it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from oracle.attention import AttentionSpec

_BF16, _FLOAT32 = 2, 4  # bytes


@dataclasses.dataclass(frozen=True)
class Form(AttentionSpec):
    """An AttentionSpec that knows what it costs."""

    def state_bytes(self, kv_heads: int, head_dim: int) -> int:
        """Of one sequence in this layer: sinks and ring in bf16, S and z in float32. A window that
        nothing leaves for S needs the rows it sees and no more."""
        folds = self.feature_map != "none" or self.window == "group"
        rows = self.sinks + (self.lag * self.group_size if folds else self.window_size)
        folded = self.features(head_dim) * (head_dim + (self.denominator != "none")) * _FLOAT32
        return kv_heads * (rows * 2 * head_dim * _BF16 + folded)


def alignment(forms: Sequence[Form]) -> int:
    """Where documents may start in a row of several: the largest group, which the others divide."""
    largest = max(form.group_size for form in forms)
    for form in forms:
        if form.group_size and largest % form.group_size:
            raise ValueError(f"groups of {form.group_size} do not divide groups of {largest}")
    return max(largest, 1)

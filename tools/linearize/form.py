"""The form of each layer's attention: what `linear_attention` in a config.json says.

The block's keys hold for every layer, but where an entry of its list `layers` names the layer:

    {"group_size": 64, "window": "group", "window_size": 128, ...,
     "layers": [{"layers": [7, 18], "window_size": 4224, "feature_map": "none"}]}

Beyond the oracle's AttentionSpec, hedgehog may have fewer features than two a dimension.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from oracle.attention import AttentionSpec

_BF16, _FLOAT32 = 2, 4  # bytes


@dataclasses.dataclass(frozen=True)
class Form(AttentionSpec):
    feature_size: int = 0  # of hedgehog; 0: two a dimension of the head

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.feature_size and (self.feature_map != "hedgehog" or self.feature_size % 2):
            raise ValueError(f"feature_size {self.feature_size} with {self.feature_map}")

    def features(self, head_dim: int) -> int:
        """How many a head has; 0 without S."""
        if self.feature_map == "hedgehog":
            return self.feature_size or 2 * head_dim
        return 0 if self.feature_map == "none" else head_dim

    def state_bytes(self, kv_heads: int, head_dim: int) -> int:
        """Of one sequence in this layer: sinks and ring in bf16, S and z in float32. A window that
        nothing leaves for S needs the rows it sees and no more."""
        folds = self.feature_map != "none" or self.window == "group"
        rows = self.sinks + (self.lag * self.group_size if folds else self.window_size)
        folded = self.features(head_dim) * (head_dim + (self.denominator != "none")) * _FLOAT32
        return kv_heads * (rows * 2 * head_dim * _BF16 + folded)


def layer_forms(block: Mapping[str, Any], num_layers: int) -> tuple[Form, ...]:
    """One for each layer, from a `linear_attention` block."""
    common = {key: value for key, value in block.items() if key != "layers"}
    of_layer = [common] * num_layers
    for entry in block.get("layers", ()):
        changes = {key: value for key, value in entry.items() if key != "layers"}
        for layer in entry["layers"]:
            if not 0 <= layer < num_layers:
                raise ValueError(f"linear_attention.layers: there is no layer {layer}")
            of_layer[layer] = {**of_layer[layer], **changes}
    kinds: dict[Form, Form] = {}  # layers share what is equal, so that a compiler meets it once
    forms = [Form(**values) for values in of_layer]
    return tuple(kinds.setdefault(form, form) for form in forms)


def alignment(forms: Sequence[Form]) -> int:
    """Where documents may start in a row of several: the largest group, which the others divide."""
    largest = max(form.group_size for form in forms)
    for form in forms:
        if form.group_size and largest % form.group_size:
            raise ValueError(f"groups of {form.group_size} do not divide groups of {largest}")
    return max(largest, 1)

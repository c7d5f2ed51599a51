"""The configuration of a decoder whose layers differ, as vLLM's and SGLang's DeciLMForCausalLM read it.

graphprune wrote it beside the weights: both read `config.block_configs[i].attention.no_op` by attribute, which plain
JSON has not. It needs transformers and nothing else.
"""

from types import SimpleNamespace
from typing import Any, ClassVar

from transformers import PretrainedConfig


class DeciLMConfig(PretrainedConfig):
    """What config.json says, with `block_configs`: for each layer `attention` (no_op, n_heads_in_group) and `ffn`.

    It is no LlamaConfig, which asks for a hidden size that is a multiple of the number of heads.
    """

    model_type: ClassVar[str] = "nemotron-nas"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    def __init__(
        self,
        block_configs: list[Any] | None = None,
        rope_theta: float = 10000.0,
        rope_scaling: dict[str, Any] | None = None,
        **others: Any,
    ) -> None:
        others.pop("rope_parameters", None)  # as it stands in a file that was written from this
        self.block_configs = [as_attributes(block) for block in block_configs or ()]
        super().__init__(**others)
        self.rope_theta = rope_theta
        self.rope_parameters = {"rope_type": "default", **(rope_scaling or {}), "rope_theta": rope_theta}
        if not hasattr(type(self), "rope_scaling"):  # transformers 5 reads this from rope_parameters
            self.rope_scaling = rope_scaling

    def to_dict(self) -> dict[str, Any]:
        data: dict[str, Any] = super().to_dict()
        data["block_configs"] = [{part: dict(vars(said)) for part, said in vars(b).items()} for b in self.block_configs]
        return data


def as_attributes(block: Any) -> Any:
    """A block that is read by attribute; one that is so already stays."""
    if not isinstance(block, dict):
        return block
    return SimpleNamespace(**{part: SimpleNamespace(**said) for part, said in block.items()})

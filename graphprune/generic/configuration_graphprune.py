"""The configuration of models that are run from the operator graph in it.

This file stands alone: graphprune writes it beside modeling_graphprune.py.
"""

import json

from transformers import PreTrainedConfig


class GraphpruneConfig(PreTrainedConfig):
    """`graph` is the packed graph; the other fields are those of the source model, for tools that look."""

    # A type that transformers has a configuration for and no model. Where it has neither, it offers to run the code of
    # the folder, on stdin, even to those who open the tokenizer alone. The model still needs `trust_remote_code=True`,
    # or graphprune.
    model_type = "t5_gemma_module"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]  # noqa: RUF012
    graph: str = ""
    num_hidden_layers: int = 0
    use_cache: bool = True

    def __repr__(self) -> str:
        shown = {k: v for k, v in self.to_dict().items() if k not in ("graph", "source_config")}
        return f"GraphpruneConfig {json.dumps(shown, indent=2, default=str)}"

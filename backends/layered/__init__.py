"""Forms with sizes for each layer, which other runtimes' own classes read: DeciLM's block_configs, OpenELM's lists."""

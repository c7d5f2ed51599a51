"""Checks of artefacts, one for each thing that opens them: a runtime, the call of the README, a tokenizer."""

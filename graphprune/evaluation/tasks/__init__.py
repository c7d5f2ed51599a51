"""Task files for lm-eval that read a folder of .jsonl files, so that no hub is needed."""

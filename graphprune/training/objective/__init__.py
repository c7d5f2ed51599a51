"""The objective: what the model is trained to do, computed without ever holding the logits of a whole batch."""

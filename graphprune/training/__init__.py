"""Recovery: the training that makes a cut model good again."""

"""What every dimension of every tensor is: the algebra of axes, and one rule for each operator."""

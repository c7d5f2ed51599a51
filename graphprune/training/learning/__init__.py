"""Learning: training as a plug-in kind: what is trained, what is added to the loss, what is done between the steps."""

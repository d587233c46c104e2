"""State, the one step, the loop, checkpoints, guards and evaluation."""

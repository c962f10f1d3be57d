"""How models learn: loop, batches, checkpoints, studies."""

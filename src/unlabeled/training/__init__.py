"""The training loop and what it needs: optimizers, memory plan, health."""

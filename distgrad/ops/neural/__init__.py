"""Operations of neural networks: activations, losses, norms, windows, attention, recurrence."""

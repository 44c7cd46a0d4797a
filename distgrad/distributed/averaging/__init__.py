"""Gradients averaged over ranks: what travels, in which messages, in which order, when."""

"""How the rules of operations follow: by family, from a composition, over a batch."""

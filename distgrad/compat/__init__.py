"""Other libraries' names for what distgrad does."""

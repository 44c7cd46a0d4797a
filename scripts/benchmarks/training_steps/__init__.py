"""A step of training of four small models, in distgrad and in its peers."""

"""What tests are made of: sample inputs, gradient checks, and jobs of several ranks.

Nothing is imported here; take what you need from its module, such as `distgrad.testing.ranks`.
"""

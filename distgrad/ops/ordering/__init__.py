"""Ordering: sorted elements, where they are, and the sets that they form."""

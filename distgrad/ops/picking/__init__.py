"""Picking elements by subscript or position, and putting others in their place."""

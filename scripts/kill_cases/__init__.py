"""Trainings whose ranks are killed, for scripts/list_kills.py and its test."""

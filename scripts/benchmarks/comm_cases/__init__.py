"""Cases for scripts/benchmarks/comm.py, each file a subject.

A file has a table ``WORKERS`` of functions by name, which the ranks of a job run: each takes a
number of rounds and a size, whose meaning is the case's own, and returns figures, of which those of
rank 0 count. And it has functions ``show_...``, which start such jobs and print what they found.
"""

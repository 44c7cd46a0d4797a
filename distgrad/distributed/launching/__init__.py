"""How a job starts: find the one MPI, start ranks, share the cores, join, start again."""

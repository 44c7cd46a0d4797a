"""What lets a job go on when it has lost ranks: commits in memory, agreement, fewer ranks."""

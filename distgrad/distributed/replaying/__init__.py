"""What did this rank hear? Everything that came to it, kept, so that it can run again alone."""

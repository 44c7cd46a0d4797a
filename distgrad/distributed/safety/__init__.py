"""What keeps a job from hanging or diverging: agreement, deadlines, departures, stacks."""

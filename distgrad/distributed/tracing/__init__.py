"""When did which rank do what? Spans of time of all ranks, in one timeline."""

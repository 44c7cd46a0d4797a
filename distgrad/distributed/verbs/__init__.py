"""What ranks say to each other: communicators, and the collectives for users."""

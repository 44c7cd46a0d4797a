"""The batch of all ranks: its shards, its logical shards, and its uneven ends."""

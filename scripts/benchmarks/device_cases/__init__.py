"""What `gpu.py` measures on a device, and by which clock."""

"""What every experiment shares: launching, training, recording, progress."""

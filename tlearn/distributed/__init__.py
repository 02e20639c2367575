"""What only the cluster knows: its start, its pools of actors, its tasks, its meters, its jobs."""

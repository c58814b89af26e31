"""What a person sees on a terminal; knows the views of the peer and nothing else."""

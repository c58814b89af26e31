"""The scenarios: what is asked of a simulated network. One module each."""

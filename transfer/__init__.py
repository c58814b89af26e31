"""Chunks, manifests, the swarm scheduler and the Transfer service; knows no DHT."""

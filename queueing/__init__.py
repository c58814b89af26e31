"""Sealed deliveries for absent peers and the stores that keep them; knows no DHT, no shares."""

"""The network of the simulator: the real dht code on a virtual clock and a virtual network."""

"""Keys, peer ids, signatures, networks, invites and TLS material; knows nothing of sockets."""

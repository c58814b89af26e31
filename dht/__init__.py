"""The Kademlia DHT: signed records, routing, lookups and the wire; knows no file and no mail."""

"""The tables of the folder in which mail taken from RabbitMQ lies.

Owns their columns; what they mean and how long rows live is `queueing.rabbitmq_staging`'s.
"""

SCHEMA = """
CREATE TABLE IF NOT EXISTS mail (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    delivery_id BLOB NOT NULL UNIQUE,
    recipient BLOB NOT NULL,
    manifest BLOB,            -- NULL once settled
    have BLOB NOT NULL,       -- one byte a chunk, 1 when it is in the file
    missing INTEGER NOT NULL,
    held_bytes INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS receipts (
    delivery_id BLOB NOT NULL,
    receipt BLOB NOT NULL,
    expires_ms INTEGER NOT NULL,
    PRIMARY KEY (delivery_id, receipt)
) STRICT;
CREATE TABLE IF NOT EXISTS sent (
    delivery_id BLOB PRIMARY KEY,
    sealed_bytes INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS orphans (
    delivery_id BLOB NOT NULL,
    digest BLOB NOT NULL,     -- a forgery must not stand in the true chunk's place
    place INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (delivery_id, digest, place)
) STRICT;
CREATE TABLE IF NOT EXISTS claims (
    delivery_id BLOB PRIMARY KEY,
    recipient BLOB NOT NULL,
    hosts BLOB NOT NULL,      -- peer ids end to end
    expires_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS poison (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    what TEXT NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT;
"""

"""The library on a seeded event loop with virtual time, against a model of Redis. See README.md beside this file."""

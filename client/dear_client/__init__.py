"""The package of the client library, whose name it keeps; there is nothing in it yet."""

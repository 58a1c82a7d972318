"""SIGINT and SIGTERM as a request that a loop reads between steps."""

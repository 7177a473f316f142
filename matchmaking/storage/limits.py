"""How long a store is waited for."""

# the waits before seven tries add up to 51 s, about as long as a server takes to be started again
TRIES = 7
FIRST_WAIT = 1.0
LONGEST_WAIT = 20.0
# of one request: until there is a connection, and between two pieces of the answer
CONNECT_SECONDS = 5.0
READ_SECONDS = 20.0
# of anything that is asked of a store, with all its tries
TOTAL_SECONDS = 900.0

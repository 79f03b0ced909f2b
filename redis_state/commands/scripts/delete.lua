-- What MULTI, DEL, ZREM, EXEC do, as one command: a slot that is being moved to another node takes no MULTI.
--
-- KEYS  index, states ...      ARGV  members ...      Returns {states deleted, entries removed}
local states = {unpack(KEYS, 2)}
return {redis.call('DEL', unpack(states)), redis.call('ZREM', KEYS[1], unpack(ARGV))}

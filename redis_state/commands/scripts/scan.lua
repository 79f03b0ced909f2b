-- Read a part of an index in no order, look for the states of its sessions, and remove the entries without one.
--
-- KEYS  index
-- ARGV  prefix: what the keys of the states begin with      cursor      count: about how many to read
-- Returns {next cursor, how many were read, how many were removed, member, score ...}
local reply = redis.call('ZSCAN', KEYS[1], ARGV[2], 'COUNT', ARGV[3])
local found = {reply[1], #reply[2] / 2, 0}
found[3] = keep_living(KEYS[1], ARGV[1], reply[2], found)
return found

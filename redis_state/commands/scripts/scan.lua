-- Read a part of an index in no order, look for the states of its sessions, and remove the entries without one.
--
-- KEYS  index
-- ARGV  prefix: what the keys of the states begin with      cursor      count: about how many to read
-- Returns {next cursor, how many were read, how many were removed, whether some may stand for another's state,
--          {member, score, member, score ...}}
local reply = redis.call('ZSCAN', KEYS[1], ARGV[2], 'COUNT', ARGV[3])
local found, removed, unsure = living(KEYS[1], ARGV[1], reply[2], 2)
return {reply[1], #reply[2] / 2, removed, unsure, found}

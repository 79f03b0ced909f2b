-- Remove an index entry whose session has no state, or something else under its key. It is looked for again here, where
-- no save can come in between.
--
-- KEYS  index, state      ARGV  member      Returns how many entries were removed
local kind = redis.call('TYPE', KEYS[2]).ok
if kind == 'string' then
  return 0
end
return redis.call('ZREM', KEYS[1], ARGV[1])

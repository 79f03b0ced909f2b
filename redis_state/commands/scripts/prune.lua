-- Remove the entries of those sessions that have no state.
--
-- KEYS  index, states ...      ARGV  members ...
-- Returns for each 1 if it has a state, 0 if its entry was removed, -1 if it had none any more
local found = {}
for i = 1, #ARGV do
  if redis.call('EXISTS', KEYS[i + 1]) == 1 then
    found[i] = 1
  else
    found[i] = redis.pcall('ZREM', KEYS[1], ARGV[i]) == 1 and 0 or -1  -- a user without ZREM still gets a list
  end
end
return found

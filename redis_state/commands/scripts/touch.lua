-- Read a part of an index in no order, and let the states of its sessions expire.
--
-- KEYS  index
-- ARGV  prefix: what the keys of the states begin with      cursor      count: about how many to read
--       ttl: after how many milliseconds they expire
-- Returns {next cursor, members of the states that there were ...}
local reply = redis.call('ZSCAN', KEYS[1], ARGV[2], 'COUNT', ARGV[3])
local found = {reply[1]}
for i = 1, #reply[2], 2 do
  local member = reply[2][i]
  if member ~= '' and redis.call('PEXPIRE', state_key(ARGV[1], member), ARGV[4]) == 1 then
    found[#found + 1] = member
  end
end
return found

-- Replace a value by another form of it, folded or migrated, if it is as it was. This is no write of the session.
--
-- KEYS  state
-- ARGV  length: of the value as it was      ending: the last bytes of it, with the id of its latest write      value
-- Returns whether it did
local length, ending = tonumber(ARGV[1]), ARGV[2]
if redis.call('STRLEN', KEYS[1]) ~= length or redis.call('GETRANGE', KEYS[1], length - #ending, -1) ~= ending then
  return 0
end
redis.call('SET', KEYS[1], ARGV[3], 'KEEPTTL')
return 1

-- Add a line of messages to a state, once however often this is sent.
--
-- KEYS  state, index
-- ARGV  line: the batch up to its revision         id: this write's
--       score, member: the place in the index      ttl: milliseconds, or '' to leave the expiry as it is
--       replay: '1' if this write may have happened already
-- Returns {'appended', version} | {'missing'} | {'foreign'}
local line, id, score, member, ttl, replay = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6] == '1'

local stored, ids, base = revision(KEYS[1])
if not stored then
  return {'foreign'}
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  return {'missing'}
end
if replay and contains(base and history(KEYS[1], base) or ids, id) then
  return {'appended', stored}
end
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'zset' and kind ~= 'none' then
  return redis.error_reply('WRONGTYPE the index is not a sorted set')
end

local version = string.format('%d', stored + 1)
local length = string.format('%d', base or redis.call('STRLEN', KEYS[1]))
redis.call('APPEND', KEYS[1], '\n' .. line .. version .. '-' .. id .. '@' .. length .. '"}')
if ttl ~= '' then
  redis.call('PEXPIRE', KEYS[1], ttl)
end
redis.call('ZADD', KEYS[2], score, member)
return {'appended', stored + 1}

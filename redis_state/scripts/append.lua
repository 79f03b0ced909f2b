-- Add a line of messages to a state, once however often this is sent.
--
-- KEYS  state, index
-- ARGV  line: the batch up to its revision         id: this write's
--       score, member: the place in the index      ttl: milliseconds, or '' to leave the expiry as it is
--       seen: the id of the latest write that the sender knew of before, or ''
--       replay: '1' if this write may have happened already
-- Returns {'appended', version} | {'missing'} | {'unknown'} | {'foreign'}
local line, id, score, member, ttl, seen, replay = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7] == '1'

local stored, list, base = revision(KEYS[1])
if not stored then
  return {'foreign'}
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  return {replay and 'unknown' or 'missing'}
end
if replay then
  list = base and history(KEYS[1], base) or list
  if contains(list, id) then
    return {'appended', made(list, id, stored)}
  end
  -- Its absence proves something only if the ids reach back to before it was first sent.
  if not known_since(list, seen) then
    return {'unknown'}
  end
end
local wrong = broken(KEYS[2])
if wrong then
  return wrong
end

local version = string.format('%d', stored + 1)
local length = string.format('%d', base or redis.call('STRLEN', KEYS[1]))
redis.call('APPEND', KEYS[1], '\n' .. line .. version .. '-' .. id .. ',@' .. length .. '"}')
if ttl ~= '' then
  redis.call('PEXPIRE', KEYS[1], ttl)
end
redis.call('ZADD', KEYS[2], score, member)
return {'appended', stored + 1}

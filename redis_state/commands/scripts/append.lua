-- Add a line of messages to a state, once however often this is sent.
--
-- KEYS  state, index
-- ARGV  line: up to its revision                    id: this write's
--       limit: how many bytes a state may have
--       score, member: the place in the index, by microseconds, which are also the line's time
--       ttl: milliseconds, or '' to leave the expiry as it is
--       seen: the id of the latest write that the sender knew of before, or ''
--       replay: '1' if this write may have happened already
-- Returns {'appended', version} | {'missing'} | {'unknown'} | {'foreign'} | {'full'} | {'large', size}
--       | {'stored', error}: a command was refused after the line was stored
local line, id, limit, score, member, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
local seen, replay = ARGV[7], ARGV[8] == '1'

local stored = revision(KEYS[1])
if not stored then
  return {'foreign'}
elseif stored.missing then
  return {replay and 'unknown' or 'missing'}
end
if replay then
  local list = history(KEYS[1], stored)
  if not list then
    return {'unknown'}
  elseif contains(list, id) then
    confirm(KEYS[1])
    return {'appended', made(list, id, stored.version)}
  end
  -- Its absence proves something only if the ids reach back to before it was first sent.
  if not known_since(list, seen) then
    return {'unknown'}
  end
end
if stored.version >= MAX_VERSION then
  return {'full'}
end

local text = string.format('%d-%s@%s,', stored.version + 1, id, score)
local used, length, distance = #line + 2, 0, 0  -- and what closes it
local place, size
repeat  -- the numbers count their own digits
  place = string.format('+%d/%d', length, distance)
  size = #text + #place + 4
  local right = length == used + size
  length = used + size
  distance = (stored.distance or 0) + length
until right
if stored.stop + length > limit then
  return {'large', stored.stop + length}
end

redis.call('ZADD', KEYS[2], 'XX', 0, '')  -- changes nothing, and is refused if the index will be
redis.call('APPEND', KEYS[1], line .. text .. place .. string.format(':%03d"}', size))
if ttl ~= '' then
  local refused = redis.pcall('PEXPIRE', KEYS[1], ttl)
  if type(refused) == 'table' then
    local undone = redis.pcall('SET', KEYS[1], redis.call('GETRANGE', KEYS[1], 0, stored.stop - 1), 'KEEPTTL')
    return undone.ok and refused or {'stored', refused.err}
  end
end
redis.call('ZADD', KEYS[2], score, member)
return {'appended', stored.version + 1}

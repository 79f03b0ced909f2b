-- Add a line of messages and changes to a state, once however often this is sent.
--
-- KEYS  state, index
-- ARGV  line: up to its revision                    id: this write's, of 16 letters where it comes from a caller's key
--       limit: how many bytes a state may have
--       expected: the version that must be stored, or '' for any
--       parent: the id of the write that must be the newest, or '' for any
--       create: the document, up to its revision, that is stored where there is nothing, or ''
--       score, member: the place in the index, by microseconds, which are also the line's time
--       ttl: milliseconds, or '' to leave the expiry as it is
--       seen: the id of the latest write that the sender knew of before, or ''
--       replay: '1' if this write may have happened already
--       mark: the schema of what is written, such as '#3', or ''
-- Returns {'appended', version, bytes of the value, of what is behind its head, of the line} | {'missing'} | {'conflict', stored version}
--       | {'unknown'} | {'foreign'} | {'full'} | {'large', size}
--       | {'stored', error}: a command was refused after the line was stored
local line, id, limit, expected, parent, create = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
local score, member, ttl, seen, replay = ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11] == '1'
local mark, keyed = ARGV[12], #id == 16

local stored = revision(KEYS[1])
if not stored then
  return {'foreign'}
elseif stored.missing then
  if replay then
    return {'unknown'}
  elseif expected ~= '' and expected ~= '0' then
    return {'conflict', 0}
  elseif create == '' then
    return {'missing'}
  end
  local document = finish_head(create, '1-' .. (keyed and id .. '=1@' .. score or id) .. ',' .. mark)
  redis.call('ZADD', KEYS[2], 'XX', 0, '')  -- changes nothing, and is refused if the index will be
  if ttl == '' then
    redis.call('SET', KEYS[1], document)
  else
    redis.call('SET', KEYS[1], document, 'PX', ttl)
  end
  redis.call('ZADD', KEYS[2], score, member)
  return {'appended', 1, #document, 0, 0}
end
if replay or keyed then
  local list = history(KEYS[1], stored)
  if not list then
    return {replay and 'unknown' or 'foreign'}
  elseif contains(list, id) then
    confirm(KEYS[1])
    return {'appended', made(list, id, stored.version), stored.stop, 0, 0}
  end
  -- Its absence proves something only if the ids reach back to before it was first sent.
  if replay and not known_since(list, seen) and (parent == '' or not known_since(list, parent)) then
    return {'unknown'}
  end
end
if expected ~= '' then
  local newest = writes_of(stored)[1]
  if stored.version ~= tonumber(expected) or (parent ~= '' and (not newest or newest.id ~= parent)) then
    return {'conflict', stored.version}
  end
end
if stored.version >= MAX_VERSION then
  return {'full'}
end

local text = keyed and string.format('%d-%s=%d@%s,', stored.version + 1, id, stored.version + 1, score)
  or string.format('%d-%s@%s,', stored.version + 1, id, score)
text = text .. mark
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
return {'appended', stored.version + 1, stored.stop + length, distance, length}

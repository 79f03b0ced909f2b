-- Save a state if the stored one is the one that the caller means, once however often this is sent.
--
-- KEYS  state, index
-- ARGV  body: the document up to its revision     version, id: this write's
--       expected: the version that must be stored, or '' for any
--       parent: the id of the write that the state stems from, or '' if that is not known
--       score, member: the place in the index      ttl: milliseconds, or ''
--       seen: the id of the latest write that the sender knew of before, or ''
--       replay: '1' if this write may have happened already
-- Returns {'saved', revision} | {'conflict', stored version} | {'unknown', stored version} | {'foreign'}
local body, version, id, expected, parent = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local score, member, ttl, seen, replay = ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10] == '1'

-- Whether it is certain that a conditional write never happened: all writes are known since the sender saw one before it
-- sent this, or since the one that this would have replaced; each of them checked what it replaced.
local function never_happened(stored, list, wanted)
  if known_since(list, seen) then
    return true
  end
  local replaced = list[stored - wanted + 1]
  return stored > wanted and replaced ~= nil and replaced.id == parent and known_since(list, parent)
end

-- Whether it is certain that a plain write never happened: all writes are known since one before it.
local function repeatable(list)
  return known_since(list, seen) or known_since(list, parent)
end

local found = revision(KEYS[1])
local list = found and history(KEYS[1], found)
local stored = list and found.version
if not stored then
  if expected ~= '' then
    return {'foreign'}
  end
  stored, list = 0, {}
end
if replay and contains(list, id) then
  confirm(KEYS[1])
  return {'saved'}
end
if expected ~= '' then
  local wanted = tonumber(expected)
  if stored ~= wanted or (parent ~= '' and list[1] and list[1].id ~= parent) then
    if replay and not never_happened(stored, list, wanted) then
      return {'unknown', stored}
    end
    return {'conflict', stored}
  elseif replay and stored == 0 then  -- it never came, or somebody has deleted what it created
    return {'unknown', stored}
  end
elseif replay and (found and found.missing or not repeatable(list)) then
  return {'unknown', stored}
end

if stored + 1 ~= tonumber(version) then
  list = {}  -- from this version on, nobody could count back to theirs
end
local text = version .. '-' .. id .. ','
for i = 1, math.min(#list, HISTORY - 1) do
  text = text .. list[i].id .. list[i].kept .. (list[i].blind and '.' or ',')
end
local size = #text + 4
text = text .. string.format(':%03d', size)
local document
if body:byte(1) == 123 then
  document = body .. text .. '"}'
else
  document = body .. string.char(math.floor(size / 256), size % 256) .. text
end
redis.call('ZADD', KEYS[2], 'XX', 0, '')  -- changes nothing, and is refused if the index will be
if ttl == '' then
  redis.call('SET', KEYS[1], document)
else
  redis.call('SET', KEYS[1], document, 'PX', ttl)
end
redis.call('ZADD', KEYS[2], score, member)
return {'saved', text}

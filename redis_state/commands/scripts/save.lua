-- Save a state if the stored one is the one that the caller means, once however often this is sent.
--
-- KEYS  state, index
-- ARGV  body: the document up to its revision
--       version, id: this write's, the id of 16 letters where it comes from a caller's key
--       expected: the version that must be stored, or '' for any
--       parent: the id of the write that the state stems from, or '' if that is not known
--       score, member: the place in the index      ttl: milliseconds, or ''
--       seen: the id of the latest write that the sender knew of before, or ''
--       replay: '1' if this write may have happened already
--       mark: the schema of the document, such as '#3', or ''
-- Returns {'saved', revision} | {'repeated', version, time}: a write with this key has happened | {'conflict', stored version} | {'unknown', stored version} | {'foreign'}
local body, version, id, expected, parent = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local score, member, ttl, seen, replay = ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10] == '1'
local mark = ARGV[11]

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
local keyed = #id == 16
-- Of a head's writes nothing matters but the newest, where none is looked for.
local plain = found and not found.kind and not replay and not keyed and found.plain
local list = found and not plain and history(KEYS[1], found)
local stored = (plain or list) and found.version
if not stored then
  if expected ~= '' then
    return {'foreign'}
  end
  stored, list = 0, {}
end
local newest = plain and plain:sub(1, 6) or list and list[1] and list[1].id
if (replay or keyed) and contains(list, id) then
  confirm(KEYS[1])
  local kept = entry(list, id).kept:match('@(%d+)')
  return keyed and {'repeated', made(list, id, stored), kept or '0'} or {'saved'}
end
if expected ~= '' then
  local wanted = tonumber(expected)
  if stored ~= wanted or (parent ~= '' and newest and newest ~= parent) then
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

local follows = stored + 1 == tonumber(version)  -- else nobody could count back from this version to theirs
local text = version .. '-' .. (keyed and id .. '=' .. version .. '@' .. score or id) .. (follows and ',' or '.')
if plain then
  text = text .. (follows and plain:sub(1, 7 * (HISTORY - 1)) or '')
end
for i = 1, math.min(plain and 0 or #list, HISTORY - 1) do
  if follows or list[i].made then
    text = text .. list[i].id .. list[i].kept .. (list[i].blind and '.' or ',')
  end
end
local document
document, text = finish_head(body, text .. mark)
redis.call('ZADD', KEYS[2], 'XX', 0, '')  -- changes nothing, and is refused if the index will be
if ttl == '' then
  redis.call('SET', KEYS[1], document)
else
  redis.call('SET', KEYS[1], document, 'PX', ttl)
end
redis.call('ZADD', KEYS[2], score, member)
return {'saved', text}

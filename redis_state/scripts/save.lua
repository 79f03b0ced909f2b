-- Save a state if the stored one is the one that the caller means, once however often this is sent.
--
-- KEYS  state, index
-- ARGV  body: the document up to its revision     version, id: this write's
--       expected: the version that must be stored, or '' for any
--       parent: the id of the write that must be stored, or '' for any of that version
--       score, member: the place in the index      ttl: milliseconds, or ''
--       replay: '1' if this write may have happened already
-- Returns {'saved'} | {'conflict', stored version} | {'unknown', stored version} | {'foreign'}
local body, version, id, expected, parent = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local score, member, ttl, replay = ARGV[6], ARGV[7], ARGV[8], ARGV[9] == '1'

local stored, ids, base = revision(KEYS[1])
if not stored then
  if expected ~= '' then
    return {'foreign'}
  end
  stored, ids = 0, {}
end
if base then
  ids = history(KEYS[1], base)
end
if replay and contains(ids, id) then
  return {'saved'}
end
if expected ~= '' then
  local wanted = tonumber(expected)
  if stored ~= wanted or (parent ~= '' and ids[1] and ids[1] ~= parent) then
    -- Only if the ids reach back to the version that this write would have made is its absence a proof.
    if replay and (stored <= wanted or stored - #ids > wanted) then
      return {'unknown', stored}
    end
    return {'conflict', stored}
  end
end
-- A broken index must not leave a state behind that no listing shows.
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'zset' and kind ~= 'none' then
  return redis.error_reply('WRONGTYPE the index is not a sorted set')
end

local line = {id}
for _, other in ipairs(ids) do
  if #line == HISTORY then
    break
  end
  line[#line + 1] = other
end
local mark = version .. '-' .. table.concat(line, ',')
local document
if body:byte(1) == 123 then
  document = body .. '"' .. mark .. '"}'
else
  document = body .. '\217' .. string.char(#mark) .. mark
end
if ttl == '' then
  redis.call('SET', KEYS[1], document)
else
  redis.call('SET', KEYS[1], document, 'PX', ttl)
end
redis.call('ZADD', KEYS[2], score, member)
return {'saved', mark}

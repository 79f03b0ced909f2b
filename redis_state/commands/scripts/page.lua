-- Read the newest sessions of an index up to a score, look for their states, and remove the entries without one.
--
-- KEYS  index
-- ARGV  prefix: what the keys of the states begin with      top: the highest score
--       offset: how many entries to skip                    size: how many to return
--       width: 2 with scores, 1 without
-- Returns {whether there may be more, how many entries to skip for that, whether some may stand for another's state,
--          {member, score, member, score ...}}
local prefix, top, offset, size, width = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local READ = 1000  -- entries at most, so that the server is not held up
local found, read, unsure, more = nil, 0, 0, true
while more and (not found or #found < size * width) and read < READ do
  local wanted = math.max(size - (found and #found / width or 0), math.min(read, 100))
  local entries
  if width == 2 then
    entries = redis.call('ZREVRANGEBYSCORE', KEYS[1], top, '-inf', 'WITHSCORES', 'LIMIT', offset, wanted)
  else
    entries = redis.call('ZREVRANGEBYSCORE', KEYS[1], top, '-inf', 'LIMIT', offset, wanted)
  end
  local count = #entries / width
  local kept, removed, as_they_are = living(KEYS[1], prefix, entries, width)
  offset = offset + count - removed
  read = read + count
  unsure = math.max(unsure, as_they_are)
  more = count == wanted
  if found then
    for i = 1, #kept do
      found[#found + 1] = kept[i]
    end
  else
    found = kept
  end
end
return {more and 1 or 0, offset, unsure, found}

-- Read the last parts of a value, from the beginning of one on.
--
-- KEYS  state
-- ARGV  wanted: about how many bytes
-- Returns {the parts, bytes before them}; nothing is before them if it is the whole value. An empty reply: there is none.
local found = revision(KEYS[1])
local stop = redis.call('STRLEN', KEYS[1])
if found and found.missing then
  return {}
end
local from, part = stop, found
while part and part.kind and stop - from < tonumber(ARGV[1]) do
  from = from - part.length
  part = part_at(KEYS[1], from)
end
if not part or stop - from < tonumber(ARGV[1]) then
  from = 0
end
return {redis.call('GETRANGE', KEYS[1], from, -1), from}

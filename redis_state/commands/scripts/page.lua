-- Read the newest sessions of an index up to a score, look for their states, and remove the entries without one.
--
-- KEYS  index
-- ARGV  prefix: what the keys of the states begin with      top: the highest score
--       offset: how many entries to skip                    size: how many to return
-- Returns {whether there may be more, how many entries to skip for that, member, score, member, score ...}
local prefix, top, offset, size = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local READ = 1000  -- entries at most, so that the server is not held up
local found, read, more = {}, 0, true
while more and #found < size * 2 and read < READ do
  local wanted = math.max(size - #found / 2, math.min(read, 100))
  local entries = redis.call('ZREVRANGEBYSCORE', KEYS[1], top, '-inf', 'WITHSCORES', 'LIMIT', offset, wanted)
  local count = #entries / 2
  offset = offset + count - keep_living(KEYS[1], prefix, entries, found)
  read = read + count
  more = count == wanted
end
return {more and 1 or 0, offset, unpack(found)}

-- Remove index entries whose state is gone. The state is looked for again here, where no save can come in between.
--
-- KEYS  index, states ...      ARGV  members ...      Returns how many entries were removed
local removed = 0
for i, member in ipairs(ARGV) do
  if redis.call('EXISTS', KEYS[i + 1]) == 0 then
    removed = removed + redis.call('ZREM', KEYS[1], member)
  end
end
return removed

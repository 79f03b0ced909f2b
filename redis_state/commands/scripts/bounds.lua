-- Find the scores that divide an index into parts of about one size.
--
-- KEYS  index      ARGV  size      Returns {score, score ...}, lowest first
local scores = {}
local size = tonumber(ARGV[1])
for rank = size, redis.call('ZCARD', KEYS[1]) - 1, size do
  scores[#scores + 1] = redis.call('ZRANGE', KEYS[1], rank, rank, 'WITHSCORES')[2]
end
return scores

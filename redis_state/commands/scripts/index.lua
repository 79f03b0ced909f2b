-- What the scripts that read an index share.

-- The key of the state that a member stands for. keys.py escapes the same bytes.
local function state_key(prefix, member)
  if not member:find('[^%w_.@+=/-]') then
    return prefix .. member
  end
  return prefix .. member:gsub('[%z\1-\32%%:{}*?%[%]\\^\127]', function(c) return string.format('%%%02X', c:byte()) end)
end

-- Append those of some members with scores that have a state to `found`, and remove the others from the index.
-- The empty member is no session: it says that the index is complete (see eviction.py). Returns how many were removed.
local function keep_living(index, prefix, entries, found)
  local keys, members, scores = {}, {}, {}
  for i = 1, #entries, 2 do
    if entries[i] ~= '' then
      keys[#keys + 1] = state_key(prefix, entries[i])
      members[#members + 1] = entries[i]
      scores[#scores + 1] = entries[i + 1]
    end
  end
  if #keys == 0 then
    return 0
  end
  local removed = 0
  local all = redis.call('EXISTS', unpack(keys)) == #keys
  for i = 1, #keys do
    if all or redis.call('EXISTS', keys[i]) == 1 then
      found[#found + 1] = members[i]
      found[#found + 1] = scores[i]
    else
      local count = redis.pcall('ZREM', index, members[i])
      removed = removed + (type(count) == 'number' and count or 0)  -- a user without ZREM still gets a list
    end
  end
  return removed
end

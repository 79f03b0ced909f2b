-- What the scripts that read an index share.

-- The key of the state that a member stands for. keys.py escapes the same bytes.
local function state_key(prefix, member)
  if not member:find('[^%w_.@+=/-]') then
    return prefix .. member
  end
  return prefix .. member:gsub('[%z\1-\32%%:{}*?%[%]\\^\127]', function(c) return string.format('%%%02X', c:byte()) end)
end

-- Those of some entries that have a state; the others are removed from the index. An entry is a member, where `width` is
-- 2 with its score behind it. The empty member is no session: it says that the index is complete (see eviction.py).
-- Returns the entries, how many were removed, and whether members that are escaped in keys were looked for as they are:
-- to see in Lua whether there are any takes as long as all the rest.
local function living(index, prefix, entries, width)
  local keys, count = {}, 0
  for i = 1, #entries, width do
    count = count + 1
    keys[count] = prefix .. entries[i]
  end
  if count == 0 or redis.call('EXISTS', unpack(keys)) == count then
    return entries, 0, 1
  end
  local found, removed = {}, 0
  for i = 1, #entries, width do
    local member = entries[i]
    if member ~= '' then
      if redis.call('EXISTS', state_key(prefix, member)) == 1 then
        found[#found + 1] = member
        if width == 2 then
          found[#found + 1] = entries[i + 1]
        end
      else
        local gone = redis.pcall('ZREM', index, member)
        removed = removed + (type(gone) == 'number' and gone or 0)  -- a user without ZREM still gets a list
      end
    end
  end
  return found, removed, 0
end

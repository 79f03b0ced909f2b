-- What stands at the end of a value: its version, the ids of its latest writes, the length of its document.
-- See codec.py, which writes and reads the same.
local TAIL, HISTORY = 160, 12

-- version (0: nothing is stored), ids as a list with the newest first, length of the document (nil: no batches).
-- JSON that somebody else wrote has no revision: its version is the field of that name, and it has no ids.
local function revision(key)
  local tail = redis.call('GETRANGE', key, -TAIL, -1)
  if tail == '' then
    return 0, {}, nil
  end
  local version, ids, base = tail:match('"_rev"%s*:%s*"(%d+)%-([%w_,-]*)@?(%d*)"%s*}%s*$')
  if not version then
    version, ids = tail:match('\164_rev\217.(%d+)%-([%w_,-]*)$')
    base = ''
  end
  if not version then
    local ok, document = pcall(cjson.decode, redis.call('GET', key))
    if not ok or type(document) ~= 'table' then
      return nil
    end
    return tonumber(document.version) or 0, {}, nil
  end
  local list = {}
  for id in ids:gmatch('[^,]+') do
    list[#list + 1] = id
  end
  return tonumber(version), list, tonumber(base)
end

-- The ids of the latest writes of a value with appended batches: each batch holds one, the document the rest.
local function history(key, base)
  local newest = {}
  for id in redis.call('GETRANGE', key, base, -1):gmatch('"_rev":"%d+%-([%w_-]+)@%d+"}%f[\n%z]') do
    table.insert(newest, 1, id)
  end
  local document = redis.call('GETRANGE', key, base - TAIL, base - 1)
  local ids = document:match('"_rev"%s*:%s*"%d+%-([%w_,-]*)"%s*}%s*$') or document:match('\164_rev\217.%d+%-([%w_,-]*)$')
  for id in (ids or ''):gmatch('[^,]+') do
    newest[#newest + 1] = id
  end
  return newest
end

local function contains(list, id)
  for _, other in ipairs(list) do
    if other == id then
      return true
    end
  end
  return false
end

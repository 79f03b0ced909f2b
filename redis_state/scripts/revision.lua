-- What stands at the end of a value: its version, the ids of its latest writes, the length of its document.
-- See revision.py, which writes and reads the same.
local TAIL, HISTORY, LINES = 192, 16, 1000

-- The ids in a revision, the newest first. Each has `id`, and `blind` if that write did not look what it replaced.
local function entries(text, into)
  for id, kind in text:gmatch('([%w_-][%w_-][%w_-][%w_-][%w_-][%w_-])([,.])') do
    into[#into + 1] = {id = id, blind = kind == '.'}
  end
  return into
end

-- version (0: nothing is stored), entries, length of the document (nil: no batches follow it). Of a value with batches the
-- entries are those of the last one; `history` has them all.
-- JSON that somebody else wrote has no revision: its version is the field of that name, and it has no entries.
local function revision(key)
  local tail = redis.call('GETRANGE', key, -TAIL, -1)
  if tail == '' then
    return 0, {}, nil
  end
  local version, ids, base = tail:match('"_rev"%s*:%s*"(%d+)%-([%w_,.-]*)@?(%d*)"%s*}%s*$')
  if not version then
    version, ids = tail:match('\164_rev\217.(%d+)%-([%w_,.-]*)$')
  end
  if not version then
    local value = redis.call('GET', key)
    local ok, document = pcall(cjson.decode, value)
    if not ok or not value:match('^%s*{') then
      return nil
    end
    return tonumber(document.version) or 0, {}, nil
  end
  return tonumber(version), entries(ids, {}), tonumber(base)
end

-- The entries of a value with batches, without a gap: each batch holds one, and the document the older ones.
local function history(key, base)
  local lines, list = {}, {}
  for line in redis.call('GETRANGE', key, base, -1):gmatch('"_rev":"%d+%-([%w_,.-]+)@%d+"}%f[\n%z]') do
    lines[#lines + 1] = line
  end
  for i = #lines, math.max(1, #lines - LINES + 1), -1 do
    entries(lines[i], list)
  end
  if #lines > LINES then
    return list
  end
  local document = redis.call('GETRANGE', key, math.max(0, base - TAIL), base - 1)
  local older = document:match('"_rev"%s*:%s*"%d+%-([%w_,.-]*)"%s*}%s*$') or document:match('\164_rev\217.%d+%-([%w_,.-]*)$')
  return entries(older or '', list)
end

local function contains(list, id)
  for _, entry in ipairs(list) do
    if entry.id == id then
      return true
    end
  end
  return false
end

-- Whether all writes since a certain one are known: each of them looked at what it replaced.
local function known_since(list, id)
  for _, entry in ipairs(list) do
    if entry.id == id then
      return true
    elseif entry.blind then
      return false
    end
  end
  return false
end

-- The version that one of the entries made: those that looked count up one by one. After one that did not, nobody knows.
local function made(list, id, version)
  for i, entry in ipairs(list) do
    if entry.id == id then
      return version - i + 1
    elseif entry.blind then
      break
    end
  end
  return version
end

-- Whether the entries show every write since the session was created, by a write that looked that nothing was there.
local function complete(list, version)
  return #list == version and #list > 0 and not list[#list].blind
end

-- An error reply if the index is something else: a state must not be written that no listing can show.
local function broken(index)
  local kind = redis.call('TYPE', index).ok
  if kind ~= 'zset' and kind ~= 'none' then
    return redis.error_reply('WRONGTYPE the index is not a sorted set')
  end
end

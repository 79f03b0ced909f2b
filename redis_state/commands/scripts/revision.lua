-- What stands at the end of a value: its version, the ids of its latest writes, where its parts end.
-- codec/README.md has the format; codec/revision.py writes and reads the same.
local WINDOW, HISTORY, MAX_VERSION, FOREIGN = 192, 16, 9007199254740991, 1048576

-- Add the writes that a text names to a list, the newest first. Each has `id`, `blind` if it did not check what it
-- replaced, and of one with a caller's key `made`, its version, and `kept`, what stands behind its id for good.
-- Returns whether the text is that and no more.
local function read_writes(text, list)
  local at = 1
  while at <= #text do
    local id, made, time, sign, after = text:match('^([%w_-]+)(=?%d*)(@?%d*)([,.])()', at)
    local keyed = made ~= ''
    if not id or #id ~= (keyed and 16 or 6) or made == '=' or time == '@' or #made > 17 or #time > 17 then
      return false
    end
    list[#list + 1] = {
      id = id, blind = sign == '.', made = keyed and tonumber(made:sub(2)) or nil, kept = keyed and made .. time or '',
    }
    at = after
  end
  return #list > 0
end

-- A revision from its text: `version`, the `list` of writes or their text, see writes_of, which is also `plain` if it is
-- nothing but ids and signs; and of a line or block `kind`, `length` and `distance`. nil if it is none.
local function parse(text)
  local version, writes, rest, size = text:match('^([1-9]%d*)%-([%w_=@,.-]+)(.*):(%d%d%d)$')
  if not version or #version > 16 or tonumber(version) > MAX_VERSION or tonumber(size) ~= #text then
    return nil
  end
  local part = {version = tonumber(version)}
  if rest:byte(1) == 35 then  -- a schema
    local schema
    schema, rest = rest:match('^#([1-9]%d*)(.*)$')
    if not schema or #schema > 9 then
      return nil
    end
  end
  if rest ~= '' then
    local kind, length, distance = rest:match('^([+*])([1-9]%d*)/([1-9]%d*)$')
    if not kind or #length > 9 or #distance > 9 or tonumber(length) > tonumber(distance) then
      return nil
    end
    part.kind, part.length, part.distance = kind, tonumber(length), tonumber(distance)
  end
  -- Most writes have neither a time nor a caller's key, or are the only one of a line: it is enough to see that.
  if writes:gsub('[%w_-][%w_-][%w_-][%w_-][%w_-][%w_-][,.]', '') == '' then
    part.plain = writes
  elseif #writes > 24 or not writes:find('^[%w_-][%w_-][%w_-][%w_-][%w_-][%w_-]@%d+[,.]$') then
    part.list = {}
    return read_writes(writes, part.list) and part or nil
  end
  part.writes = writes
  return part
end

-- The writes that a part names, the newest first.
local function writes_of(part)
  if not part.list then
    part.list = {}
    read_writes(part.writes, part.list)
  end
  return part.list
end

-- The revision of the part that ends at `stop`; nil if it has none, false if something else is in its place.
local function part_at(key, stop)
  local from = math.max(0, stop - WINDOW)
  local tail = redis.call('GETRANGE', key, from, stop - 1)
  local json = tail:sub(-2) == '"}'
  local close = json and #tail - 2 or #tail
  local digits = close >= 3 and tail:sub(close - 2, close):match('^%d%d%d$')
  if not digits then
    return nil
  end
  local size = tonumber(digits)
  if close - size < 9 and from > 0 then
    from = math.max(0, stop - size - 11)
    tail = redis.call('GETRANGE', key, from, stop - 1)
    close = json and #tail - 2 or #tail
  end
  if size < 3 or close - size < 9 then
    return nil
  end
  local opening = tail:sub(close - size - 8, close - size)
  if json and opening ~= ',"_rev":"' and opening ~= '{"_rev":"' then
    return nil
  elseif not json and opening:sub(2) ~= '\164_rev\218' .. string.char(math.floor(size / 256), size % 256) then
    return nil
  end
  return parse(tail:sub(close - size + 1, close)) or false
end

-- The position behind a MessagePack value; nil if it does not end.
local WIDTHS
local function load_widths()
  WIDTHS = WIDTHS or {
    [0xc4] = -1, [0xc5] = -2, [0xc6] = -4, [0xc7] = -1, [0xc8] = -2, [0xc9] = -4, [0xd9] = -1, [0xda] = -2, [0xdb] = -4,
    [0xca] = 4, [0xcb] = 8, [0xcc] = 1, [0xcd] = 2, [0xce] = 4, [0xcf] = 8, [0xd0] = 1, [0xd1] = 2, [0xd2] = 4,
    [0xd3] = 8, [0xd4] = 2, [0xd5] = 3, [0xd6] = 5, [0xd7] = 9, [0xd8] = 17, [0xdc] = -2, [0xdd] = -4, [0xde] = -2,
    [0xdf] = -4,
  }
end
local function number_at(text, at, width)
  local number = 0
  for i = at, at + width - 1 do
    number = number * 256 + (text:byte(i) or 0)
  end
  return number
end
local function behind(text, at)
  local left = 1
  while left > 0 do
    local byte = text:byte(at)
    if not byte then
      return nil
    end
    local width, items, bytes = WIDTHS[byte], 0, 0
    if width and width > 0 then
      bytes = width
    elseif width then
      local count = number_at(text, at + 1, -width)
      if byte >= 0xdc then
        items = byte >= 0xde and 2 * count or count
      else
        bytes = count + ((byte >= 0xc7 and byte <= 0xc9) and 1 or 0)
      end
      at = at - width
    elseif byte >= 0x80 and byte <= 0x8f then
      items = 2 * (byte - 0x80)
    elseif byte >= 0x90 and byte <= 0x9f then
      items = byte - 0x90
    elseif byte >= 0xa0 and byte <= 0xbf then
      bytes = byte - 0xa0
    elseif byte == 0xc1 then
      return nil
    end
    left, at = left - 1 + items, at + 1 + bytes
  end
  return at <= #text + 1 and at or nil
end

-- The bytes of a MessagePack value as a text or a whole number; nil if it is another thing.
local function scalar(text)
  local byte = text:byte(1)
  if byte >= 0xa0 and byte <= 0xbf then
    return text:sub(2)
  elseif byte == 0xd9 or byte == 0xda or byte == 0xdb then
    return text:sub(2 - WIDTHS[byte])
  elseif byte < 0x80 then
    return byte
  elseif byte >= 0xcc and byte <= 0xcf then
    return number_at(text, 2, #text - 1)
  elseif byte >= 0xd0 and byte <= 0xd3 and text:byte(2) < 128 then
    return number_at(text, 2, #text - 1)
  end
  return nil
end

-- Version and revision as a foreign document in MessagePack has them; false if it is none, or holds another thing there.
local function fields_of_msgpack(text)
  load_widths()
  local first, at, count = text:byte(1), 2, 0
  if first >= 0x80 and first <= 0x8f then
    count = first - 0x80
  elseif first == 0xde or first == 0xdf then
    at = first == 0xde and 4 or 6
    count = number_at(text, 2, at - 2)
  else
    return false
  end
  local version, revision = 0, nil
  for _ = 1, count do
    local middle = behind(text, at)
    local stop = middle and behind(text, middle)
    if not stop then
      return false
    end
    local key = scalar(text:sub(at, middle - 1))
    if key == 'version' then
      version = scalar(text:sub(middle, stop - 1))
    elseif key == '_rev' then
      revision = scalar(text:sub(middle, stop - 1))
    end
    at = stop
  end
  return at == #text + 1, version, revision
end

-- The same of JSON. cjson does not tell 1 from 1.0, so what stands there is looked at, with all that is inside removed.
local function fields_of_json(text)
  local ok, document = pcall(cjson.decode, text)
  if not ok or type(document) ~= 'table' or not text:match('^[ \t\r\n]*{') then
    return false
  end
  local version = document.version
  if version == nil then
    return true, 0, document._rev
  end
  local flat = text:gsub('\\.', '__'):gsub('"([^"]*)"', function(word)
    return word == 'version' and '"version"' or '""'
  end)
  local inside, last = flat:match('{(.*)}'):gsub('%b{}', '0'):gsub('%b[]', '0'), nil
  for digits in inside:gmatch('"version"[ \t\r\n]*:[ \t\r\n]*([^, \t\r\n]*)') do
    last = digits
  end
  if type(version) ~= 'number' or not last or not last:match('^%-?%d+$') or tonumber(last) ~= version then
    version = nil
  end
  return true, version, document._rev
end

-- The revision of a document that another program wrote or edited; nil if it is none that can be read.
local function foreign(key, stop)
  if stop == 0 or stop > FOREIGN then
    return nil
  end
  local text = redis.call('GETRANGE', key, 0, stop - 1)
  local ok, version, revision = fields_of_json(text)
  if not ok then
    ok, version, revision = fields_of_msgpack(text)
  end
  local edited = type(revision) == 'string' and parse(revision) or nil
  if ok and edited and not edited.kind then
    return edited
  elseif ok and type(version) == 'number' and version >= 0 and version <= MAX_VERSION then
    return {version = version + 0, list = {}}
  end
  return nil
end

-- What is stored: `version` (0: nothing), the writes that its last part names, `length` of the value, and of a
-- value with lines `kind`, `length` of the last and `distance` from the head's end. nil if it cannot be read.
local function revision(key)
  local stop = redis.call('STRLEN', key)
  if stop == 0 and redis.call('EXISTS', key) == 0 then
    return {version = 0, list = {}, stop = 0, missing = true}
  end
  local part = part_at(key, stop)
  if part == nil then
    part = foreign(key, stop)
  end
  if not part or (part.kind and part.distance >= stop) then
    return nil
  end
  part.stop = stop
  return part
end

-- The latest writes, without a gap: of the lines, of which each names one, and of what is before them: a block or the
-- head, which names the older ones.
-- nil if the parts do not meet.
local function history(key, last)
  local list, part, stop, head = {unpack(writes_of(last))}, last, last.stop, last.stop - (last.distance or 0)
  while part.kind == '+' and #list < HISTORY do
    stop = stop - part.length
    local before = part_at(key, stop)
    if before == nil and stop == head then
      before = foreign(key, stop)
    end
    if not before or (before.kind and stop - before.distance or stop) ~= head or before.version >= part.version then
      return nil
    end
    part = before
    for _, write in ipairs(writes_of(part)) do
      list[#list + 1] = write
    end
  end
  return list
end

local function entry(list, id)
  for _, write in ipairs(list) do
    if write.id == id then
      return write
    end
  end
  return nil
end

local function contains(list, id)
  return entry(list, id) ~= nil
end

-- Whether all writes since a certain one are known: each of them checked what it replaced.
local function known_since(list, id)
  for _, write in ipairs(list) do
    if write.id == id then
      return true
    elseif write.blind then
      return false
    end
  end
  return false
end

-- The version that one of the writes made: those that checked count up one by one. After one that did not, nobody knows.
local function made(list, id, version)
  local found = entry(list, id)
  if found and found.made then
    return found.made
  end
  for i, write in ipairs(list) do
    if write.id == id then
      return version - i + 1
    elseif write.blind then
      break
    end
  end
  return version
end

-- A document with its revision, from both up to where that needs to know its own size. Returns the text as well.
local function finish_head(body, text)
  local size = #text + 4
  text = text .. string.format(':%03d', size)
  if body:byte(1) == 123 then
    return body .. text .. '"}', text
  end
  return body .. string.char(math.floor(size / 256), size % 256) .. text, text
end

-- Write something where a replay finds that its write has landed: WAIT counts what its own connection has written.
local function confirm(key)
  redis.pcall('APPEND', key, '')
end

-- Limits of requests and tokens in any 60 s: several operations, one atomic call. The clock is the server's, so replicas agree.
-- KEYS: one hash per tenant and tier, fields r<second> and t<second>.
-- ARGV: per operation: key index, request limit, token limit, requests, tokens, second (-1: admit now; else change that second).
-- Returns per operation: allowed, remaining requests, remaining tokens, wait, second.
local WINDOW = 60
local now = tonumber(redis.call('TIME')[1])
local windows = {}

local function window(index)
  if windows[index] then return windows[index] end
  local found = {requests = 0, tokens = 0, seconds = {}}
  local raw = redis.call('HGETALL', KEYS[index])
  local old = {}
  for i = 1, #raw, 2 do
    local second = tonumber(string.sub(raw[i], 2))
    if second < now - WINDOW then
      old[#old + 1] = raw[i]
    else
      local count = found.seconds[second] or {0, 0}
      found.seconds[second] = count
      local value = tonumber(raw[i + 1])
      if string.sub(raw[i], 1, 1) == 'r' then
        count[1] = value
        found.requests = found.requests + value
      else
        count[2] = value
        found.tokens = found.tokens + value
      end
    end
  end
  if #old > 0 then redis.call('HDEL', KEYS[index], unpack(old)) end
  windows[index] = found
  return found
end

local function count(index, second, requests, tokens)
  local found = window(index)
  local counted = found.seconds[second] or {0, 0}
  found.seconds[second] = counted
  requests = math.max(requests, -counted[1])
  tokens = math.max(tokens, -counted[2])
  counted[1] = counted[1] + requests
  counted[2] = counted[2] + tokens
  found.requests = found.requests + requests
  found.tokens = found.tokens + tokens
  if requests ~= 0 then redis.call('HINCRBY', KEYS[index], 'r' .. second, requests) end
  if tokens ~= 0 then redis.call('HINCRBY', KEYS[index], 't' .. second, tokens) end
  redis.call('EXPIRE', KEYS[index], WINDOW + 2)
end

local results = {}
for i = 1, #ARGV, 6 do
  local index, request_limit, token_limit = tonumber(ARGV[i]), tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local requests, tokens, second = tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4]), tonumber(ARGV[i + 5])
  local found = window(index)
  local allowed, wait = 1, 0
  if second >= 0 then
    if found.seconds[second] then count(index, second, requests, tokens) end
  else
    second = now
    local over_requests = found.requests + requests - request_limit
    local over_tokens = found.tokens + tokens - token_limit
    if over_requests > 0 or over_tokens > 0 then
      allowed, wait = 0, 1
      if over_tokens > 0 and over_requests <= 0 then allowed = -1 end
      local seconds = {}
      for at in pairs(found.seconds) do seconds[#seconds + 1] = at end
      table.sort(seconds)
      for _, at in ipairs(seconds) do
        over_requests = over_requests - found.seconds[at][1]
        over_tokens = over_tokens - found.seconds[at][2]
        wait = at + WINDOW + 1 - now
        if over_requests <= 0 and over_tokens <= 0 then break end
      end
      if wait < 1 then wait = 1 end
    else
      count(index, now, requests, tokens)
    end
  end
  local left_requests = math.max(0, request_limit - found.requests)
  local left_tokens = math.max(0, token_limit - found.tokens)
  results[#results + 1] = {allowed, left_requests, left_tokens, wait, second}
end
return results

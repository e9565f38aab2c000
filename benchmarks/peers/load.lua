-- Sends the bodies of a file, one a line, in turn, and holds every answer against what is right.
-- Arguments: the file; `predictions` (a field of that name), `rows` (a list of rows, each with `prediction`) or `echo`
-- (the body comes back); and the right answer without blanks: `[0,1]`, or for an echo words that are in every body.
local requests, wanted, shape, turn = {}, nil, nil, 0
local threads = {}
wrong, example = 0, ""

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  local headers = { ["Content-Type"] = "application/json" }
  for line in io.lines(args[1]) do
    table.insert(requests, wrk.format("POST", nil, headers, line))
  end
  shape, wanted = args[2], args[3]
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

local function found(body)
  if shape == "echo" then
    return body:find(wanted, 1, true) and wanted
  elseif shape == "rows" then
    local each = {}
    for value in body:gmatch('"prediction":%s*([^,}%s]+)') do
      table.insert(each, value)
    end
    return "[" .. table.concat(each, ",") .. "]"
  end
  local list = body:match('"predictions":%s*(%b[])')
  return list and list:gsub("%s", "")
end

function response(status, headers, body)
  local got = found(body)
  if status ~= 200 or got ~= wanted then
    wrong = wrong + 1
    example = status .. " " .. body:sub(1, 300)
  end
end

function done(summary, latency, rest)
  local errors, bad, shown = summary.errors, 0, ""
  for _, thread in ipairs(threads) do
    bad = bad + thread:get("wrong")
    shown = thread:get("example") ~= "" and thread:get("example") or shown
  end
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  print(string.format("figures %d %d %d %d %d %d", summary.duration, summary.requests, latency:percentile(50),
    latency:percentile(99), bad, broken))
  print("example " .. shown:gsub("%s+", " "))
end

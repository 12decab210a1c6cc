-- Argo CD's health of a GemmaSpecDeploy, from the three conditions that kstatus reads too.
-- Stalled: only another spec helps. Reconciling, or not Ready: on its way, or waiting for something.
local hs = { status = "Progressing", message = "the operator has not seen this generation yet" }
if obj.status == nil or obj.status.conditions == nil then
  return hs
end
if obj.status.observedGeneration ~= obj.metadata.generation then
  return hs
end
local found = {}
for _, condition in ipairs(obj.status.conditions) do
  found[condition.type] = condition
end
local ready, reconciling, stalled = found["Ready"], found["Reconciling"], found["Stalled"]
if ready == nil or reconciling == nil or stalled == nil then
  return hs
end
if stalled.status == "True" then
  hs.status, hs.message = "Degraded", stalled.reason .. ": " .. stalled.message
elseif obj.spec ~= nil and obj.spec.replicas == 0 then
  hs.status, hs.message = "Suspended", ready.message
elseif reconciling.status == "True" then
  hs.message = reconciling.reason .. ": " .. reconciling.message
elseif ready.status ~= "True" then
  hs.message = ready.reason .. ": " .. ready.message
else
  hs.status, hs.message = "Healthy", ready.message
  local speculation = found["SpeculationHealthy"]
  if speculation ~= nil and speculation.status == "False" then
    hs.message = ready.message .. "; " .. speculation.reason .. ": " .. speculation.message
  end
end
return hs

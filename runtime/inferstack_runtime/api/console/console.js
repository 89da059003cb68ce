// The page: asks for the state every two seconds, shows it, and talks to the model.

import { bars, line } from "/console/charts.js";
import { Samples, dollarsPerMillion, timing } from "/console/samples.js";

const POLL_MS = 2000;
const ALERTS_EVERY = 5;
const PHASES = ["preflight", "render", "ready", "warm-up", "pre-check", "shift", "settle", "post-check", "commit", "drain", "release"];
const $ = (id) => document.getElementById(id);
const samples = {};
let key = null, polls = 0, running = null;

// ---- small helpers

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function figures(into, pairs) {
  into.replaceChildren(...pairs.map(([name, value]) => {
    const pair = element("div");
    pair.append(element("dt", name), element("dd", value));
    return pair;
  }));
}

const none = "–";
const number = (value, digits = 1) => (value === null || value === undefined || Number.isNaN(value) ? none : value.toLocaleString("en", { maximumFractionDigits: digits }));
const milliseconds = (seconds) => (seconds === null ? none : `${number(seconds * 1000, 0)} ms`);
const percent = (share) => (share === null ? none : `${number(share * 100)} %`);
const bytes = (value) => (value ? `${number(value / 2 ** 20, 0)} MiB` : none);
const when = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");

async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { ...options.headers, authorization: `Bearer ${key}` }, cache: "no-store" });
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  throw Object.assign(new Error(body.error?.message ?? `HTTP ${answer.status}`), { status: answer.status, code: body.error?.code });
}

// ---- key

function readKey() {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  if (given) {
    sessionStorage.setItem("inferstack-key", given);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("inferstack-key");
}

function showLogin(why) {
  key = null;
  sessionStorage.removeItem("inferstack-key");
  $("boards").hidden = true;
  $("forget").hidden = true;
  $("login").hidden = false;
  $("login-error").textContent = why ?? "";
  $("connection").textContent = "";
  $("key").focus();
}

async function connect(candidate) {
  key = candidate;
  try {
    show(await (await ask("/console/api/state")).json());
    await showModels();
  } catch (error) {
    showLogin(error.status === 401 || error.status === 403 ? "This key has no admin scope here." : error.message);
    return;
  }
  sessionStorage.setItem("inferstack-key", candidate);
  $("login").hidden = true;
  $("boards").hidden = false;
  $("forget").hidden = false;
  showAlerts();
}

async function showModels() {
  const { data } = await (await ask("/v1/models")).json();
  $("model").replaceChildren(...data.map((model) => new Option(model.id, model.id)));
}

async function poll() {
  if (key && !document.hidden) {
    try {
      show(await (await ask("/console/api/state")).json());
      $("connection").textContent = `updated ${new Date().toLocaleTimeString("en-GB")}`;
      $("connection").className = "";
      if (++polls % ALERTS_EVERY === 0) showAlerts();
    } catch (error) {
      if (error.status === 401 || error.status === 403) showLogin("The key is not accepted any more.");
      else {
        $("connection").textContent = `no answer from the gateway: ${error.message}`;
        $("connection").className = "bad";
      }
    }
  }
  setTimeout(poll, POLL_MS);
}

// ---- slots

function show(state) {
  $("where").textContent = `environment ${state.environment}, shown by slot ${state.served_by}`;
  for (const [name, slot] of Object.entries(state.slots)) {
    samples[name] ??= new Samples();
    if (slot.metrics) samples[name].add(state.time, slot.metrics);
  }
  showWeights(state);
  for (const [name, slot] of Object.entries(state.slots)) showSlot(name, slot, state.weights?.[name] ?? null);
  showPromotion(state.promotion);
  showCost(state);
}

function showWeights(state) {
  const place = $("weights");
  place.hidden = !state.weights;
  if (!state.weights) return;
  place.setAttribute("aria-label", Object.entries(state.weights).map(([name, weight]) => `${name} ${weight} percent`).join(", "));
  for (const [name, weight] of Object.entries(state.weights)) {
    let part = place.querySelector(`.fill-${name}`);
    if (!part) place.append((part = element("div", "", `fill-${name}`)));
    part.style.flexGrow = weight;
    part.hidden = weight === 0;
    part.textContent = `${name} ${weight} %`;
  }
}

function showSlot(name, slot, weight) {
  let card = $(`slot-${name}`);
  if (!card) {
    card = element("article", undefined, `slot slot-${name}`);
    card.id = `slot-${name}`;
    const head = element("header");
    head.append(element("h3", name), element("span"));
    card.append(head, element("dl", undefined, "figures"), element("div", undefined, "spark"));
    $("slots").append(card);
  }
  const word = card.querySelector("header span");
  word.textContent = slot.ready ? (weight ? "ready, live" : "ready, idle") : slot.draining ? "draining" : slot.reason || "not ready";
  word.className = slot.ready ? "good" : weight && !slot.draining ? "bad" : "warn";
  const now = slot.metrics, seen = samples[name];
  figures(card.querySelector("dl"), now ? [
    ["weight", weight === null ? none : `${weight} %`],
    ["requests/s", number(seen.rate("requests"), 2)],
    ["tokens/s", number(seen.rate("generated_tokens"))],
    ["first token p50", milliseconds(seen.quantile("ttft", 0.5))],
    ["first token p95", milliseconds(seen.quantile("ttft", 0.95))],
    ["between tokens p95", milliseconds(seen.quantile("inter_token", 0.95))],
    ["errors/s", number(seen.rate("errors"), 2)],
    ["running, waiting", `${number(now.running, 0)}, ${number(now.waiting, 0)}`],
    ["KV cache", percent(now.kv_size_bytes ? now.kv_used_bytes / now.kv_size_bytes : null)],
    ["memory", bytes(now.resident_bytes)],
    ["generation", number(slot.generation, 0)],
    ["model", (slot.model_digest ?? "").replace("sha256:", "").slice(0, 8) || none],
  ] : [["weight", weight === null ? none : `${weight} %`]]);
  const rates = seen.series("generated_tokens");
  line(card.querySelector(".spark"), rates, `${name}: tokens per second over the last five minutes, now ${number(rates[rates.length - 1] ?? 0)}`);
}

// ---- promotions

function showPromotion(promotion) {
  const operation = promotion?.operation;
  const place = $("operation");
  place.replaceChildren();
  if (operation) {
    place.append(element("p", `${operation.kind} of ${operation.target} by ${operation.by}, since ${when(operation.started)}`));
    const list = element("ol", undefined, "phases");
    const at = PHASES.indexOf(operation.phase);
    for (const [index, phase] of (at < 0 ? [...PHASES, operation.phase] : PHASES).entries()) {
      const item = element("li", phase, at >= 0 && index < at ? "past" : "");
      if (phase === operation.phase) item.setAttribute("aria-current", "step");
      list.append(item);
    }
    place.append(list);
  } else if (promotion?.kept_until && promotion.previous) {
    place.append(element("p", `${promotion.previous} stays warm for a rollback until ${when(promotion.kept_until)}`, "soft"));
  } else if (!promotion) {
    place.append(element("p", "No promotion yet. Try: inferstack promote ENV --set slot.quantization=int8", "soft"));
  }
  const marks = { committed: "good-mark", reverted: "bad-mark", frozen: "bad-mark", refused: "warn-mark" };
  $("history").replaceChildren(...(promotion?.history ?? []).slice().reverse().map((entry) => {
    const item = element("li", undefined, marks[entry.outcome] ?? "");
    item.append(
      element("p", `${entry.kind} of ${entry.slot}: ${entry.outcome}`),
      element("p", `${entry.summary}, generation ${entry.generation}, ${when(entry.started)}, ${number(entry.ended - entry.started)} s`, "soft"),
    );
    if (entry.reason) item.append(element("p", entry.reason, "soft"));
    return item;
  }));
}

// ---- cache and cost

function showCost(state) {
  const all = Object.values(state.slots).map((slot) => slot.metrics).filter(Boolean);
  const total = (name) => all.reduce((sum, metrics) => sum + metrics[name], 0);
  const perSecond = Object.values(samples).reduce((sum, seen) => sum + (seen.rate("generated_tokens") ?? 0), 0);
  const lookups = total("cache_hits") + total("cache_misses");
  const price = Math.max(0, Number($("price").value) || 0);
  const million = dollarsPerMillion(price, perSecond);
  const share = total("cached_tokens") / Math.max(1, total("cached_tokens") + total("generated_tokens"));
  figures($("cost"), [
    ["cache hits", percent(lookups ? total("cache_hits") / lookups : null)],
    ["tokens generated", number(total("generated_tokens"), 0)],
    ["tokens from cache", number(total("cached_tokens"), 0)],
    ["prompt tokens reused", number(total("prefix_hit_tokens"), 0)],
    ["$ per million tokens", !price ? "set a price" : million === null ? none : number(million, 2)],
    ["saved by the cache", percent(total("cached_tokens") + total("generated_tokens") ? share : null)],
  ]);
}

// ---- alerts

async function showAlerts() {
  const place = $("alerts");
  try {
    const { alerts } = await (await ask("/api/v1/monitoring/alerts")).json();
    const items = alerts.map((alert) => {
      const item = element("li");
      item.append(element("span", `${alert.name} (${alert.severity ?? "no severity"}), since ${alert.started_at}`, alert.acknowledged ? "soft" : "bad"));
      const button = element("button", alert.acknowledged ? "Acknowledged" : "Acknowledge");
      button.type = "button";
      button.disabled = alert.acknowledged;
      button.setAttribute("aria-label", `${button.textContent} ${alert.name}`);
      button.addEventListener("click", async () => {
        button.disabled = true;
        try {
          await ask(`/api/v1/monitoring/alerts/${encodeURIComponent(alert.alert_id)}/acknowledge`, {
            method: "PUT", body: JSON.stringify({ author: "console", comment: "acknowledged in the console", expires_in_minutes: 60 }), headers: { "content-type": "application/json" },
          });
          showAlerts();
        } catch (error) { item.append(element("span", error.message, "bad")); }
      });
      item.append(button);
      return item;
    });
    place.replaceChildren(...(items.length ? items : [element("li", "Nothing fires.", "good")]));
  } catch (error) {
    const text = error.code === "alertmanager_not_configured" ? "Alertmanager is not installed here. Install it, then run inferstack up again." : error.message;
    place.replaceChildren(element("li", text, "soft"));
  }
}

// ---- chat

async function chat(event) {
  event.preventDefault();
  if (running) return; // Ctrl+Enter, while an answer comes
  if (!$("model").value) {
    $("answer").replaceChildren(element("p", "No model is served here: inferstack status ENV says why.", "bad"));
    return;
  }
  running = new AbortController();
  $("send").disabled = true;
  $("stop").disabled = false;
  $("answer").textContent = "";
  const sent = performance.now(), moments = [];
  let slot = null, end = "The connection ended before the answer did.";
  const showTiming = () => {
    const figure = timing(sent, moments);
    figures($("timing"), [
      ["first token", figure.first === null ? none : `${number(figure.first, 0)} ms`],
      ["tokens/s", number(figure.perSecond)],
      ["between p50", figure.median === null ? none : `${number(figure.median)} ms`],
      ["between p95", figure.p95 === null ? none : `${number(figure.p95)} ms`],
      ["pieces", number(moments.length, 0)],
      ["answered by", slot ?? none],
    ]);
    bars($("gaps"), figure.gaps);
  };
  try {
    const body = {
      model: $("model").value, stream: true, max_tokens: Number($("max-tokens").value), temperature: Number($("temperature").value),
      messages: [{ role: "user", content: $("prompt").value }],
    };
    const answer = await ask("/v1/chat/completions", { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" }, signal: running.signal });
    slot = `${answer.headers.get("x-inferstack-slot")}, generation ${answer.headers.get("x-inferstack-generation")}`;
    for await (const data of events(answer.body)) {
      if (data === "[DONE]") { end = ""; break; }
      const piece = JSON.parse(data);
      if (piece.error) throw new Error(piece.error.message);
      const text = piece.choices?.[0]?.delta?.content;
      if (text) {
        moments.push(performance.now());
        $("answer").append(text);
        $("answer").scrollTop = $("answer").scrollHeight;
        if (moments.length % 4 === 1) showTiming();
      }
    }
  } catch (error) {
    end = error.name === "AbortError" ? "stopped" : error.message;
  }
  if (end) $("answer").append(element("p", end, end === "stopped" ? "soft" : "bad"));
  showTiming();
  running = null;
  $("send").disabled = false;
  $("stop").disabled = true;
}

// The data of each server-sent event of a response body.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const text of lines) if (text.startsWith("data:")) yield text.slice(5).trim();
  }
}

// ---- start

$("login-form").addEventListener("submit", (event) => { event.preventDefault(); connect($("key").value.trim()); });
$("forget").addEventListener("click", () => showLogin());
$("chat-form").addEventListener("submit", chat);
$("stop").addEventListener("click", () => running?.abort());
$("prompt").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("chat-form").requestSubmit(); });
$("price").value = localStorage.getItem("inferstack-price") ?? "0";
$("price").addEventListener("change", () => localStorage.setItem("inferstack-price", $("price").value));
const known = readKey();
if (known) connect(known); else showLogin();
poll();

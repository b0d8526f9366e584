// The page: what is open, what runs, and what the buttons and keys do.

import { ApiError, chat, hasKey, models, setKey } from "./api.js";
import { announce, byId, confirmed, download, element, toast } from "./dom.js";
import { AssistantMessage, ToolMessage, UserMessage } from "./messages.js";
import { nextTheme, openSettings, requestFields, saveSettings, settings, theme } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { openStore } from "./store.js";
import * as tree from "./tree.js";

const SAVE_EVERY_MS = 5000;
const RENDER_SLICE_MS = 40; // of a long conversation, before the browser gets its turn

const store = await openStore();
const runs = new Map(); // id of a conversation → its answer that is being made
let conversation = tree.newConversation(settings.system);
let shown = []; // [{ key, node, view }], the messages in the list
let showing = 0; // counts calls of `show`: a later one ends an earlier one
let isAtEnd = true; // the reader follows the end of the conversation

const sidebar = new Sidebar(store, { onopen: open, onremove: remove });
const scroller = byId("scroller");
const composer = byId("composer");
const field = byId("message");

// ---- the conversation on the screen

/** Bring the list in line with the chosen messages; what stands there already stays. */
async function show() {
  const turn = ++showing;
  const nodes = tree.path(conversation);
  const wanted = nodes.map((node, at) => ({ node, next: nodes[at + 1], key: keyOf(node, nodes[at + 1]) }));
  let same = 0;
  while (same < shown.length && shown[same].key === wanted[same]?.key) same++;
  for (const { view } of shown.splice(same)) view.root.remove();
  showFrame();
  let begin = performance.now();
  for (const { node, next, key } of wanted.slice(same)) {
    if (performance.now() - begin > RENDER_SLICE_MS) {
      await new Promise((resolve) => setTimeout(resolve));
      if (turn !== showing) return;
      begin = performance.now();
    }
    const view = viewOf(node);
    shown.push({ key, node, view });
    byId("messages").append(view.root);
    if (runs.get(conversation.id)?.node === node) view.update();
    else await view.finish?.(next?.role === "tool");
    if (turn !== showing) return;
    followEnd();
  }
}

/** Changes when a message must be shown anew: with its versions, and when its calls are answered. */
function keyOf(node, next) {
  const versions = tree.siblings(conversation, node);
  return `${conversation.id} ${node.id} ${versions.indexOf(node)}/${versions.length} ${next?.role === "tool"}`;
}

function viewOf(node) {
  if (node.role === "tool") return new ToolMessage(node);
  const versions = tree.siblings(conversation, node);
  const shared = {
    position: versions.indexOf(node),
    count: versions.length,
    onmove: (to) => choose(versions[to]),
  };
  const parent = tree.parentOf(conversation, node);
  if (node.role === "user") {
    const onedit = (text) => ask(parent, text);
    return new UserMessage(node, { ...shared, onedit });
  }
  const onregenerate = () => answer(parent);
  const onresults = (texts) => sendResults(node, texts);
  return new AssistantMessage(node, { ...shared, onregenerate, onresults });
}

/** All around the messages: title, buttons, the greeting. */
function showFrame() {
  const isRunning = runs.has(conversation.id);
  const isEmpty = conversation.chosen[""] === undefined;
  byId("title").value = conversation.title;
  byId("title").disabled = isEmpty;
  document.title = conversation.title ? `${conversation.title} · gptoss` : "gptoss";
  document.body.classList.toggle("empty", isEmpty);
  byId("export").disabled = byId("delete").disabled = isEmpty;
  byId("send").hidden = isRunning;
  byId("stop").hidden = !isRunning;
  byId("system-note").hidden = !conversation.system;
  showSend();
}

const showSend = () => (byId("send").disabled = !field.value.trim());

function choose(node) {
  if (runs.has(conversation.id)) return toast("Stop the answer first");
  tree.choose(conversation, node);
  show();
  save(conversation);
  const versions = tree.siblings(conversation, node);
  announce(`Version ${versions.indexOf(node) + 1} of ${versions.length}`);
  return byId("messages").querySelector(`[data-id="${node.id}"] .branches button:enabled`)?.focus();
}

function followEnd() {
  if (isAtEnd) scroller.scrollTop = scroller.scrollHeight;
}

scroller.addEventListener("scroll", () => {
  isAtEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 40;
  byId("to-end").hidden = isAtEnd;
});

// ---- answers

/** Say something below a message (null: at the beginning), and have it answered. */
function ask(parent, text) {
  if (runs.has(conversation.id)) return toast("Stop the answer first");
  conversation.title ||= tree.titleOf(text);
  return answer(tree.append(conversation, parent, { role: "user", content: text }));
}

function sendResults(node, texts) {
  let last = node;
  for (const [at, call] of node.tool_calls.entries()) {
    const { name } = call.function;
    const result = { role: "tool", content: texts[at], tool_call_id: call.id, name };
    last = tree.append(conversation, last, result);
  }
  return answer(last);
}

/** Have the model answer a message. */
async function answer(parent) {
  if (runs.has(conversation.id)) return toast("Stop the answer first");
  const empty = { role: "assistant", content: "", reasoning: "", model: byId("model").value, stats: {} };
  const node = tree.append(conversation, parent, empty);
  const run = { conversation, node, controller: new AbortController(), isDirty: false };
  runs.set(conversation.id, run);
  location.hash = conversation.id;
  sidebar.current = conversation.id;
  isAtEnd = true;
  show();
  field.focus();
  announce("The model is answering");
  await save(run.conversation);
  try {
    const messages = tree.requestMessages(run.conversation, parent);
    await receive(run, { model: node.model, messages, ...requestFields() });
    node.finish ??= "stop";
  } catch (error) {
    if (error.name === "AbortError") node.finish = "stopped";
    else node.error = problemOf(error);
  }
  runs.delete(run.conversation.id);
  const calls = node.finish === "tool_calls";
  announce(node.error ?? (calls ? "The model calls a tool" : "The answer is complete"));
  if (run.conversation === conversation) showFrame();
  await viewOfRun(run)?.finish(false);
  followEnd();
  return save(run.conversation);
}

/** Take the chunks of an answer, asking for the key where the server wants one. */
async function receive(run, body) {
  for (;;) {
    run.began = performance.now();
    try {
      let saved = run.began;
      for await (const chunk of chat(body, run.controller.signal)) {
        take(run, chunk);
        schedule(run);
        if (performance.now() - saved > SAVE_EVERY_MS) {
          saved = performance.now();
          save(run.conversation);
        }
      }
      return;
    } catch (error) {
      if (error.status !== 401 || !(await askForKey())) throw error;
    }
  }
}

function take({ node, began }, chunk) {
  const { stats } = node;
  if (chunk.usage) {
    stats.tokens = chunk.usage.completion_tokens;
    stats.prompt_tokens = chunk.usage.prompt_tokens;
    stats.cached_tokens = chunk.usage.prompt_tokens_details?.cached_tokens ?? 0;
    stats.reasoning_tokens = chunk.usage.completion_tokens_details?.reasoning_tokens ?? 0;
  }
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const { content, tool_calls: calls } = choice.delta;
  const reasoning = choice.delta.reasoning ?? choice.delta.reasoning_content;
  if (reasoning || content || calls) {
    stats.last_ms = performance.now() - began;
    stats.first_ms ??= stats.last_ms;
  }
  if (reasoning) node.reasoning += reasoning;
  if (content || calls) {
    if (node.reasoning) stats.thought_ms ??= stats.last_ms - stats.first_ms;
    node.content += content ?? "";
  }
  for (const { index, ...call } of calls ?? []) {
    node.tool_calls ??= [];
    const known = node.tool_calls[index];
    if (known) known.function.arguments += call.function?.arguments ?? "";
    else node.tool_calls[index] = { ...call, function: { arguments: "", ...call.function } };
  }
  if (choice.finish_reason) node.finish = choice.finish_reason;
}

const viewOfRun = (run) => shown.find(({ node }) => node === run.node)?.view;

/** Show what has come, once a frame. */
function schedule(run) {
  if (run.isDirty) return;
  run.isDirty = true;
  requestAnimationFrame(() => {
    run.isDirty = false;
    if (!runs.has(run.conversation.id)) return;
    const isWhole = viewOfRun(run)?.update() ?? true;
    followEnd();
    if (!isWhole) schedule(run);
  });
}

function problemOf(error) {
  if (error instanceof SyntaxError) return `What the server sent is no JSON: ${error.message}`;
  if (error.status === 401) return "The server asks for a key.";
  if (error instanceof ApiError && error.retryAfter) {
    return `${error.message} Try again in ${error.retryAfter} s.`;
  }
  return error.message;
}

const stop = () => runs.get(conversation.id)?.controller.abort();

// ---- conversations

async function save(which) {
  try {
    await store.save(structuredClone(which));
  } catch (error) {
    toast(`The conversation could not be kept: ${error.message}`);
  }
  await sidebar.show();
}

function display(which) {
  conversation = which;
  sidebar.current = which.id;
  isAtEnd = true;
  closeSidebar();
  show();
  sidebar.show();
}

async function open(id) {
  const found = runs.get(id)?.conversation ?? (await store.load(id));
  if (!found) return startNew();
  if (location.hash.slice(1) !== id) history.pushState(null, "", `#${id}`);
  return display(found);
}

function startNew() {
  if (location.hash) history.pushState(null, "", location.pathname + location.search);
  display(tree.newConversation(settings.system));
  field.focus();
}

async function remove(id, title) {
  if (!(await confirmed(`Delete “${title}” from this browser?`, "Delete"))) return;
  runs.get(id)?.controller.abort();
  await store.remove(id);
  if (conversation.id === id) startNew();
  else sidebar.show();
}

const fileName = (title) => `${title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 50) || "conversation"}.json`;

async function importFile(file) {
  try {
    const conversations = tree.imported(await file.text());
    for (const one of conversations) await store.save(one);
    if (conversations.length === 1) await open(conversations[0].id);
    const count = conversations.length;
    toast(`Imported ${count} conversation${count === 1 ? "" : "s"}`);
  } catch (error) {
    toast(error.message);
  }
  sidebar.show();
}

// ---- the server

/** Ask for the key; resolves to whether one was given. */
function askForKey() {
  const dialog = byId("key-dialog");
  const form = dialog.querySelector("form");
  byId("key-problem").hidden = !hasKey();
  form.reset();
  dialog.returnValue = "";
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    const onclose = () => {
      const isGiven = dialog.returnValue === "save" && form.elements.key.value !== "";
      if (isGiven) setKey(form.elements.key.value.trim());
      form.reset();
      resolve(isGiven);
    };
    dialog.addEventListener("close", onclose, { once: true });
  });
}

/** Learn the models' names, however long the server takes to be there. */
async function connect() {
  const banner = byId("banner");
  for (let wait = 1000; ; wait = Math.min(2 * wait, 10_000)) {
    try {
      const names = await models();
      byId("model").replaceChildren(...names.map((name) => element("option", {}, name)));
      byId("model").disabled = names.length < 2;
      byId("greeting-model").textContent = names[0] ?? "";
      banner.hidden = true;
      return;
    } catch (error) {
      if (error.status === 401 && (await askForKey())) continue;
      banner.textContent = `${problemOf(error)} Trying again…`;
      banner.hidden = false;
    }
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

// ---- buttons and keys

const closeSidebar = () => document.body.classList.remove("sidebar-open");

function send(event) {
  event?.preventDefault();
  const text = field.value.trim();
  if (!text || runs.has(conversation.id)) return;
  field.value = "";
  fit();
  ask(tree.path(conversation).at(-1) ?? null, text);
}

/** Make the field as high as its text, where style alone cannot. */
function fit() {
  showSend();
  if (CSS.supports("field-sizing", "content")) return;
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

function toggleSidebar() {
  const isPhone = matchMedia("(max-width: 52rem)").matches;
  document.body.classList.toggle(isPhone ? "sidebar-open" : "sidebar-closed");
}

function search() {
  document.body.classList.remove("sidebar-closed");
  document.body.classList.add("sidebar-open");
  byId("search").focus();
  byId("search").select();
}

function editLast() {
  const last = shown.findLast(({ node }) => node.role === "user");
  last?.view.root.querySelector('[aria-label="Edit"]')?.click();
}

/** Choose the version before or after the one shown, of the focused message or of the last. */
function moveVersion(by) {
  const focused = document.activeElement?.closest(".message");
  const place = shown.findLast(({ node, view }) =>
    focused ? view.root === focused : tree.siblings(conversation, node).length > 1,
  );
  if (!place) return;
  const versions = tree.siblings(conversation, place.node);
  const next = versions[versions.indexOf(place.node) + by];
  if (next) choose(next);
}

function showTheme() {
  const label = { auto: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" }[theme()];
  byId("theme").title = label;
  byId("theme").setAttribute("aria-label", label);
  byId("theme").querySelector("use").setAttribute("href", `#icon-theme-${theme()}`);
}

const onSettings = () =>
  openSettings(conversation.system, (system) => {
    conversation.system = system;
    showFrame();
    if (conversation.chosen[""] !== undefined) save(conversation);
  });

const showHelp = () => byId("help-dialog").showModal();

const SHORTCUTS = { k: search, ",": onSettings };
const KEYS = {
  "?": showHelp,
  "/": () => field.focus(),
  "[": () => moveVersion(-1),
  "]": () => moveVersion(1),
};

document.addEventListener("keydown", (event) => {
  if (event.isComposing || document.querySelector("dialog[open]")) return;
  const withControl = event.ctrlKey || event.metaKey;
  let action = null;
  if (withControl && event.shiftKey && event.key.toLowerCase() === "o") action = startNew;
  else if (withControl) action = SHORTCUTS[event.key];
  else if (event.key === "Escape") {
    if (document.body.classList.contains("sidebar-open")) action = closeSidebar;
    else action = runs.has(conversation.id) ? stop : null;
  } else if (!event.altKey && !event.target.closest("input, textarea, select")) {
    action = KEYS[event.key];
  }
  if (!action) return;
  event.preventDefault();
  action();
});

field.addEventListener("input", fit);
field.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
  else if (event.key === "ArrowUp" && field.value === "") {
    event.preventDefault();
    editLast();
  }
});
composer.addEventListener("submit", send);
byId("stop").addEventListener("click", stop);
byId("new-chat").addEventListener("click", startNew);
byId("toggle-sidebar").addEventListener("click", toggleSidebar);
byId("shade").addEventListener("click", closeSidebar);
byId("open-settings").addEventListener("click", onSettings);
byId("system-note").addEventListener("click", onSettings);
byId("open-help").addEventListener("click", showHelp);
byId("theme").addEventListener("click", () => {
  nextTheme();
  showTheme();
  announce(byId("theme").title);
});
byId("to-end").addEventListener("click", () => {
  isAtEnd = true;
  followEnd();
});
byId("title").addEventListener("change", () => {
  conversation.title = byId("title").value.trim() || "Untitled";
  save(conversation);
  showFrame();
});
byId("effort").addEventListener("change", () => {
  settings.effort = byId("effort").value;
  saveSettings();
});
byId("export").addEventListener("click", () =>
  download(fileName(conversation.title), tree.exported([conversation])),
);
byId("export-all").addEventListener("click", async () =>
  download("gptoss-conversations.json", tree.exported(await store.all())),
);
byId("import").addEventListener("click", () => byId("import-file").click());
byId("import-file").addEventListener("change", () => {
  const [file] = byId("import-file").files;
  if (file) importFile(file);
  byId("import-file").value = "";
});
byId("delete").addEventListener("click", () => remove(conversation.id, conversation.title));
for (const button of document.querySelectorAll("dialog [data-close]")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}
window.addEventListener("popstate", () => {
  const id = location.hash.slice(1);
  if (id !== conversation.id) (id ? open(id) : startNew());
});
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "hidden") for (const run of runs.values()) save(run.conversation);
});
store.onchange(() => sidebar.show());

byId("effort").value = settings.effort;
byId("memory-note").hidden = store.isKept;
showTheme();
if (location.hash) await open(location.hash.slice(1));
else await display(conversation);
field.focus();
document.body.classList.add("ready");
connect();

// A conversation is a tree of messages. Editing a message or asking for another answer makes a sibling;
// nothing is ever overwritten. Of each group of siblings one is chosen, and the chosen ones are the path
// that is shown and sent. Everything here is a function of plain objects.
//
// conversation: { id, title, system, created, updated, nodes: {id: node}, chosen: {parent id or "": id} }
// node: { id, parent: id or null, role: "user" | "assistant" | "tool", content, created,
//         reasoning, tool_calls, tool_call_id, name, model, finish, error, stats: what belongs to its role }

const ROLES = ["user", "assistant", "tool"];

export function newConversation(system) {
  const now = Date.now();
  return {
    ...{ id: crypto.randomUUID?.() ?? randomId(), title: "", system, created: now, updated: now },
    ...{ nodes: {}, chosen: {} },
  };
}

// randomUUID is there in secure contexts only, and http://192.168.… is none.
function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Add a message below another (null: at the beginning) and choose it. */
export function append(conversation, parent, fields) {
  const node = { id: randomId(), parent: parent?.id ?? null, created: Date.now(), ...fields };
  conversation.nodes[node.id] = node;
  choose(conversation, node);
  return node;
}

export function choose(conversation, node) {
  conversation.chosen[node.parent ?? ""] = node.id;
  conversation.updated = Date.now();
}

export function parentOf(conversation, node) {
  return node.parent === null ? null : conversation.nodes[node.parent];
}

/** The messages that answer or edit the same thing as this one, in the order they were made. */
export function siblings(conversation, node) {
  return Object.values(conversation.nodes)
    .filter((other) => other.parent === node.parent)
    .sort((a, b) => a.created - b.created);
}

/** The chosen messages from the first to the last. */
export function path(conversation) {
  const nodes = [];
  let node = conversation.nodes[conversation.chosen[""]];
  while (node) {
    nodes.push(node);
    node = conversation.nodes[conversation.chosen[node.id]];
  }
  return nodes;
}

/** The messages that the model is to read, up to and with `last`, as the API takes them. */
export function requestMessages(conversation, last) {
  const nodes = [];
  for (let node = last; node; node = parentOf(conversation, node)) nodes.unshift(node);
  const messages = nodes.map(requestMessage).filter((message) => message !== null);
  if (conversation.system) messages.unshift({ role: "system", content: conversation.system });
  return messages;
}

function requestMessage(node) {
  if (node.role === "tool") {
    return { role: "tool", tool_call_id: node.tool_call_id, content: node.content };
  }
  if (node.role === "user") return { role: "user", content: node.content };
  const message = { role: "assistant", content: node.content || null };
  if (node.reasoning) message.reasoning = node.reasoning;
  if (node.tool_calls?.length) message.tool_calls = node.tool_calls;
  // An answer that broke off before its first word says nothing to the model.
  return node.content || message.tool_calls ? message : null;
}

/** Calls of the last message that wait for their results. */
export function openCalls(conversation) {
  const last = path(conversation).at(-1);
  return last?.role === "assistant" && last.finish === "tool_calls" ? (last.tool_calls ?? []) : [];
}

/** Both trees in one: messages are never changed once they are whole, so a union loses nothing. */
export function merged(old, recent) {
  const nodes = { ...old.nodes };
  for (const node of Object.values(recent.nodes)) {
    if (!nodes[node.id] || node.finish || !nodes[node.id].finish) nodes[node.id] = node;
  }
  return { ...recent, nodes, chosen: { ...old.chosen, ...recent.chosen } };
}

export function titleOf(text) {
  const line = text.trim().split("\n", 1)[0];
  return line.length > 60 ? `${line.slice(0, 59).trimEnd()}…` : line;
}

const FORMAT = "gptoss-conversations";

export function exported(conversations) {
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);
}

/** The conversations of an exported file; an Error says what is wrong with it. */
export function imported(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch (error) {
    throw new Error(`This is no JSON file: ${error.message}`);
  }
  if (file?.format !== FORMAT || !Array.isArray(file.conversations)) {
    throw new Error(`This is no file of exported conversations: its "format" is not "${FORMAT}".`);
  }
  if (file.version !== 1) throw new Error(`Version 1 of the format is known, not ${file.version}.`);
  return file.conversations.map(checkedConversation);
}

function checkedConversation(value, index) {
  const where = `conversation ${index + 1}`;
  const need = (is, what) => {
    if (!is) throw new Error(`The file is damaged: ${where} needs ${what}.`);
  };
  const isMap = (map) => map !== null && typeof map === "object" && !Array.isArray(map);
  need(isMap(value) && typeof value.id === "string" && value.id, "an id");
  need(typeof value.title === "string" && typeof value.system === "string", "a title and a system");
  need(Number.isFinite(value.created) && Number.isFinite(value.updated), "its times");
  need(isMap(value.nodes) && isMap(value.chosen), "nodes and chosen");
  for (const [id, node] of Object.entries(value.nodes)) {
    need(isMap(node) && node.id === id && ROLES.includes(node.role), `a role in message ${id}`);
    need(typeof node.content === "string", `text in message ${id}`);
    need(node.reasoning === undefined || typeof node.reasoning === "string", `text in ${id}`);
    need(Number.isFinite(node.created), `a time in message ${id}`);
    need(node.tool_calls === undefined || isCalls(node.tool_calls), `its calls in message ${id}`);
    need(!node.stats || Object.values(node.stats).every(Number.isFinite), `numbers in ${id}`);
    const parent = node.parent === null ? null : value.nodes[node.parent];
    need(parent !== undefined, `the parent of message ${id}`);
    // A parent is older: so no message is above itself.
    need(parent === null || parent.created <= node.created, `order in message ${id}`);
    need(!isAboveItself(value.nodes, node), `an end above message ${id}`);
  }
  for (const [parent, id] of Object.entries(value.chosen)) {
    const node = value.nodes[id];
    need(node && (node.parent ?? "") === parent, `a message ${id} below ${parent || "the top"}`);
  }
  return value;
}

function isAboveItself(nodes, node) {
  const seen = new Set([node.id]);
  for (let up = node.parent; up !== null && nodes[up]; up = nodes[up].parent) {
    if (seen.has(up)) return true;
    seen.add(up);
  }
  return false;
}

function isCalls(calls) {
  const isCall = (call) =>
    ["id", "type"].every((key) => typeof call?.[key] === "string") &&
    ["name", "arguments"].every((key) => typeof call.function?.[key] === "string");
  return Array.isArray(calls) && calls.every(isCall);
}

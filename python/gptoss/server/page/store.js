// Conversations in the browser's IndexedDB: heads (what the list shows) and bodies (the trees).
// Where the browser has none, as in some private windows, they are kept in memory, and `isKept` is false.

import { merged } from "./tree.js";

const NAME = "gptoss";
const HEADS = "heads";
const BODIES = "bodies";

const headOf = ({ id, title, updated }) => ({ id, title, updated });

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

function opened() {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore(HEADS, { keyPath: "id" });
    request.result.createObjectStore(BODIES, { keyPath: "id" });
  };
  return done(request);
}

export async function openStore() {
  try {
    return new DatabaseStore(await opened());
  } catch {
    return new MemoryStore();
  }
}

class DatabaseStore {
  isKept = true;
  #database;
  #channel = new BroadcastChannel(NAME);

  constructor(database) {
    this.#database = database;
    database.onversionchange = () => database.close();
  }

  /** Call back when another tab has changed something. */
  onchange(callback) {
    this.#channel.onmessage = callback;
  }

  #stores(mode, ...names) {
    const transaction = this.#database.transaction(names, mode);
    return names.map((name) => transaction.objectStore(name));
  }

  /** Heads, the latest first. */
  async list() {
    const [heads] = this.#stores("readonly", HEADS);
    return (await done(heads.getAll())).sort((a, b) => b.updated - a.updated);
  }

  load(id) {
    const [bodies] = this.#stores("readonly", BODIES);
    return done(bodies.get(id));
  }

  all() {
    const [bodies] = this.#stores("readonly", BODIES);
    return done(bodies.getAll());
  }

  /** Write a conversation; what another tab has added to it stays. */
  async save(conversation) {
    const [heads, bodies] = this.#stores("readwrite", HEADS, BODIES);
    const old = await done(bodies.get(conversation.id));
    bodies.put(old ? merged(old, conversation) : conversation);
    await done(heads.put(headOf(conversation)));
    this.#channel.postMessage("changed");
  }

  async remove(id) {
    const [heads, bodies] = this.#stores("readwrite", HEADS, BODIES);
    bodies.delete(id);
    await done(heads.delete(id));
    this.#channel.postMessage("changed");
  }

  /** Ids of the conversations in which the text occurs, each with what stands around it. */
  search(text) {
    const [bodies] = this.#stores("readonly", BODIES);
    const found = new Map();
    return new Promise((resolve, reject) => {
      const request = bodies.openCursor();
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        const cursor = request.result;
        if (!cursor) return resolve(found);
        const snippet = snippetOf(cursor.value, text);
        if (snippet !== null) found.set(cursor.value.id, snippet);
        cursor.continue();
      };
    });
  }
}

class MemoryStore {
  isKept = false;
  #bodies = new Map();

  onchange() {}

  async list() {
    return [...this.#bodies.values()].map(headOf).sort((a, b) => b.updated - a.updated);
  }

  async load(id) {
    return this.#bodies.get(id);
  }

  async all() {
    return [...this.#bodies.values()];
  }

  async save(conversation) {
    this.#bodies.set(conversation.id, conversation);
  }

  async remove(id) {
    this.#bodies.delete(id);
  }

  async search(text) {
    const found = [...this.#bodies.values()].map((body) => [body.id, snippetOf(body, text)]);
    return new Map(found.filter(([, snippet]) => snippet !== null));
  }
}

/** What stands around the text in a title or a message; null if it is nowhere. */
function snippetOf(conversation, text) {
  const wanted = text.toLowerCase();
  for (const node of Object.values(conversation.nodes)) {
    const at = node.content.toLowerCase().indexOf(wanted);
    if (at >= 0) {
      const from = Math.max(0, at - 24);
      const around = node.content.slice(from, at + wanted.length + 48).replace(/\s+/g, " ");
      return (from > 0 ? "…" : "") + around.trim();
    }
  }
  return conversation.title.toLowerCase().includes(wanted) ? "" : null;
}

// The list of conversations, and the search in them.

import { byId, element, iconButton } from "./dom.js";

const DAY_MS = 86_400_000;

function groupOf(updated) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (updated >= midnight) return "Today";
  if (updated >= midnight - DAY_MS) return "Yesterday";
  return updated >= midnight - 7 * DAY_MS ? "Last 7 days" : "Older";
}

export class Sidebar {
  #found = null; // what a search found, or null if there is none
  #shown = ""; // what the list shows: it is left alone unless that changes

  constructor(store, { onopen, onremove }) {
    Object.assign(this, { store, onopen, onremove, current: null });
    const search = byId("search");
    let timer;
    search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.search(search.value.trim()), 150);
    });
    search.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown") byId("conversations").querySelector("button")?.focus();
    });
    byId("conversations").addEventListener("keydown", (event) => this.#move(event));
  }

  async search(text) {
    this.#found = text ? await this.store.search(text) : null;
    if (text !== byId("search").value.trim()) return; // typed on meanwhile
    await this.show();
  }

  async show() {
    const heads = await this.store.list();
    const list = byId("conversations");
    const wanted = JSON.stringify([heads, this.#found && [...this.#found], this.current]);
    if (wanted === this.#shown) return;
    this.#shown = wanted;
    const focused = list.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    const nodes = [];
    let group = null;
    for (const head of heads) {
      if (this.#found && !this.#found.has(head.id)) continue;
      if (groupOf(head.updated) !== group) {
        group = groupOf(head.updated);
        nodes.push(element("li", { class: "group" }, group));
      }
      nodes.push(this.#item(head));
    }
    if (!nodes.length) {
      const text = this.#found ? "Nothing found" : "No conversations yet";
      nodes.push(element("li", { class: "group" }, text));
    }
    list.replaceChildren(...nodes);
    if (focused) list.querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus();
  }

  #item({ id, title }) {
    const isCurrent = id === this.current;
    const open = element(
      "button",
      {
        ...{ type: "button", class: "open", "data-id": id, onclick: () => this.onopen(id) },
        "aria-current": isCurrent ? "page" : null,
      },
      element("span", { class: "name" }, title || "New conversation"),
    );
    const snippet = this.#found?.get(id);
    if (snippet) open.append(element("span", { class: "snippet" }, snippet));
    const remove = iconButton("delete", `Delete “${title}”`, () => this.onremove(id, title));
    return element("li", { class: isCurrent ? "item current" : "item" }, open, remove);
  }

  #move(event) {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const buttons = [...byId("conversations").querySelectorAll("button.open")];
    const at = buttons.indexOf(event.target.closest("li")?.querySelector("button.open"));
    const next = at + (event.key === "ArrowDown" ? 1 : -1);
    (next < 0 ? byId("search") : buttons[next])?.focus();
    event.preventDefault();
  }
}

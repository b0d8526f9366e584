// One message of the conversation: its elements, and how they follow the message while it grows.

import { copy, element, icon, iconButton, toast } from "./dom.js";
import { StreamedMarkdown } from "./markdown.js";

const seconds = (ms) => `${(ms / 1000).toFixed(ms < 9950 ? 2 : 1)} s`;

/** "42 tokens · 31.2 tokens/s · first after 0.12 s" */
function statsText({ stats, model }) {
  if (!stats) return "";
  const { tokens, first_ms, last_ms } = stats;
  const parts = [model];
  if (tokens) parts.push(`${tokens} token${tokens === 1 ? "" : "s"}`);
  if (tokens > 1 && last_ms - first_ms > 20) {
    parts.push(`${((1000 * (tokens - 1)) / (last_ms - first_ms)).toFixed(1)} tokens/s`);
  }
  if (first_ms !== undefined) parts.push(`first after ${seconds(first_ms)}`);
  return parts.filter(Boolean).join(" · ");
}

function statsTitle({ stats, finish }) {
  const { prompt_tokens, cached_tokens, reasoning_tokens } = stats ?? {};
  const lines = [];
  if (prompt_tokens) lines.push(`Prompt: ${prompt_tokens} tokens, ${cached_tokens ?? 0} from the cache`);
  if (reasoning_tokens) lines.push(`Reasoning: ${reasoning_tokens} tokens`);
  if (finish) lines.push(`Ended with: ${finish}`);
  return lines.join("\n");
}

/** JSON over several lines, or the text as it is. */
function indented(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** "‹ 2/3 ›": which of the siblings is shown. */
function branches({ position, count, onmove }) {
  if (count < 2) return null;
  const move = (by) => () => onmove(position + by);
  return element(
    "span",
    { class: "branches", role: "group", "aria-label": `Version ${position + 1} of ${count}` },
    iconButton("left", "Previous version", move(-1), { disabled: position === 0 }),
    element("span", {}, `${position + 1}/${count}`),
    iconButton("right", "Next version", move(1), { disabled: position === count - 1 }),
  );
}

const copyButton = (text) =>
  iconButton("copy", "Copy", async () => toast((await copy(text())) ? "Copied" : "Not copied"));

/** A message of the user, with its versions; `onedit(text)` makes another. */
export class UserMessage {
  constructor(node, { onedit, ...versions }) {
    this.node = node;
    this.text = element("div", { class: "bubble" }, node.content);
    this.tools = element(
      "div",
      { class: "tools" },
      branches(versions),
      copyButton(() => node.content),
      iconButton("edit", "Edit", () => this.edit(onedit)),
    );
    const label = { class: "message user", "aria-label": "You", "data-id": node.id };
    this.root = element("li", label, this.text, this.tools);
  }

  edit(onedit) {
    const area = element("textarea", { class: "edit", "aria-label": "Edit the message" });
    area.value = this.node.content;
    const close = () => {
      form.replaceWith(this.text, this.tools);
      this.tools.querySelector('[aria-label="Edit"]').focus();
    };
    const submit = (event) => {
      event?.preventDefault();
      if (area.value.trim()) onedit(area.value.trim());
    };
    const onkeydown = (event) => {
      if (event.key === "Escape") close();
      else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
      else return;
      event.preventDefault();
      event.stopPropagation();
    };
    area.addEventListener("keydown", onkeydown);
    const form = element(
      "form",
      { class: "edit-form", onsubmit: submit },
      area,
      element("button", { type: "button", onclick: close }, "Cancel"),
      element("button", { class: "primary" }, "Send"),
    );
    this.tools.remove();
    this.text.replaceWith(form);
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }
}

/** What a tool said, folded. */
export class ToolMessage {
  constructor(node) {
    this.root = element(
      "li",
      { class: "message tool", "aria-label": "Result of a tool", "data-id": node.id },
      element(
        "details",
        { class: "fold" },
        element("summary", {}, icon("tool"), "Result of ", element("code", {}, node.name)),
        element("pre", { tabindex: 0 }, indented(node.content)),
      ),
    );
  }
}

/** An answer. `update` shows what has come since; `finish` shows it whole. */
export class AssistantMessage {
  #shown = { reasoning: 0, content: 0 }; // characters of each that the Markdown has been given
  #calls = [];

  constructor(node, { onregenerate, onresults, ...versions }) {
    this.node = node;
    this.onresults = onresults;
    this.summary = element("summary", {}, icon("thought"));
    this.summaryText = element("span", {}, "Reasoning");
    this.summary.append(this.summaryText);
    const reasoning = element("div", { class: "markdown" });
    this.fold = element("details", { class: "fold reasoning", hidden: true }, this.summary, reasoning);
    const content = element("div", { class: "markdown" });
    this.markdown = {
      reasoning: new StreamedMarkdown(reasoning),
      content: new StreamedMarkdown(content),
    };
    this.calls = element("div", { class: "calls" });
    this.waiting = element("p", { class: "waiting" }, element("span", { class: "dots" }), "Reading…");
    this.notice = element("p", { class: "notice", role: "alert", hidden: true });
    this.stats = element("span", { class: "stats" });
    this.copy = copyButton(() => node.content);
    this.tools = element(
      "div",
      { class: "tools", hidden: true },
      branches(versions),
      this.copy,
      iconButton("again", "Another answer", onregenerate),
      this.stats,
    );
    this.root = element(
      "li",
      { class: "message assistant", "aria-label": "Answer", "data-id": node.id },
      ...[this.fold, this.waiting, content, this.calls, this.notice, this.tools],
    );
  }

  /** Show what is new, at most once a frame; false if some of it must wait for another frame. */
  update() {
    const { node } = this;
    this.root.classList.add("running");
    this.root.setAttribute("aria-busy", "true");
    const hasBegun = this.#take();
    this.waiting.hidden = hasBegun;
    this.fold.hidden = !node.reasoning;
    const isThinking = !node.content && !node.tool_calls?.length;
    if (node.reasoning) this.#say(isThinking ? "Thinking…" : this.#thoughtText());
    this.fold.classList.toggle("thinking", isThinking);
    this.#showCalls();
    const isWhole = this.markdown.reasoning.render() & this.markdown.content.render();
    return Boolean(isWhole);
  }

  /** Show all of a message that is whole, or broken. `hasResults` if its calls are answered. */
  async finish(hasResults) {
    const { node } = this;
    this.#take();
    await this.markdown.reasoning.finish();
    await this.markdown.content.finish();
    this.root.classList.remove("running");
    this.root.removeAttribute("aria-busy");
    this.waiting.hidden = true;
    this.fold.hidden = !node.reasoning;
    this.fold.classList.remove("thinking");
    if (node.reasoning) this.#say(this.#thoughtText());
    this.#showCalls();
    if (node.finish === "tool_calls" && !hasResults) this.#askForResults();
    this.stats.textContent = statsText(node);
    this.stats.title = statsTitle(node);
    this.copy.hidden = !node.content;
    this.tools.hidden = false;
    this.#note();
  }

  #take() {
    for (const [field, markdown] of Object.entries(this.markdown)) {
      const text = this.node[field] ?? "";
      if (text.length > this.#shown[field]) markdown.add(text.slice(this.#shown[field]));
      this.#shown[field] = text.length;
    }
    return this.#shown.reasoning + this.#shown.content > 0 || Boolean(this.node.tool_calls?.length);
  }

  #say(text) {
    if (this.summaryText.textContent !== text) this.summaryText.textContent = text;
  }

  #thoughtText() {
    const ms = this.node.stats?.thought_ms;
    return ms ? `Thought for ${seconds(ms)}` : "Reasoning";
  }

  #showCalls() {
    for (const [at, call] of (this.node.tool_calls ?? []).entries()) {
      const shown = (this.#calls[at] ??= this.#newCall(call.function.name));
      if (shown.text !== call.function.arguments) {
        shown.text = call.function.arguments;
        shown.arguments.textContent = indented(shown.text);
      }
    }
  }

  #newCall(name) {
    const place = element("pre", { tabindex: 0, "aria-label": "Arguments" });
    const summary = element("summary", {}, icon("tool"), "Calls ", element("code", {}, name));
    const fold = element("details", { class: "fold call" }, summary, place);
    this.calls.append(fold);
    return { fold, arguments: place, text: null };
  }

  /** The page runs no tools: the user says what they return. */
  #askForResults() {
    const areas = this.node.tool_calls.map((call) => {
      const label = `Result of ${call.function.name}`;
      return element("textarea", { rows: 2, placeholder: label, "aria-label": label, required: true });
    });
    for (const { fold } of this.#calls) fold.open = true;
    const onsubmit = (event) => {
      event.preventDefault();
      this.onresults(areas.map((area) => area.value));
    };
    const send = element("button", { class: "primary" }, "Send results");
    this.calls.append(element("form", { class: "results", onsubmit }, ...areas, send));
  }

  #note() {
    const { node } = this;
    let text = "";
    if (node.error) text = node.error;
    else if (node.finish === "length") text = "Cut off: the limit of tokens was reached.";
    else if (node.finish === "stopped") text = "Stopped.";
    else if (!node.finish) text = "Cut off: the page was closed before the answer was complete.";
    this.notice.hidden = !text;
    this.notice.textContent = text;
    this.notice.classList.toggle("error", Boolean(node.error));
  }
}

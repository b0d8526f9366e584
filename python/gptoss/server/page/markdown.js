// Markdown to elements: parsed by marked, then sanitised by DOMPurify, then highlighted and typeset.
// What a model writes is a stranger's text: it may look like anything and must do nothing. No script,
// style, form or image passes, and a link leads away only when it is clicked.

import { copy, element, icon } from "./dom.js";
import { Lexer, Marked } from "./vendor/marked.esm.js";
import "./vendor/purify.min.js"; // sets globalThis.DOMPurify

// Longer code stays plain, as highlighting it would hold up the page.
const HIGHLIGHTED_CHARACTERS = 20_000;
// So much text is rendered before the browser gets its turn, however much has come at once.
const SLICE_CHARACTERS = 4000;
// Code that is still growing is put into elements of so many lines, as the browser lays out anew the
// whole of the element that changes.
const GROUP_LINES = 40;

// Of a block that is still growing the beginning is settled at these sizes: a paragraph without an end
// is a model that repeats itself, and a table of so many rows gets its head again.
const LONG_PARAGRAPH_CHARACTERS = 4000;
const LONG_TABLE_ROWS = 60;
const NEAR_CHARACTERS = 500;

const escaped = (text) =>
  text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);

// TeX between \( \), \[ \], $$ $$ and, on one line, $ $. A dollar is money where a blank stands inside of
// it, or a letter or digit behind the second. A formula has no empty line, as in TeX itself.
const INLINE_MATH = [
  { pattern: /^\\\(([^]{1,2000}?)\\\)/, display: false },
  { pattern: /^\\\[([^]{1,2000}?)\\\]/, display: true },
  { pattern: /^\$\$([^$]{1,2000}?)\$\$/, display: true },
  { pattern: /^\$(?![\s$])((?:\\.|[^\\$`\n])*?(?:\\.|[^\s\\$`]))\$(?!\w)/, display: false },
];
const BODY = String.raw`(?:(?!\n[ \t]*\n)[^])`;
const BLOCK_MATH = new RegExp(
  String.raw`^ {0,3}(?:\\\[(${BODY}+?)\\\]|\$\$(${BODY}+?)\$\$)[ \t]*(?:\n+|$)`,
);
// A formula whose end is still to come.
const OPEN_MATH = new RegExp(String.raw`^ {0,3}(?:\\\[|\$\$)(?!${BODY}*?(?:\\\]|\$\$))${BODY}*$`);

function mathHtml({ text, display, isOpen }) {
  if (isOpen) return `<p>${escaped(text)}</p>`;
  return `<span class="${display ? "math math-display" : "math"}">${escaped(text)}</span>`;
}

const mathBlock = {
  name: "mathBlock",
  level: "block",
  start: (source) => source.match(/^ {0,3}(?:\\\[|\$\$)/m)?.index,
  tokenizer(source) {
    const whole = BLOCK_MATH.exec(source);
    if (whole) {
      return { type: "mathBlock", raw: whole[0], text: whole[1] ?? whole[2], display: true };
    }
    const open = OPEN_MATH.exec(source);
    return open ? { type: "mathBlock", raw: open[0], text: open[0], isOpen: true } : undefined;
  },
  renderer: mathHtml,
};

const mathInline = {
  name: "mathInline",
  level: "inline",
  // Where the next one may be. Not far ahead, as marked asks again after every piece of text; a blank
  // is as good a place to stop at as any.
  start(source) {
    const near = source.slice(0, NEAR_CHARACTERS);
    const at = near.search(/\$|\\[([]/);
    if (at >= 0) return at;
    const blank = near.lastIndexOf(" ");
    return near.length < source.length && blank > 0 ? blank : undefined;
  },
  tokenizer(source) {
    for (const { pattern, display } of INLINE_MATH) {
      const match = pattern.exec(source);
      if (match) return { type: "mathInline", raw: match[0], text: match[1], display };
    }
    return undefined;
  },
  renderer: mathHtml,
};

const marked = new Marked({
  gfm: true,
  breaks: true, // a model that ends a line means it
  extensions: [mathBlock, mathInline],
  renderer: {
    // An image would be a request to a stranger's server, with whatever the address tells it.
    image({ href, text }) {
      return `<a class="image" href="${escaped(href)}">${escaped(text || "Image")}</a>`;
    },
    checkbox: ({ checked }) => `<span class="check">${checked ? "☑" : "☐"} </span>`,
  },
});

const ALLOWED = {
  ALLOWED_TAGS: [
    ...["p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "pre", "code", "span"],
    ...["strong", "em", "b", "i", "u", "s", "del", "ins", "sub", "sup", "mark", "kbd", "small"],
    ...["q", "abbr", "a", "ul", "ol", "li", "dl", "dt", "dd", "details", "summary"],
    ...["table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td"],
  ],
  ALLOWED_ATTR: ["href", "title", "start", "align", "class", "colspan", "rowspan", "open"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i, // looked for in every attribute but:
  ADD_URI_SAFE_ATTR: ["start", "align", "colspan", "rowspan", "open"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};
// The classes that are made here; others could make an answer look like a part of the page.
const CLASS = /^(?:language-[\w+#.-]+|hljs-[\w-]+|[a-z]+_+|math|math-display|image|check)$/;

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  const names = node.getAttribute?.("class");
  if (names) node.setAttribute("class", names.split(/\s+/).filter((name) => CLASS.test(name)).join(" "));
  if (node.nodeName === "A" && node.hasAttribute("href")) {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
    node.setAttribute("referrerpolicy", "no-referrer");
    node.setAttribute("title", node.getAttribute("href"));
  }
});

const sanitised = (html) => DOMPurify.sanitize(html, ALLOWED);

let hljs = null; // the module, once a text has had code
const highlighter = async () => (hljs ??= (await import("./vendor/highlight.min.js")).default);

let katex = null; // the same for math
async function typesetter() {
  if (katex) return katex;
  const sheet = new URL("vendor/katex/katex.min.css", import.meta.url).href;
  document.head.append(element("link", { rel: "stylesheet", href: sheet }));
  await import("./vendor/katex/katex.min.js"); // sets globalThis.katex
  return (katex = globalThis.katex);
}

async function highlight(code, text, language) {
  if (text.length > HIGHLIGHTED_CHARACTERS) return;
  const { highlight, getLanguage } = hljs ?? (await highlighter());
  if (getLanguage(language)) {
    code.replaceChildren(sanitised(highlight(text, { language, ignoreIllegals: true }).value));
  }
}

async function typeset(place, tex, display) {
  try {
    const { render } = katex ?? (await typesetter());
    // maxExpand and maxSize bound what a formula may do; trust is off: no links, no images.
    render(tex, place, { displayMode: display, maxExpand: 200, maxSize: 20, strict: false });
  } catch {
    place.textContent = tex; // the source is better than an error
    place.classList.add("math-source");
  }
}

/** A block of code with its language and a button that copies it. */
class CodeBlock {
  #text = "";
  #group = null;

  constructor(language) {
    this.language = language;
    const button = element("button", { type: "button", class: "copy", onclick: () => this.#copy() });
    button.append(icon("copy"), element("span", {}, "Copy"));
    this.label = button.lastChild;
    this.code = element("code");
    this.node = element(
      "div",
      { class: "code" },
      element("div", { class: "code-bar" }, element("span", {}, language || "text"), button),
      element("pre", { tabindex: 0, "aria-label": `Code, ${language || "text"}` }, this.code),
    );
  }

  /** Show the text of a block that may still grow; only what is new is added. */
  grow(text) {
    if (!text.startsWith(this.#text)) {
      this.code.replaceChildren();
      [this.#text, this.#group] = ["", null];
    }
    const added = text.slice(this.#text.length);
    this.#text = text;
    for (const line of added.match(/[^\n]*\n|[^\n]+$/g) ?? []) {
      if (!this.#group || this.lines >= GROUP_LINES) {
        this.#group = document.createTextNode("");
        this.code.append(element("span", { class: "lines" }, this.#group));
        this.lines = 0;
      }
      this.#group.appendData(line);
      if (line.endsWith("\n")) this.lines++;
    }
  }

  /** Show the text of a block that is whole. */
  finish(text) {
    this.grow(text);
    highlight(this.code, text, this.language);
  }

  async #copy() {
    this.label.textContent = (await copy(this.#text)) ? "Copied" : "Not copied";
    setTimeout(() => (this.label.textContent = "Copy"), 2000);
  }
}

const languageOf = (lang) => (lang ?? "").match(/^[\w+#.-]*/)[0].toLowerCase();

/** Elements of some tokens, harmless and with their code and math. */
function rendered(tokens) {
  const fragment = sanitised(marked.parser(tokens));
  for (const code of fragment.querySelectorAll("pre > code")) {
    const language = [...code.classList].find((name) => name.startsWith("language-"));
    const block = new CodeBlock(languageOf(language?.slice("language-".length)));
    block.finish(code.textContent.replace(/\n$/, ""));
    code.parentElement.replaceWith(block.node);
  }
  for (const place of fragment.querySelectorAll(".math")) {
    const tex = place.textContent;
    if (katex) place.replaceChildren();
    typeset(place, tex, place.classList.contains("math-display"));
  }
  for (const table of fragment.querySelectorAll("table")) {
    const frame = element("div", { class: "table", tabindex: 0, role: "region", "aria-label": "Table" });
    table.replaceWith(frame);
    frame.append(table);
  }
  return fragment;
}

/**
 * Markdown that grows. Blocks that are whole are rendered once and stay; only the last one, which the
 * next token may change, is rendered again: so a token costs the same however long the text is. Of a
 * list all but the last item are whole, of open code all but what is new, and what else grows long is
 * settled in parts.
 */
export class StreamedMarkdown {
  #coming = ""; // the text that is not rendered
  #rest = ""; // the text that is not settled
  #links = Object.create(null); // [name]: address definitions met so far
  #list = null; // the list at the end of what is settled, if one is still open there
  #code = null; // the code block that grows
  #nextRender = 0;

  constructor(root) {
    // Read aloud: each block when it is whole, and not the one that changes.
    this.settled = element("div", { class: "settled", "aria-live": "polite" });
    this.tail = element("div", { class: "tail", "aria-live": "off" });
    root.append(this.settled, this.tail);
  }

  add(text) {
    this.#coming += text.replaceAll("\r", "");
  }

  /** Show what was added; false if some of it must wait: there is much, or the last block costs much. */
  render() {
    if (!this.#coming) return true;
    const begin = performance.now();
    if (begin < this.#nextRender) return false;
    this.#takeSlice();
    this.#advance(false);
    const cost = performance.now() - begin;
    this.#nextRender = cost > 4 ? begin + 6 * cost : 0;
    return !this.#coming;
  }

  /** Show all of it: no more will come. A long text takes several turns of the browser. */
  async finish() {
    this.#learnLinks();
    while (this.#coming.length > SLICE_CHARACTERS) {
      this.#takeSlice();
      this.#advance(false);
      await new Promise((resolve) => setTimeout(resolve));
    }
    this.#takeSlice();
    this.#advance(true);
  }

  #takeSlice() {
    this.#rest += this.#coming.slice(0, SLICE_CHARACTERS);
    this.#coming = this.#coming.slice(SLICE_CHARACTERS);
  }

  /** Definitions of links mostly stand at the end, behind what refers to them. */
  #learnLinks() {
    const lines = this.#coming.match(/^ {0,3}\[[^\]\n]+\]:[^\n]+$/gm);
    if (lines) this.#lexed(lines.join("\n\n"));
  }

  #advance(isFinished) {
    const tokens = this.#lexed(this.#rest);
    const whole = isFinished ? tokens.length : firstOpen(tokens);
    for (const token of tokens.slice(0, whole)) {
      this.#rest = this.#rest.slice(token.raw.length);
      this.#settle(token);
    }
    const open = tokens.slice(whole);
    const parts = open.length === 1 ? splitLong(open[0], this.#rest) : null;
    if (parts) {
      for (const token of this.#lexed(parts[0])) this.#settle(token);
      this.#rest = parts[1];
      this.#advance(false);
    } else {
      this.#showTail(open);
    }
  }

  #lexed(text) {
    const lexer = new Lexer(marked.defaults);
    Object.assign(lexer.tokens.links, this.#links);
    const tokens = lexer.lex(text);
    this.#links = lexer.tokens.links;
    return tokens;
  }

  #settle(token) {
    if (token.type === "space") return;
    this.#code = null;
    const fragment = rendered([token]);
    const list = token.type === "list" ? fragment.firstElementChild : null;
    if (list && this.#list?.nodeName === list.nodeName) this.#list.append(...list.children);
    else {
      this.settled.append(fragment);
      this.#list = list;
    }
  }

  #showTail(tokens) {
    const [token] = tokens;
    this.tail.classList.toggle("continues", this.#list !== null && token?.type === "list");
    if (token?.type === "code") {
      const language = languageOf(token.lang);
      if (this.#code?.language !== language) {
        this.#code = new CodeBlock(language);
        this.tail.replaceChildren(this.#code.node);
      }
      this.#code.grow(token.text);
    } else {
      this.#code = null;
      this.tail.replaceChildren(rendered(tokens));
    }
  }
}

/** Where the tokens begin that more text may change: at the last, or before it if it is a stub. */
function firstOpen(tokens) {
  const blocks = [...tokens.keys()].filter((at) => tokens[at].type !== "space");
  const last = tokens[blocks.at(-1)];
  // "2" after a list may become its item "2. …", and "-" under a line makes that a heading.
  const isStub = last && last.raw.length < 8 && !last.raw.includes("\n");
  return blocks.at(isStub ? -2 : -1) ?? blocks[0] ?? 0;
}

/**
 * The text of an open block in two: what may be settled, and what may still change; null if it is short.
 * The text is not the token's: that lacks blanks at the end, which stand before the next token.
 */
function splitLong({ type, items }, text) {
  if (type === "list" && items.length > 1) {
    const whole = items.slice(0, -1).reduce((sum, item) => sum + item.raw.length, 0);
    return [text.slice(0, whole), text.slice(whole)];
  }
  if (type === "paragraph" && text.length > 1.5 * LONG_PARAGRAPH_CHARACTERS) {
    const blank = text.lastIndexOf(" ", LONG_PARAGRAPH_CHARACTERS);
    const cut = blank > 0 ? blank : LONG_PARAGRAPH_CHARACTERS;
    return [text.slice(0, cut), text.slice(cut).trimStart()];
  }
  const lines = type === "table" ? text.split("\n") : [];
  if (lines.length > LONG_TABLE_ROWS + 4) {
    const [head, rows] = [lines.slice(0, 2), lines.slice(2)];
    const [whole, rest] = [rows.slice(0, LONG_TABLE_ROWS), rows.slice(LONG_TABLE_ROWS)];
    return [[...head, ...whole, ""].join("\n"), [...head, ...rest].join("\n")];
  }
  return null;
}

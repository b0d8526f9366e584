// What the user has set: kept in localStorage, shown in the dialog, sent with a request.

import { byId } from "./dom.js";

const KEY = "gptoss-settings";
const THEME = "gptoss-theme";
const NUMBERS = [
  ...["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "max_tokens"],
  "max_reasoning_tokens",
];

/** { effort, system, tools, and the numbers that are set }; what is unset is the server's to choose. */
export const settings = { effort: "", system: "", tools: "", ...stored() };

function stored() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}

export function saveSettings() {
  localStorage.setItem(KEY, JSON.stringify(settings));
}

/** The fields of a request that the settings stand for. */
export function requestFields() {
  const fields = {};
  for (const name of NUMBERS) if (settings[name] !== undefined) fields[name] = settings[name];
  if (settings.effort) fields.reasoning_effort = settings.effort;
  if (settings.tools) fields.tools = parsedTools(settings.tools);
  return fields;
}

/** The list of tools in a text; an Error says what it must be. */
function parsedTools(text) {
  const tools = JSON.parse(text);
  if (!Array.isArray(tools)) throw new Error("the tools must be a JSON list");
  return tools.map((tool) => (tool.type ? tool : { type: "function", function: tool }));
}

/** Open the dialog; `system` is the conversation's. Calls `onsave(system)` when it is accepted. */
export function openSettings(system, onsave) {
  const dialog = byId("settings-dialog");
  const form = dialog.querySelector("form");
  form.elements.system.value = system;
  form.elements.tools.value = settings.tools;
  for (const name of NUMBERS) form.elements[name].value = settings[name] ?? "";
  const checkTools = () => {
    let problem = "";
    try {
      if (form.elements.tools.value.trim()) parsedTools(form.elements.tools.value);
    } catch (error) {
      problem = `A JSON list of function definitions is needed: ${error.message}`;
    }
    form.elements.tools.setCustomValidity(problem);
  };
  checkTools();
  form.elements.tools.oninput = checkTools;
  byId("settings-reset").onclick = () => {
    for (const name of NUMBERS) form.elements[name].value = "";
  };
  dialog.onclose = () => {
    if (dialog.returnValue !== "save") return;
    settings.system = form.elements.system.value.trim();
    settings.tools = form.elements.tools.value.trim();
    for (const name of NUMBERS) {
      if (form.elements[name].value === "") delete settings[name];
      else settings[name] = form.elements[name].valueAsNumber;
    }
    saveSettings();
    onsave(settings.system);
  };
  dialog.returnValue = "";
  dialog.showModal();
}

const THEMES = ["auto", "light", "dark"];

/** The theme after this one: as the system has it, light, dark. */
export function nextTheme() {
  const now = document.documentElement.dataset.theme ?? "auto";
  const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  if (next === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  localStorage.setItem(THEME, next);
  return next;
}

export const theme = () => document.documentElement.dataset.theme ?? "auto";

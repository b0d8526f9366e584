// The server's API: the model's names, and the chunks of a streamed answer.
// Addresses are relative, so that the page works below any path (`--root-path`).

const KEY = "gptoss-key";

export class ApiError extends Error {
  constructor(message, { status = 0, code = null, retryAfter = null } = {}) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/** The stream ended before the answer did. */
export class ConnectionLost extends Error {
  constructor(message) {
    super(message);
    this.name = "ConnectionLost";
  }
}

/** The key is kept for this tab only: sessionStorage ends with it. */
export function setKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

async function request(path, options = {}) {
  const headers = { ...options.headers };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ConnectionLost("The server cannot be reached.");
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function errorOf(response) {
  const details = { status: response.status, retryAfter: response.headers.get("retry-after") };
  try {
    const { error } = await response.json();
    return new ApiError(error.message, { ...details, code: error.code });
  } catch {
    return new ApiError(`The server answered with status ${response.status}.`, details);
  }
}

/** Ids of the models that are served. */
export async function models() {
  const list = await (await request("v1/models")).json();
  return list.data.map((model) => model.id);
}

/** Chunks of an answer, as they come. Throws ApiError, ConnectionLost, or AbortError when stopped. */
export async function* chat(body, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(chunk.error.message, { code: chunk.error.code });
    yield chunk;
  }
  throw new ConnectionLost("The connection broke before the answer was complete.");
}

/** The data of server-sent events; comments and other fields mean nothing here. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const text = line.endsWith("\r") ? line.slice(0, -1) : line;
        if (text.startsWith("data:")) data.push(text.slice(text[5] === " " ? 6 : 5));
        else if (text === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ConnectionLost("The connection broke before the answer was complete.");
  } finally {
    reader.cancel().catch(() => {});
  }
}

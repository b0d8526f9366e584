// openai (npm): Chat Completions and Responses, also with its helpers.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0, timeout: 60_000 });
const greedy = { model: "demo", temperature: 0 };
const question = [{ role: "user", content: "What is 17 + 25?" }];
const weather = [{ role: "user", content: "What is the weather in Oslo?" }];
const parameters = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};
const fn = { name: "get_weather", description: "Get the current weather in a city.", parameters };
const verdict = {
  type: "object",
  properties: { right: { type: "boolean" }, city: { enum: ["Oslo", "Rome"] } },
  required: ["right", "city"],
  additionalProperties: false,
};

function checkVerdict(text) {
  const found = JSON.parse(text);
  assert.equal(typeof found.right, "boolean");
  assert.ok(["Oslo", "Rome"].includes(found.city));
}

test("chat: an answer", async () => {
  const answer = await client.chat.completions.create({ messages: question, ...greedy });
  const { message, finish_reason } = answer.choices[0];
  assert.equal(finish_reason, "stop");
  assert.match(message.content, /42/);
  assert.ok(message.reasoning.length > 0);
});

test("chat: a stream", async () => {
  const stream = await client.chat.completions.create({
    messages: question, stream: true, ...greedy,
  });
  let text = "", reasoning = "";
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    reasoning += chunk.choices[0]?.delta?.reasoning ?? "";
  }
  assert.match(text, /42/);
  assert.ok(reasoning.length > 0);
});

test("chat: a stream that is left", async () => {
  const stream = await client.chat.completions.create({
    messages: question, stream: true, ...greedy,
  });
  for await (const chunk of stream) {
    assert.ok(chunk.id);
    break;
  }
});

for (const stream of [false, true]) {
  test(`chat: runTools, stream ${stream}`, async () => {
    const called = [];
    const runner = client.chat.completions.runTools({
      messages: weather,
      stream,
      ...greedy,
      tools: [{
        type: "function",
        function: {
          ...fn,
          parse: JSON.parse,
          function: ({ city }) => { called.push(city); return "17"; },
        },
      }],
    });
    const content = await runner.finalContent();
    assert.deepEqual(called, ["Oslo"]);
    assert.match(content, /17/);
  });
}

test("chat: a schema", async () => {
  const answer = await client.chat.completions.create({
    messages: question,
    response_format: {
      type: "json_schema", json_schema: { name: "verdict", strict: true, schema: verdict },
    },
    ...greedy,
  });
  checkVerdict(answer.choices[0].message.content);
});

test("chat: an error", async () => {
  await assert.rejects(
    client.chat.completions.create({ messages: question, model: "gpt-6" }),
    (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found",
  );
});

test("responses: an answer", async () => {
  const response = await client.responses.create({ input: "What is 17 + 25?", ...greedy });
  assert.match(response.output_text, /42/);
  assert.equal(response.output[0].content[0].type, "reasoning_text");
});

test("responses: a stream", async () => {
  const stream = client.responses.stream({ input: "What is 17 + 25?", ...greedy });
  let text = "";
  for await (const event of stream) {
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  const response = await stream.finalResponse();
  assert.equal(response.output_text, text);
  assert.match(text, /42/);
});

test("responses: a tool", async () => {
  const tools = [{ type: "function", ...fn, strict: true }];
  const first = await client.responses.create({ input: weather, tools, ...greedy });
  const call = first.output.at(-1);
  assert.deepEqual(JSON.parse(call.arguments), { city: "Oslo" });
  const told = { type: "function_call_output", call_id: call.call_id, output: "17" };
  const second = await client.responses.create({
    input: [...weather, ...first.output, told], tools, ...greedy,
  });
  assert.match(second.output_text, /17/);
});

test("responses: a schema", async () => {
  const response = await client.responses.create({
    input: "What is 17 + 25?",
    text: { format: { type: "json_schema", name: "verdict", strict: true, schema: verdict } },
    ...greedy,
  });
  checkVerdict(response.output_text);
});

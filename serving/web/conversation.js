// Talks to the server: OpenAI's chat completions over fetch, the answer read word by word from server-sent events.

export class Refusal extends Error {
  constructor(message, { status = 0, code = "" } = {}) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The model served here: {id, grounding, ...}. */
export async function servedModel() {
  const response = await fetch("/v1/models");
  return (await response.json()).data[0];
}

/** What the server says of itself: {status, model, running, waiting}. */
export async function health() {
  return (await fetch("/health", { cache: "no-store" })).json();
}

/**
 * Ask, and get words as they come.
 * @returns {Promise<{boxes: object[], reason: string, tokens: number}>} Rejects with a Refusal, or AbortError when stopped.
 */
export async function ask({ body, signal, onWords }) {
  let response;
  try {
    response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("The server cannot be reached. Is it still running?");
  }
  if (!response.ok) throw await refusalOf(response);
  const answer = { boxes: [], reason: "", tokens: 0 };
  let finished = false;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") {
      finished = true;
      break;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Refusal(chunk.error.message, { status: response.status, code: chunk.error.code });
    take(chunk, answer, onWords);
  }
  if (!finished) throw new Refusal("The answer broke off. Please ask again.");
  return answer;
}

function take(chunk, answer, onWords) {
  if (chunk.usage) answer.tokens = chunk.usage.completion_tokens;
  const choice = chunk.choices[0];
  if (!choice) return;
  if (choice.delta.content) onWords(choice.delta.content);
  if (choice.delta.boxes) answer.boxes = choice.delta.boxes;
  if (choice.finish_reason) answer.reason = choice.finish_reason;
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  try {
    while (true) {
      const { value, done } = await reader.read();
      if (done) return;
      waiting += value;
      const whole = waiting.split("\n\n");
      waiting = whole.pop();
      for (const event of whole) if (event.startsWith("data: ")) yield event.slice("data: ".length);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function refusalOf(response) {
  const said = await response.json().catch(() => null);
  const message = said?.error?.message ?? `The server answered with status ${response.status}.`;
  return new Refusal(message, { status: response.status, code: said?.error?.code ?? "" });
}

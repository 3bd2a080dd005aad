// A GGUF in the browser: wllama, which is llama.cpp as WebAssembly.
import { Wllama, LoggerWithoutDebug } from "./lib/wllama/index.js";

const here = (path) => new URL(path, document.baseURI).href;

export async function open(model, { webgpu, report }) {
  const quiet = { ...LoggerWithoutDebug, debug() {}, log() {}, warn() {}, error: console.error };
  const wllama = new Wllama(
    { default: here("lib/wllama/wllama.wasm") },
    { logger: quiet, suppressNativeLog: true },
  );
  // Browsers without JSPI or 64-bit memory (Safari) take another build; by default from elsewhere.
  wllama.setCompat({
    worker: here("lib/wllama/compat/wllama.js"),
    wasm: here("lib/wllama/compat/wllama.wasm"),
  });
  await wllama.loadModelFromUrl(
    { url: here(model.path) },
    {
      n_ctx: model.context,
      ...(webgpu ? {} : { n_gpu_layers: 0 }),
      progressCallback: ({ loaded, total }) => report(loaded, total),
    },
  );

  async function write(asked, { temperature, tokens, signal }, show) {
    const settings = { max_tokens: tokens, temperature, stream: true, abortSignal: signal };
    if (typeof asked === "string") {
      for await (const event of await wllama.createCompletion({ prompt: asked, ...settings }))
        if (event.choices[0]?.text) show(event.choices[0].text);
      return;
    }
    for await (const event of await wllama.createChatCompletion({ messages: asked, ...settings }))
      if (event.choices[0]?.delta?.content) show(event.choices[0].delta.content);
  }
  return { write };
}

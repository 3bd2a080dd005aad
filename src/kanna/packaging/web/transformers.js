// An ONNX folder in the browser: transformers.js over onnxruntime-web.
import {
  AutoModelForCausalLM,
  AutoTokenizer,
  DynamicCache,
  InterruptableStoppingCriteria,
  Tensor,
  TextStreamer,
  env,
} from "./lib/transformers/transformers.min.js";

const WASM = "lib/transformers/ort-wasm-simd-threaded.asyncify";
const here = (path) => new URL(path, document.baseURI).href;

// Graphs of onnxruntime-genai name the width of the cache instead of saying it, and transformers.js
// begins with a width of 0 where it is not said.
function emptyCache(session, headSize) {
  const known = { batch_size: 1, past_sequence_length: 0 };
  const entries = {};
  for (const { name, type, shape } of session.inputMetadata) {
    if (!name.startsWith("past_key_values.")) continue;
    const dims = shape.map((d) => (typeof d === "number" ? d : known[d] ?? headSize));
    const values = type === "float16" ? new Uint16Array(0) : new Float32Array(0);
    entries[name] = new Tensor(type, values, dims);
  }
  return new DynamicCache(entries);
}

export async function open(model, { webgpu, report }) {
  env.allowRemoteModels = false;
  env.allowLocalModels = true;
  env.localModelPath = "./";
  env.backends.onnx.wasm.wasmPaths = { mjs: here(`${WASM}.mjs`), wasm: here(`${WASM}.wasm`) };
  const tokenizer = await AutoTokenizer.from_pretrained(model.path);
  const sizes = new Map();
  const network = await AutoModelForCausalLM.from_pretrained(model.path, {
    subfolder: "",
    model_file_name: model.graph.replace(/\.onnx$/, ""),
    dtype: "fp32", // what is appended to the name of the file: nothing
    device: webgpu ? "webgpu" : "wasm",
    session_options: { externalData: model.data.map((name) => ({ path: name, data: name })) },
    progress_callback: ({ file, loaded }) => {
      if (loaded) sizes.set(file, loaded);
      report([...sizes.values()].reduce((a, b) => a + b, 0), model.bytes);
    },
  });

  async function write(asked, { temperature, tokens, signal }, show) {
    const chat = typeof asked !== "string";
    const text = chat
      ? tokenizer.apply_chat_template(asked, { add_generation_prompt: true, tokenize: false })
      : asked;
    let inputs = tokenizer(text);
    const [first, second] = inputs.input_ids.tolist()[0].map(Number);
    // A template may begin with the token that the tokenizer puts first: once is enough.
    if (chat && first === second && first === tokenizer.bos_token_id)
      inputs = tokenizer(text, { add_special_tokens: false });
    const stop = new InterruptableStoppingCriteria();
    signal.addEventListener("abort", () => stop.interrupt());
    await network.generate({
      ...inputs,
      past_key_values: emptyCache(network.sessions.model, model.head_size),
      max_new_tokens: Math.min(tokens, model.context - inputs.input_ids.dims.at(-1)),
      do_sample: temperature > 0,
      ...(temperature > 0 ? { temperature } : {}),
      stopping_criteria: stop,
      streamer: new TextStreamer(tokenizer, {
        skip_prompt: true,
        skip_special_tokens: true,
        callback_function: show,
      }),
    });
  }
  return { write };
}

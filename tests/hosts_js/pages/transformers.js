// What the tests ask of transformers.js, in Node as in a page: an export's folder, and no option but the device.

/** Continue batches of prompts greedily with a model's own generate(); return the same as greedy() of ort.js. */
export async function runModel(transformers, { name, device, batches, steps }) {
  const { AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList, Tensor } = transformers;
  class Recorder extends LogitsProcessor {
    logits = [];
    _call(_, logits) {
      this.logits.push(logits.tolist());
      return logits;
    }
  }
  const model = await AutoModelForCausalLM.from_pretrained(name, { device });
  const results = [];
  for (const batch of batches) {
    const width = Math.max(...batch.map((ids) => ids.length));
    const padded = (row) => batch.map((ids) => [...Array(width - ids.length).fill(0), ...row(ids)]);
    const int64 = (rows) => new Tensor("int64", BigInt64Array.from(rows.flat(), BigInt), [batch.length, width]);
    const recorder = new Recorder();
    const processors = new LogitsProcessorList();
    processors.push(recorder);
    const { sequences, past_key_values } = await model.generate({
      input_ids: int64(padded((ids) => ids)),
      attention_mask: int64(padded((ids) => ids.map(() => 1))),
      max_new_tokens: steps,
      do_sample: false,
      logits_processor: processors,
      return_dict_in_generate: true,
    });
    const locations = [...new Set(Object.values(past_key_values).map(({ location }) => location))];
    await past_key_values.dispose();
    const ids = sequences.tolist().map((row) => row.slice(width).map(Number));
    results.push({ ids, logits: recorder.logits, locations });
  }
  await model.dispose();
  return { version: transformers.env.version, results };
}

/** Call pipeline("text-generation") as a page would, with a text or a chat's messages for each of `prompts`. */
export async function runPipeline(transformers, { name, device, prompts, newTokens }) {
  const generator = await transformers.pipeline("text-generation", name, device && { device });
  const texts = [];
  for (const prompt of prompts) {
    const [{ generated_text: text }] = await generator(prompt, { max_new_tokens: newTokens, do_sample: false });
    texts.push(text);
  }
  await generator.dispose();
  return { texts };
}

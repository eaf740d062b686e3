// Decodes what the page sends, away from the page's own thread. A model's weights are fetched with the first file of it.
"use strict";
importScripts("ccm.js");

const fetched = async (name) => {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name}: ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
};

// Promises of codecs, each with one model open, by the model's fingerprint; the compiled program is kept by the browser.
const codecs = new Map();

const opened = async (model) => {
  const codec = await CCM.load(await program());
  const weights = await fetched(`weights/${model}.safetensors`).catch((error) => {
    throw new Error(`written with the model ${model}, which this page does not have (${error.message})`);
  });
  codec.open(weights);
  return codec;
};

let bytes;
const program = () => (bytes ??= fetched("ccm.wasm").catch((error) => { bytes = undefined; throw error; }));

// Reads what a file's header says; has no model.
let reader;

onmessage = async ({data: {id, file}}) => {
  try {
    const data = new Uint8Array(file);
    reader ??= await CCM.load(await program());
    const model = reader.modelOf(data);
    if (!codecs.has(model)) {
      const codec = opened(model);
      codecs.set(model, codec);
      codec.catch(() => codecs.delete(model));
    }
    const picture = (await codecs.get(model)).decode(data);
    postMessage({id, picture}, [picture.pixels.buffer]);
  } catch (error) {
    postMessage({id, error: error.message});
  }
};

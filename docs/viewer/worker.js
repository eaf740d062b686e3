// Decodes what the page sends, away from the page's own thread. The weights are fetched once, with the first file.
"use strict";
importScripts("ccm.js");

const fetched = async (name) => {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name}: ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
};

let codec;
const load = async () => CCM.load(await fetched("ccm.wasm"), await fetched("weights.safetensors"));

onmessage = async ({data: {id, file}}) => {
  try {
    codec ??= load().catch((error) => { codec = undefined; throw error; });
    const picture = (await codec).decode(new Uint8Array(file));
    postMessage({id, picture}, [picture.pixels.buffer]);
  } catch (error) {
    postMessage({id, error: error.message});
  }
};

// The codec as a module: ccm.wasm needs nothing of its surroundings but memory.
//
//   const codec = await CCM.load(bytesOfWasm);
//   codec.open(bytesOfWeights);  // of the model codec.modelOf(bytesOfFile), 16 hexadecimal digits
//   const {width, height, quality, pixels, latents} = codec.decode(bytesOfFile);
//
// pixels: Uint8ClampedArray, RGBA; latents: SHA-256 of the file's latents, as hexadecimal digits. Bytes are
// Uint8Arrays. Files that do not decode throw an Error with the library's message.
"use strict";

const CCM = {
  async load(wasm) {
    const module = await WebAssembly.compile(wasm);
    // What the C library would ask an operating system for. Nothing here needs it.
    const imports = {};
    for (const {module: from, name, kind} of WebAssembly.Module.imports(module)) {
      if (kind !== "function") throw new Error(`ccm.wasm wants ${from}.${name}`);
      imports[from] ??= {};
      imports[from][name] = name === "proc_exit" ? () => { throw new Error("ccm.wasm has stopped"); } : () => 0;
    }
    const {exports} = await WebAssembly.instantiate(module, imports);
    exports._initialize?.();
    return new CCM.Codec(exports);
  },

  Codec: class {
    constructor(exports) { this.exports = exports; }

    text(pointer) {
      const memory = new Uint8Array(this.exports.memory.buffer);
      return new TextDecoder().decode(memory.slice(pointer, memory.indexOf(0, pointer)));
    }

    // A function of (bytes, size) that returns a status.
    call(f, bytes) {
      const at = this.exports.ccm_web_alloc(bytes.length);
      if (!at) throw new Error("not enough memory");
      new Uint8Array(this.exports.memory.buffer).set(bytes, at);
      const status = f(at, bytes.length);
      this.exports.ccm_web_free(at);
      if (status) throw new Error(this.text(this.exports.ccm_web_error()));
    }

    open(weights) { this.call(this.exports.ccm_web_open, weights); }

    modelOf(file) {
      this.call(this.exports.ccm_web_model_of, file);
      return this.text(this.exports.ccm_web_fingerprint());
    }

    decode(file) {
      const e = this.exports, start = performance.now();
      this.call(e.ccm_web_decode, file);
      const milliseconds = performance.now() - start;
      const width = e.ccm_web_width(), height = e.ccm_web_height(), at = e.ccm_web_pixels();
      const pixels = new Uint8ClampedArray(e.memory.buffer.slice(at, at + 4 * width * height));
      this.call(e.ccm_web_hash, file);
      const latents = this.text(e.ccm_web_latents());
      return {width, height, quality: e.ccm_web_quality(), pixels, latents, milliseconds};
    }
  },
};

if (typeof module !== "undefined") module.exports = CCM;

// @FILE@ in a browser: npm install @litertjs/core
// Input "@INPUT@" @INPUT_TYPE@ @INPUT_SHAPE@, output "@OUTPUT@" @OUTPUT_TYPE@ @OUTPUT_SHAPE@, channels last.
import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";

const mean = [@MEAN@], std = [@STD@]; // of @RAW@

export async function open(url = "@FILE@", wasm = "/node_modules/@litertjs/core/wasm/") {
  await loadLiteRt(wasm);
  return loadAndCompile(url, { accelerator: "wasm" });
}

// `raw` holds @INPUT_COUNT@ values, channels last; the result @OUTPUT_COUNT@.
export async function run(model, raw) {
  const input = @INPUT_JS@.from(raw, (it, i) => {
    const value = (it - mean[i % @CHANNELS@]) / std[i % @CHANNELS@];
    return @ENCODE_JS@;
  });
  const [output] = await model.run([new Tensor(input, @INPUT_SHAPE@)]);
  return Float32Array.from(await output.data(), (code) => @DECODE_JS@);
}

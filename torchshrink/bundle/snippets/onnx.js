// @FILE@ in a browser or Node: npm install onnxruntime-web (onnxruntime-node)
// Input "@INPUT@" float32 @INPUT_SHAPE@, output "@OUTPUT@" float32 @OUTPUT_SHAPE@, channels first.
import * as ort from "onnxruntime-web";

const mean = [@MEAN@], std = [@STD@]; // of @RAW@

export function open(url = "@FILE@") {
  return ort.InferenceSession.create(url, { executionProviders: ["wasm"] });
}

// `raw` holds @INPUT_COUNT@ values, channels first; the result @OUTPUT_COUNT@.
export async function run(session, raw) {
  const plane = raw.length / @CHANNELS@;
  const input = Float32Array.from(raw, (it, i) => (it - mean[Math.floor(i / plane)]) / std[Math.floor(i / plane)]);
  const found = await session.run({ "@INPUT@": new ort.Tensor("float32", input, @INPUT_SHAPE@) });
  return found["@OUTPUT@"].data;
}

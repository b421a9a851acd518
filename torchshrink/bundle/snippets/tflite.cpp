// @FILE@ in the TFLite C library: c++ -std=c++17 model.cpp -ltensorflowlite_c
// Input "@INPUT@" @INPUT_TYPE@ @INPUT_SHAPE@, output "@OUTPUT@" @OUTPUT_TYPE@ @OUTPUT_SHAPE@, channels last.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "tensorflow/lite/c/c_api.h"

constexpr int kChannels = @CHANNELS@;
constexpr float kMean[] = {@MEAN@}, kStd[] = {@STD@};  // of @RAW@
constexpr float kInScale = @INPUT_SCALE@, kOutScale = @OUTPUT_SCALE@;
constexpr int kInZero = @INPUT_ZERO@, kOutZero = @OUTPUT_ZERO@;

@INPUT_CPP@ encode(float raw, int channel) {
  float value = (raw - kMean[channel]) / kStd[channel];
  return @ENCODE_CPP@;
}

float decode(@OUTPUT_CPP@ code) { return @DECODE_CPP@; }

// `raw` holds @INPUT_COUNT@ values, channels last; the result @OUTPUT_COUNT@.
std::vector<float> run(TfLiteInterpreter* interpreter, const std::vector<float>& raw) {
  std::vector<@INPUT_CPP@> input(raw.size());
  for (size_t i = 0; i < raw.size(); ++i) input[i] = encode(raw[i], i % kChannels);
  TfLiteTensorCopyFromBuffer(TfLiteInterpreterGetInputTensor(interpreter, 0), input.data(), input.size() * sizeof(input[0]));
  TfLiteInterpreterInvoke(interpreter);
  std::vector<@OUTPUT_CPP@> output(@OUTPUT_COUNT@);
  TfLiteTensorCopyToBuffer(TfLiteInterpreterGetOutputTensor(interpreter, 0), output.data(), output.size() * sizeof(output[0]));
  std::vector<float> found(output.size());
  std::transform(output.begin(), output.end(), found.begin(), decode);
  return found;
}

TfLiteInterpreter* open() {
  TfLiteModel* model = TfLiteModelCreateFromFile("@FILE@");
  TfLiteInterpreterOptions* options = TfLiteInterpreterOptionsCreate();
  TfLiteInterpreterOptionsSetNumThreads(options, 1);
  TfLiteInterpreter* interpreter = TfLiteInterpreterCreate(model, options);
  TfLiteInterpreterAllocateTensors(interpreter);
  return interpreter;
}
